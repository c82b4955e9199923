//! Cgroups shaped like those that a kubelet and containerd make.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{cgroup, cmd};

/// How long processes may take to leave a cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// The namespace of the demo's pods.
pub(super) const NAMESPACE: &str = "shop";

/// The cgroups of the demo; they go when this does.
pub(crate) struct Pods {
    parent: PathBuf,
    made: Cell<u32>,
}

/// A pod with one container.
pub(crate) struct Pod {
    /// What the demo calls it.
    pub(crate) name: &'static str,
    /// Its UID, by which the daemon knows it until an API server gives names.
    pub(crate) uid: String,
    number: u32,
    cgroup: PathBuf,
}

impl Pods {
    /// Below `name` at the root of the v2 tree; a kubelet of this machine would take pods in its
    /// own place for orphans and remove them.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let parent = cgroup::root()?.join(name);
        // One that was killed has left it.
        cgroup::remove(&parent, Duration::ZERO)
            .with_context(|| format!("another one seems to use {}", parent.display()))?;
        Ok(Self { parent, made: Cell::new(0) })
    }

    pub(crate) fn create(&self, name: &'static str) -> Result<Pod> {
        let number = self.made.get() + 1;
        self.made.set(number);
        let uid = format!("0b5e77e5-0000-4000-8000-{number:012}");
        let cgroup = self.parent.join(container_path(&uid, number));
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("making the cgroup {}", cgroup.display()))?;
        Ok(Pod { name, uid, number, cgroup })
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        if let Err(error) = cgroup::remove(&self.parent, PATIENCE) {
            cmd::say("!", &format!("cannot remove {}: {error}", self.parent.display()));
        }
    }
}

impl Pod {
    /// One without a cgroup.
    #[cfg(test)]
    pub(super) fn named(name: &'static str, uid: &str, number: u32) -> Self {
        Self { name, uid: uid.to_owned(), number, cgroup: PathBuf::new() }
    }

    /// The id of its container.
    pub(super) fn container(&self) -> String {
        container_id(self.number)
    }

    /// A command that runs inside the pod from its first instruction on: its sockets belong to
    /// the cgroup in which they are made.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = cmd::command("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.cgroup.join("cgroup.procs")).arg(program);
        command
    }
}

/// Where the kubelet's systemd driver and containerd put a container of a best-effort pod.
fn container_path(uid: &str, number: u32) -> String {
    let uid = uid.replace('-', "_");
    format!(
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/\
         cri-containerd-{}.scope",
        container_id(number)
    )
}

fn container_id(number: u32) -> String {
    format!("{number:064x}")
}

#[cfg(test)]
mod tests {
    use super::container_path;

    #[test]
    fn a_container_has_the_path_that_a_kubelet_gives_it() {
        let path = container_path("0b5e77e5-0000-4000-8000-000000000001", 1);
        let (slice, scope) = path.rsplit_once('/').unwrap();
        assert!(
            slice.ends_with("/kubepods-besteffort-pod0b5e77e5_0000_4000_8000_000000000001.slice")
        );
        assert_eq!(scope.len(), "cri-containerd-.scope".len() + 64);
    }
}
