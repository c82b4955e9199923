//! Keeps [`Names`] as the API server has them: the only user of the crate kube.
//!
//! - `object` reads a pod, and of it only what names need: no environment, no annotation but two of the kubelet's and
//!   the one that is meant for it, no label but one, is ever kept in memory.
//! - `watch` lists and watches the pods of one node, for ever, with growing pauses after errors.
//!
//! What it needs of the API server is `list` and `watch` of `pods` in all namespaces (`get` is not used, but customary
//! with them), and nothing else:
//!
//! ```yaml
//! apiVersion: rbac.authorization.k8s.io/v1
//! kind: ClusterRole
//! metadata: { name: observer }
//! rules:
//!   - { apiGroups: [""], resources: [pods], verbs: [get, list, watch] }
//! ```
//!
//! RBAC cannot tell nodes apart: the role allows to read the pods of all of them, though only those of one are asked
//! for (`spec.nodeName`). `--kube auto` also needs the service account's token in the pod
//! (`automountServiceAccountToken`, or a projected volume at the usual place), the address of the API server in
//! `KUBERNETES_SERVICE_HOST` and `_PORT`, which the kubelet sets, and the node's name in `NODE_NAME`
//! (`fieldRef: spec.nodeName`). A network policy must let it reach the API server.

mod object;
mod watch;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use kube::config::{InClusterError, Kubeconfig, KubeconfigError};
use thiserror::Error;

use crate::{attribute::Names, cli::KubeOption};

/// Where an API server is, and how to be let in. Shows the former only.
pub struct Source {
    config: kube::Config,
    how: How,
}

#[derive(Debug)]
enum How {
    InCluster,
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::InCluster => write!(f, "service account, {}", self.config.cluster_url),
            How::File(path) => write!(f, "{}, {}", path.display(), self.config.cluster_url),
        }
    }
}

/// Why pods go by their UID, without that being an error.
#[derive(Debug, Error)]
pub enum Nameless {
    /// `--kube off`.
    #[error("as asked for by --kube off")]
    Off,
    /// `--kube auto` outside a cluster.
    #[error("this is no pod: KUBERNETES_SERVICE_HOST is not set")]
    NotInCluster,
    /// `--kube auto` in a pod without a service account.
    #[error("this pod has no service account: {0}")]
    NoServiceAccount(InClusterError),
}

/// The kubeconfig that was given cannot be used.
#[derive(Debug, Error)]
#[error("--kube {}: {reason}", path.display())]
pub struct SourceError {
    path: PathBuf,
    /// Not the error's `source`, which would be printed once more.
    reason: Box<KubeconfigError>,
}

/// The client cannot be made: a certificate or key that is none.
#[derive(Debug, Error)]
#[error("cannot make a client of the API server: {0}")]
pub struct ClientError(kube::Error);

/// Finds out where the API server is; asks nobody yet.
pub fn source(option: &KubeOption) -> Result<Result<Source, Nameless>, SourceError> {
    match option {
        KubeOption::Off => Ok(Err(Nameless::Off)),
        KubeOption::Auto if env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            Ok(Err(Nameless::NotInCluster))
        }
        KubeOption::Auto => Ok(kube::Config::incluster()
            .map(|config| Source { config, how: How::InCluster })
            .map_err(Nameless::NoServiceAccount)),
        KubeOption::File(path) => from_file(path)
            .map(Ok)
            .map_err(|reason| SourceError { path: path.clone(), reason: Box::new(reason) }),
    }
}

fn from_file(path: &Path) -> Result<Source, KubeconfigError> {
    let config = kube::Config::try_from(Kubeconfig::read_from(path)?)?;
    Ok(Source { config, how: How::File(path.to_owned()) })
}

/// Starts to keep `names` up to date with the pods of `node`, until the returned task is aborted. To be called within
/// the runtime.
///
/// # Errors
/// If what the source says to be let in with cannot be used.
pub fn start(
    source: Source,
    node: &str,
    names: Arc<Mutex<Names>>,
) -> Result<tokio::task::JoinHandle<()>, ClientError> {
    let client = watch::client(source.config, &names).map_err(ClientError)?;
    Ok(tokio::spawn(watch::keep(client, node.to_owned(), names)))
}
