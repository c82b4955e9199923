//! Who may read the endpoints: TLS, certificates of clients, and bearer tokens; all of it off unless it is asked for.
//!
//! ```text
//!   files ─▶ Rules ─┬─▶ tls        handshakes, bounded in number and time
//!             ▲     └─▶ guard      /metrics: a client certificate, a token
//!             └ read again when the files change
//! ```
//!
//! The paths of the probes answer everybody: a kubelet shows neither certificate nor token.

mod guard;
mod tls;
mod tokens;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use thiserror::Error;
use tokio::time::MissedTickBehavior;
use tokio_rustls::rustls::ServerConfig;
use tracing::{info, warn};

pub use guard::guard;
pub use tls::{Peer, TlsListener};

use tokens::Tokens;

/// How often the files are looked at. Not by events: a secret that a kubelet mounts is changed by renaming a symbolic link
/// two directories above.
const LOOK: Duration = Duration::from_secs(1);

/// Where it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Certificate chain and private key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// The tokens.
    pub tokens: Option<PathBuf>,
}

/// What is in one of the files cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot use {path}, given with {option}: {reason}; {remedy}")]
pub struct AccessError {
    /// The option that names it.
    option: &'static str,
    /// The file.
    path: PathBuf,
    /// What is wrong.
    reason: String,
    /// What it should be.
    remedy: &'static str,
}

/// What the files say.
struct Rules {
    tls: Option<Arc<ServerConfig>>,
    tokens: Option<Tokens>,
}

/// The bytes of the files, to see whether they have changed.
#[derive(PartialEq, Eq)]
struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
    tokens: Vec<u8>,
}

/// What holds now.
pub struct Access {
    files: Files,
    rules: RwLock<(Arc<Rules>, Arc<Contents>)>,
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// If one cannot be read or used.
    pub fn load(files: Files) -> Result<Self, AccessError> {
        let contents = Contents::read(&files)?;
        let rules = Rules::new(&files, &contents)?;
        let rules = RwLock::new((Arc::new(rules), Arc::new(contents)));
        Ok(Self { files, rules })
    }

    /// Whether the endpoints speak TLS; that never changes.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.files.certificate.is_some()
    }

    /// Whether it takes a client's certificate to read the metrics.
    fn wants_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    fn rules(&self) -> Arc<Rules> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&rules.0)
    }

    /// Looks at the files again; whether they have changed.
    fn reload(&self) -> Result<bool, AccessError> {
        let contents = Contents::read(&self.files)?;
        let known = {
            let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&rules.1)
        };
        if *known == contents {
            return Ok(false);
        }
        let rules = Rules::new(&self.files, &contents)?;
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) =
            (Arc::new(rules), Arc::new(contents));
        Ok(true)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.has_tls() { "HTTPS" } else { "HTTP" })?;
        let conditions = [
            (self.wants_certificates(), "client certificate"),
            (self.files.tokens.is_some(), "bearer token"),
        ];
        let mut conditions = conditions.iter().filter(|(is, _)| *is).map(|(_, what)| what);
        match (conditions.next(), conditions.next()) {
            (None, _) => f.write_str(", everybody"),
            (Some(one), None) => write!(f, ", /metrics by {one}"),
            (Some(one), Some(other)) => write!(f, ", /metrics by {one} and {other}"),
        }
    }
}

/// Follows changes of the files. Never ends, unless there are none.
pub async fn follow(access: Arc<Access>) {
    if access.files == Files::default() {
        return;
    }
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = Trouble::default();
    loop {
        interval.tick().await;
        let looking = Arc::clone(&access);
        match tokio::task::spawn_blocking(move || looking.reload()).await {
            Ok(Ok(changed)) => {
                trouble = Trouble::default();
                if changed {
                    info!(%access, "certificates and tokens have changed and were read again");
                }
            }
            Ok(Err(error)) => {
                if trouble.is_to_be_said(&error) {
                    warn!(%error, "certificates and tokens stay as they were");
                }
            }
            Err(error) => warn!(%error, "cannot look at the files of certificates and tokens"),
        }
    }
}

/// What is wrong with the files is said once, and not at the first look: certificate and key are two files, and between
/// the change of one and that of the other they do not belong together.
#[derive(Default)]
struct Trouble {
    last: Option<AccessError>,
    said: bool,
}

impl Trouble {
    fn is_to_be_said(&mut self, error: &AccessError) -> bool {
        if self.last.as_ref() != Some(error) {
            *self = Self { last: Some(error.clone()), said: false };
            return false;
        }
        !std::mem::replace(&mut self.said, true)
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, AccessError> {
        let read = |file: Option<&Path>, option, remedy| {
            file.map_or(Ok(Vec::new()), |path| {
                fs::read(path).map_err(|error| refused(option, path, error.to_string(), remedy))
            })
        };
        let certificate = files.certificate.as_ref();
        let chain = certificate.map(|(chain, _)| chain.as_path());
        let key = certificate.map(|(_, key)| key.as_path());
        Ok(Self {
            chain: read(chain, tls::CHAIN, tls::CHAIN_IS)?,
            key: read(key, tls::KEY, tls::KEY_IS)?,
            client_ca: read(files.client_ca.as_deref(), tls::CLIENT_CA, tls::CLIENT_CA_IS)?,
            tokens: read(files.tokens.as_deref(), tokens::OPTION, tokens::IS)?,
        })
    }
}

impl Rules {
    fn new(files: &Files, contents: &Contents) -> Result<Self, AccessError> {
        let tls = files.certificate.as_ref().map(|(chain, key)| {
            let client_ca = files.client_ca.as_deref().map(|path| (path, &contents.client_ca[..]));
            tls::config((chain, &contents.chain), (key, &contents.key), client_ca).map(Arc::new)
        });
        let tokens = files.tokens.as_deref().map(|path| {
            Tokens::parse(&contents.tokens)
                .map_err(|reason| refused(tokens::OPTION, path, reason, tokens::IS))
        });
        Ok(Self { tls: tls.transpose()?, tokens: tokens.transpose()? })
    }
}

fn refused(
    option: &'static str,
    path: &Path,
    reason: impl Into<String>,
    remedy: &'static str,
) -> AccessError {
    AccessError { option, path: path.to_owned(), reason: reason.into(), remedy }
}

#[cfg(test)]
mod tests;
