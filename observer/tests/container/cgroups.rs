//! The cgroups of pods in every hierarchy that is mounted, of version 1 and 2.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::Pid;

use crate::support::{cgroup, poll::poll};

/// How long the kernel may take to empty a cgroup whose processes have ended.
const EMPTY: Duration = Duration::from_secs(10);

/// How a kubelet names the cgroups of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Driver {
    /// Directories of its own.
    Cgroupfs,
    /// Slices of systemd. A runtime that does not use systemd, as where there is none, takes the last part only.
    Systemd,
}

impl Driver {
    /// The cgroup that a kubelet wants all containers of a burstable pod in.
    pub(crate) fn parent(self, uid: &str) -> String {
        match self {
            Self::Cgroupfs => format!("/kubepods/burstable/pod{uid}"),
            Self::Systemd => {
                let uid = uid.replace('-', "_");
                let burstable = "/kubepods.slice/kubepods-burstable.slice";
                format!("{burstable}/kubepods-burstable-pod{uid}.slice")
            }
        }
    }
}

/// Where the hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = mounts.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup").then(|| point.into())
    });
    points.collect()
}

/// The cgroups whose name has a part, the innermost first.
fn named(part: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, is: &impl Fn(&str) -> bool, inside: bool, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let inside = inside || entry.file_name().to_str().is_some_and(is);
                walk(&entry.path(), is, inside, found);
                found.extend(inside.then(|| entry.path()));
            }
        }
    }
    let mut found = Vec::new();
    for root in hierarchies() {
        walk(&root, &|name| name.contains(part), false, &mut found);
    }
    found
}

/// All cgroups of a pod, the innermost first.
pub(crate) fn of_pod(uid: &str) -> Vec<PathBuf> {
    let mut all = named(uid);
    all.extend(named(&uid.replace('-', "_")));
    all
}

/// The processes in cgroups.
pub(crate) fn processes(cgroups: &[PathBuf]) -> Vec<Pid> {
    let lists =
        cgroups.iter().filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
    let mut pids: Vec<_> = lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(Pid::from_raw).collect()
}

/// The cgroup of a container in the tree that the observer reads.
pub(crate) fn of_container(id: &str) -> PathBuf {
    let mut cgroups = named(id).into_iter().filter(|path| path.starts_with(&*cgroup::ROOT));
    cgroups.next().expect("a running container has a cgroup")
}

/// Removes what is left of a pod, in each hierarchy, as a kubelet does: the runtime removes only what is a container's.
pub(crate) fn remove_pod(uid: &str) {
    let gone = poll(EMPTY, || {
        let staying = of_pod(uid).into_iter().filter(|path| fs::remove_dir(path).is_err()).count();
        (staying == 0).then_some(())
    });
    if gone.is_none() {
        eprintln!("cgroups of the pod {uid} could not be removed");
    }
    for root in hierarchies() {
        // Those of a kubelet are in use, and cannot be removed.
        let _ = fs::remove_dir(root.join("kubepods/burstable"));
        let _ = fs::remove_dir(root.join("kubepods"));
    }
}
