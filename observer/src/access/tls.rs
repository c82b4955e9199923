//! TLS of the endpoints. A handshake is bounded in time, and handshakes are in number: who begins many and ends none is in
//! the way of nobody but himself.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tracing::debug;

use super::{Access, AccessError, refused};

/// The options, and what their files are.
pub(super) const CHAIN: &str = "--tls-cert";
pub(super) const CHAIN_IS: &str = "give a certificate and those that lead to its authority, in PEM";
pub(super) const KEY: &str = "--tls-key";
pub(super) const KEY_IS: &str = "give the private key of the certificate, in PEM and not encrypted";
pub(super) const CLIENT_CA: &str = "--tls-client-ca";
pub(super) const CLIENT_CA_IS: &str = "give the certificates of the authorities of clients, in PEM";

/// How long a handshake may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How many may be under way: some 20 KiB each.
pub(super) const HANDSHAKES: usize = 128;

/// Puts the files together, each with its bytes.
pub(super) fn config(
    (chain_path, chain): (&Path, &[u8]),
    (key_path, key): (&Path, &[u8]),
    client_ca: Option<(&Path, &[u8])>,
) -> Result<ServerConfig, AccessError> {
    let chain =
        certificates(chain).map_err(|reason| refused(CHAIN, chain_path, reason, CHAIN_IS))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| refused(KEY, key_path, error.to_string(), KEY_IS))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(CHAIN, chain_path, error.to_string(), CHAIN_IS))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some((path, bytes)) => {
            let wrong = |reason: String| refused(CLIENT_CA, path, reason, CLIENT_CA_IS);
            let mut roots = RootCertStore::empty();
            for authority in certificates(bytes).map_err(wrong)? {
                roots.add(authority).map_err(|error| wrong(error.to_string()))?;
            }
            // Who shows none gets as far as the probes.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refused(KEY, key_path, error.to_string(), KEY_IS))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(certificates)
}

/// What is known of a client by its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it has shown a certificate, which then is of a known authority.
    pub has_certificate: bool,
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, session) = stream.io().get_ref();
        Self { has_certificate: session.peer_certificates().is_some() }
    }
}

/// Gives out connections whose handshake is done.
pub struct TlsListener {
    listener: TcpListener,
    access: Arc<Access>,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    /// Those under way, the oldest first.
    under_way: VecDeque<(IpAddr, AbortHandle)>,
}

impl TlsListener {
    /// Speaks TLS, as the rules say at each handshake, on what `listener` accepts.
    #[must_use]
    pub fn new(listener: TcpListener, access: Arc<Access>) -> Self {
        Self { listener, access, handshakes: JoinSet::new(), under_way: VecDeque::new() }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        let Some(config) = self.access.rules().tls.clone() else { return };
        self.make_room();
        let handshake = timeout(PATIENCE, TlsAcceptor::from(config).accept(stream));
        let handshake = self.handshakes.spawn(async move {
            match handshake.await {
                Ok(Ok(stream)) => return Some((stream, address)),
                Ok(Err(error)) => debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => debug!(%address, "a TLS handshake took too long"),
            }
            None
        });
        self.under_way.push_back((address.ip(), handshake));
    }

    /// If there are too many, the oldest of the address that has most of them ends.
    fn make_room(&mut self) {
        self.under_way.retain(|(_, handshake)| !handshake.is_finished());
        if self.under_way.len() < HANDSHAKES {
            return;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (address, _) in &self.under_way {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let oldest = self.under_way.iter().position(|(ip, _)| counts.get(ip).copied() == most);
        if let Some((address, handshake)) = oldest.and_then(|at| self.under_way.remove(at)) {
            debug!(%address, "a TLS handshake gives way to others");
            handshake.abort();
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                // Those that are done first: under a flood of new ones they would wait.
                biased;
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                (stream, address) = Listener::accept(&mut self.listener) => {
                    self.begin(stream, address);
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
