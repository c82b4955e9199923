//! What this machine allows, found out before anything is attached: by looking for the thing itself (BTF, mounts,
//! capabilities), not by version numbers.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Something mandatory is missing; the text names the remedy.
#[derive(Debug, Error)]
#[error("{what}; {remedy}")]
pub struct Refusal {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// How cgroup v2 is mounted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupLayout {
    /// v2 is the only hierarchy.
    Unified,
    /// v1 hierarchies hold the controllers, the v2 tree stands beside them.
    Hybrid,
}

impl fmt::Display for CgroupLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unified => "unified",
            Self::Hybrid => "hybrid: controllers on v1",
        })
    }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks that this process may load and attach BPF programs.
pub fn privileges() -> Result<(), Refusal> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(effective_capabilities(&status));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        format!("this process may not load BPF programs: it lacks {}", missing.join(", ")),
        "run it as root, or give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
    ))
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |cap: u32| effective & (1 << cap) != 0;
    // CAP_SYS_ADMIN contains the two younger ones, but not CAP_NET_ADMIN.
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")]
        .into_iter()
        .filter(|&(cap, _)| !has(cap) && (cap == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

/// Finds the root of the cgroup-v2 tree, or checks the one that is given.
pub fn cgroup_root(given: Option<&Path>) -> Result<(PathBuf, CgroupLayout), Refusal> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let layout = if mount_points(&mounts, "cgroup").is_empty() {
        CgroupLayout::Unified
    } else {
        CgroupLayout::Hybrid
    };
    if let Some(given) = given {
        // Where v1 and v2 stand side by side, v2 is a directory among the v1 hierarchies: one path fits all nodes.
        let trees = [given.to_owned(), given.join("unified")];
        let is_tree = |path: &PathBuf| {
            is_cgroup2(path) && fs_type(&mounts, path).as_deref() == Some("cgroup2")
        };
        return trees.into_iter().find(is_tree).map(|path| (path, layout)).ok_or_else(|| {
            Refusal::new(
                format!("{} is no cgroup-v2 tree", given.display()),
                "give the mount point of one with --cgroup-root (see `mount -t cgroup2`)",
            )
        });
    }
    mount_points(&mounts, "cgroup2")
        .into_iter()
        .find(|path| is_cgroup2(path))
        .map(|path| (path, layout))
        .ok_or_else(|| {
            Refusal::new(
                "no cgroup-v2 tree is mounted",
                "mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or boot with systemd.unified_cgroup_hierarchy=1",
            )
        })
}

/// The mount points of a file system type, in the order of the mount table (`proc_pid_mountinfo(5)`).
fn mount_points(mountinfo: &str, fs_type: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            (rest.split(' ').next()? == fs_type).then(|| mount.split(' ').nth(4)).flatten()
        })
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .collect()
}

/// The type of the file system that `path` lies on, by the mount table.
fn fs_type(mountinfo: &str, path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        path.starts_with(&point).then(|| (point.len(), rest.split(' ').next()))
    });
    // The deepest, and of several on the same directory the last: it covers the others.
    mounts.max_by_key(|(depth, _)| *depth)?.1.map(str::to_owned)
}

/// Every cgroup-v2 directory has these files; so may others.
fn is_cgroup2(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && path.join("cgroup.subtree_control").exists()
}

/// Where the kernel shows its own BTF.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Checks that the kernel shows its type information.
pub fn btf() -> Result<(), Refusal> {
    match fs::File::open(BTF) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refusal::new(
            format!("the kernel shows no type information ({BTF} is missing)"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF, and mount sysfs",
        )),
        Err(error) => Err(Refusal::new(format!("cannot read {BTF}: {error}"), "run as root")),
    }
}

/// The running kernel's release, such as `6.1.0-18-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |r| r.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_type() {
        let table = "24 1 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
                     25 24 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:7 - cgroup2 cgroup2 rw\n\
                     26 24 0:24 / /sys/fs/cgroup/a\\040b rw - cgroup cgroup rw,cpu\n\
                     nonsense";
        assert_eq!(mount_points(table, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert_eq!(mount_points(table, "cgroup"), [PathBuf::from("/sys/fs/cgroup/a b")]);
        assert!(mount_points("", "cgroup2").is_empty());
    }

    #[test]
    fn capabilities() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert!(missing_capabilities(0x1ff_ffff_ffff).is_empty());
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(
            missing_capabilities(1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_NET_ADMIN).is_empty()
        );
    }
}
