use std::{future::IntoFuture as _, io, net::SocketAddr, time::Instant};

use axum::{Router, middleware::from_fn_with_state, routing::get};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    },
};

use super::*;

const NAME: &str = "observer.test";

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key, both in PEM and for rustls.
struct Certified {
    chain: String,
    key: String,
    der: (CertificateDer<'static>, Vec<u8>),
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, purpose: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: (certificate.der().clone(), key.serialize_der()),
        }
    }

    fn server(&self) -> Certified {
        self.sign(ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self) -> Certified {
        self.sign(ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// What a client needs that believes in this authority, and may have a certificate itself.
    fn trust(&self, own: Option<&Certified>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.der.1.clone()));
                builder.with_client_auth_cert(vec![own.der.0.clone()], key).unwrap()
            }
        })
    }
}

/// The files in a directory of the test's.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn write_server(&self, server: &Certified) -> (PathBuf, PathBuf) {
        (self.write("tls.crt", &server.chain), self.write("tls.key", &server.key))
    }
}

/// Serves two paths with access like that of the metrics and of the probes.
async fn start(access: &Arc<Access>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let guard = from_fn_with_state(Arc::clone(access), guard);
    let router = Router::new()
        .route("/metrics", get(|| async { "numbers\n" }).layer(guard))
        .route("/livez", get(|| async { "ok\n" }));
    if access.has_tls() {
        let listener = TlsListener::new(listener, Arc::clone(access));
        let service = router.into_make_service_with_connect_info::<Peer>();
        tokio::spawn(axum::serve(listener, service).into_future());
    } else {
        tokio::spawn(axum::serve(listener, router).into_future());
    }
    address
}

/// The status of the answer; an error if there is none.
async fn status(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
    header: &str,
) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\n{header}\r\n");
    let mut answer = String::new();
    match tls {
        None => {
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut answer).await?;
        }
        Some(tls) => {
            let name = ServerName::try_from(NAME).unwrap();
            let mut stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_string(&mut answer).await?;
        }
    }
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))
}

#[tokio::test]
async fn tls_is_for_who_trusts_the_authority() {
    let (authority, directory) = (Authority::new(), Directory::new());
    let certificate = Some(directory.write_server(&authority.server()));
    let access = Arc::new(Access::load(Files { certificate, ..Files::default() }).unwrap());
    assert_eq!(access.to_string(), "HTTPS, everybody");
    let address = start(&access).await;
    for path in ["/metrics", "/livez"] {
        assert_eq!(status(address, Some(&authority.trust(None)), path, "").await.unwrap(), 200);
    }
    assert!(status(address, Some(&Authority::new().trust(None)), "/livez", "").await.is_err());
    assert!(status(address, None, "/livez", "").await.is_err(), "no HTTP without TLS");
}

#[tokio::test]
async fn the_metrics_are_for_certified_clients_and_the_probes_for_everybody() {
    let (authority, clients, directory) = (Authority::new(), Authority::new(), Directory::new());
    let files = Files {
        certificate: Some(directory.write_server(&authority.server())),
        client_ca: Some(directory.write("ca.crt", &clients.certificate.pem())),
        tokens: None,
    };
    let access = Arc::new(Access::load(files).unwrap());
    assert_eq!(access.to_string(), "HTTPS, /metrics by client certificate");
    let address = start(&access).await;
    let (nobody, client) = (authority.trust(None), authority.trust(Some(&clients.client())));
    assert_eq!(status(address, Some(&client), "/metrics", "").await.unwrap(), 200);
    assert_eq!(status(address, Some(&nobody), "/metrics", "").await.unwrap(), 403);
    assert_eq!(status(address, Some(&nobody), "/livez", "").await.unwrap(), 200);
    let stranger = authority.trust(Some(&Authority::new().client()));
    assert!(status(address, Some(&stranger), "/livez", "").await.is_err(), "of no authority");
}

#[tokio::test]
async fn the_metrics_are_for_who_has_a_token_with_tls_and_without() {
    let (authority, directory) = (Authority::new(), Directory::new());
    let tokens = Some(directory.write("tokens", "old\nnew\n"));
    let plain = Files { tokens: tokens.clone(), ..Files::default() };
    let certificate = Some(directory.write_server(&authority.server()));
    let secure = Files { certificate, client_ca: None, tokens };
    let trust = authority.trust(None);
    for (files, tls, shown) in [
        (plain, None, "HTTP, /metrics by bearer token"),
        (secure, Some(&trust), "HTTPS, /metrics by bearer token"),
    ] {
        let access = Arc::new(Access::load(files).unwrap());
        assert_eq!(access.to_string(), shown);
        let address = start(&access).await;
        for (path, header, code) in [
            ("/metrics", "Authorization: Bearer new\r\n", 200),
            ("/metrics", "authorization: bearer old\r\n", 200),
            ("/metrics", "Authorization: Bearer newer\r\n", 401),
            ("/metrics", "Authorization: Basic new\r\n", 401),
            ("/metrics", "", 401),
            ("/livez", "", 200),
        ] {
            let got = status(address, tls, path, header).await.unwrap();
            assert_eq!(got, code, "{shown}: {path} {header}");
        }
    }
}

#[tokio::test]
async fn changed_files_hold_from_the_next_request_on_and_bad_ones_never() {
    let (first, second, directory) = (Authority::new(), Authority::new(), Directory::new());
    let files = Files {
        certificate: Some(directory.write_server(&first.server())),
        client_ca: None,
        tokens: Some(directory.write("tokens", "one")),
    };
    let access = Arc::new(Access::load(files).unwrap());
    let address = start(&access).await;
    let (trust_first, trust_second) = (first.trust(None), second.trust(None));
    let (one, two) = ("Authorization: Bearer one\r\n", "Authorization: Bearer two\r\n");
    assert!(!access.reload().unwrap(), "nothing has changed");
    assert_eq!(status(address, Some(&trust_first), "/metrics", one).await.unwrap(), 200);

    // Between the changes of the two files they do not belong together.
    let next = second.server();
    directory.write("tls.crt", &next.chain);
    let error = access.reload().unwrap_err();
    assert!(error.to_string().contains("--tls-key"), "{error}");
    assert_eq!(status(address, Some(&trust_first), "/metrics", one).await.unwrap(), 200);
    directory.write("tls.key", &next.key);
    directory.write("tokens", "two");
    assert!(access.reload().unwrap());
    assert!(status(address, Some(&trust_first), "/metrics", two).await.is_err());
    assert_eq!(status(address, Some(&trust_second), "/metrics", one).await.unwrap(), 401);
    assert_eq!(status(address, Some(&trust_second), "/metrics", two).await.unwrap(), 200);

    directory.write("tokens", "");
    assert!(access.reload().is_err());
    assert_eq!(status(address, Some(&trust_second), "/metrics", two).await.unwrap(), 200);
}

#[test]
fn trouble_is_said_once_and_not_at_the_first_look() {
    let error = |reason| refused("--tls-key", Path::new("/x"), reason, tls::KEY_IS);
    let mut trouble = Trouble::default();
    let said: Vec<bool> = ["a", "a", "a", "b", "b", "a", "a"]
        .map(|reason| trouble.is_to_be_said(&error(reason)))
        .into();
    assert_eq!(said, [false, true, false, false, true, false, true]);
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let (authority, directory) = (Authority::new(), Directory::new());
    let (server, other) = (authority.server(), authority.server());
    let chain = directory.write("chain.pem", &server.chain);
    let key = directory.write("key.pem", &server.key);
    let other = directory.write("other.pem", &other.key);
    let empty = directory.write("empty", "");
    let nonsense = directory.write(
        "nonsense.pem",
        "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n",
    );
    let missing = directory.0.path().join("missing");
    let tls = |chain: &PathBuf, key: &PathBuf, client_ca: Option<&PathBuf>| Files {
        certificate: Some((chain.clone(), key.clone())),
        client_ca: client_ca.cloned(),
        tokens: None,
    };
    assert!(Access::load(tls(&chain, &key, Some(&chain))).is_ok());
    let tokens = |path: &PathBuf| Files { tokens: Some(path.clone()), ..Files::default() };
    for (files, option, path) in [
        (tls(&missing, &key, None), "--tls-cert", &missing),
        (tls(&empty, &key, None), "--tls-cert", &empty),
        (tls(&key, &key, None), "--tls-cert", &key),
        (tls(&chain, &missing, None), "--tls-key", &missing),
        (tls(&chain, &chain, None), "--tls-key", &chain),
        (tls(&chain, &other, None), "--tls-key", &other),
        (tls(&chain, &key, Some(&missing)), "--tls-client-ca", &missing),
        (tls(&chain, &key, Some(&empty)), "--tls-client-ca", &empty),
        (tls(&chain, &key, Some(&nonsense)), "--tls-client-ca", &nonsense),
        (tokens(&missing), "--bearer-token-file", &missing),
        (tokens(&empty), "--bearer-token-file", &empty),
    ] {
        let error = Access::load(files).err().map(|error| error.to_string()).unwrap_or_default();
        let path = path.display().to_string();
        assert!(error.contains(option) && error.contains(&path), "{option} {path}: {error:?}");
        assert!(error.contains("; give ") && !error.contains('\n'), "{error:?}");
    }
}

/// A connection that says nothing, or not enough, is over when the daemon closes it.
async fn over(mut stream: TcpStream) {
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn half_a_handshake_ends_in_time_and_is_in_nobodys_way() {
    let (authority, directory) = (Authority::new(), Directory::new());
    let certificate = Some(directory.write_server(&authority.server()));
    let access = Arc::new(Access::load(Files { certificate, ..Files::default() }).unwrap());
    let address = start(&access).await;
    let trust = authority.trust(None);
    let began = Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    let all = 3 * tls::HANDSHAKES;
    for number in 0..all {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            // A record of 512 bytes is announced, and never comes.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        ends.spawn(over(stream));
    }
    let asked = Instant::now();
    assert_eq!(status(address, Some(&trust), "/livez", "").await.unwrap(), 200);
    assert!(asked.elapsed() < tls::PATIENCE / 2, "{:?}", asked.elapsed());

    // Bounded in number: what is too much has gone before its time.
    for _ in tls::HANDSHAKES..all {
        ends.join_next().await;
    }
    let early = began.elapsed();
    assert!(early < tls::PATIENCE, "{early:?}");
    // And in time.
    while ends.join_next().await.is_some() {}
    assert!(began.elapsed() < 2 * tls::PATIENCE, "{:?}", began.elapsed());
}
