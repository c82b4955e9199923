//! Attribution: from the number the kernel counts by, a cgroup id, to the names on a metric.
//!
//! ```text
//! cgroup id ──CgroupIndex──▶ path ──identify──▶ Identity ──Names──▶ namespace, pod, container
//!                 │ unknown                         │ not a pod: these are the names already
//!                 └──▶ UNATTRIBUTED                 └──▶ runtime + container, systemd + unit, cgroup + path
//! ```
//!
//! - [`identify`] reads one path. It is total: every path has an identity, if only itself.
//! - [`CgroupIndex`] knows the path of every cgroup of this node by its id, and keeps the names of
//!   those that are gone until their last counts are exported. It has containers of Docker and Podman go by the names that
//!   these gave them.
//! - [`Names`] knows what the API server calls the pods.
//! - Nothing is dropped for lack of a name: what no index knows goes to [`UNATTRIBUTED`], what no
//!   table had room for to [`OVERFLOW`].
//!
//! Several cgroups may share one identity (a container and the cgroups nested in it), so whoever
//! exports must fold by identity, never assume one series per cgroup.
//!
//! The paths must be those of the whole hierarchy: inside a cgroup namespace of its own, a daemon
//! sees only its own subtree and has to be given the host's mount.
//!
//! This module is pure: files and strings, neither async runtime, BPF nor Kubernetes client.

#![forbid(unsafe_code)]

use std::sync::{Arc, LazyLock};

mod index;
mod names;
mod number;
mod path;
mod runtimes;

pub use index::CgroupIndex;
pub use names::{Container, Health, Names, Pod, Trouble, Workload};
pub use number::number;
pub use path::identify;

/// What a cgroup belongs to, ready to be used as label values (each at most 253 bytes).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What it is.
    pub kind: Kind,
    /// Empty for the two buckets and for a pod until the API server has named it; otherwise the
    /// runtime (`docker`, `podman`, `containerd`, `crio`, `lxc`, `machine`, `container` if it
    /// cannot be told), `systemd` or `cgroup`.
    pub namespace: String,
    /// The pod's UID until the API server has named it; otherwise the container's name or
    /// short id, the unit's name or the cgroup's path.
    pub pod: String,
    /// The short id of a pod's container. Empty for the pod's own cgroup and all that is no pod.
    pub container: String,
    /// The pod's UID, dashed. A static pod's is the hash of its manifest, 32 hex digits: the API
    /// server keeps that in the annotation `kubernetes.io/config.hash`, not as the object's UID.
    pub pod_uid: Option<String>,
    /// The container's whole id (or name), as the runtime knows it; none where `pod` is the name that its runtime gave it.
    pub container_id: Option<String>,
    /// Who looks after the pod, once the API server has named it.
    pub workload: Option<Arc<Workload>>,
}

/// What a cgroup belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A Kubernetes pod or one of its containers.
    Pod,
    /// A container or virtual machine outside Kubernetes.
    Container,
    /// A systemd unit.
    Unit,
    /// A cgroup of which nothing is known but the path.
    Cgroup,
}

/// Who gets the counts of a cgroup that nobody can name (it lived and died between two walks, or
/// lies outside the tree that can be seen).
pub static UNATTRIBUTED: LazyLock<Arc<Identity>> = LazyLock::new(|| bucket("unattributed"));

/// Who gets the counts that found no room in a table of their own.
pub static OVERFLOW: LazyLock<Arc<Identity>> = LazyLock::new(|| bucket("overflow"));

/// An identity that stands for many cgroups: namespace empty, `name` as the pod.
fn bucket(name: &str) -> Arc<Identity> {
    Arc::new(Identity {
        kind: Kind::Cgroup,
        namespace: String::new(),
        pod: name.to_owned(),
        container: String::new(),
        pod_uid: None,
        container_id: None,
        workload: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_no_path_and_differ() {
        assert_ne!(*UNATTRIBUTED, *OVERFLOW);
        for (bucket, pod) in [(&UNATTRIBUTED, "unattributed"), (&OVERFLOW, "overflow")] {
            assert_eq!((bucket.namespace.as_str(), bucket.pod.as_str()), ("", pod));
            assert_ne!(**bucket, Arc::new(identify(pod)), "a cgroup of that name is another one");
        }
    }
}
