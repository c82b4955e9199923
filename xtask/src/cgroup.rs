//! The cgroup v2 tree of this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Where the v2 tree is mounted: the whole of `/sys/fs/cgroup`, or a part of it beside v1.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mount_point(&mounts).context("no cgroup v2 tree is mounted here")
}

/// The mount point of the first cgroup2 file system in `/proc/mounts`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

/// Every cgroup below `directory`, parents before children.
pub(crate) fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = directory.read_dir().into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.push(entry.path());
        found.extend(below(&entry.path()));
    }
    found
}

/// Removes a cgroup and those below it. The kernel refuses as long as one holds a process, and a
/// process that was told to end takes a moment.
pub(crate) fn remove(cgroup: &Path, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let tree = below(cgroup);
        let mut children_first = tree.iter().map(PathBuf::as_path).rev().chain([cgroup]);
        match children_first.try_for_each(fs::remove_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_tree_is_found_beside_v1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }

    #[test]
    fn a_tree_is_removed_leaves_first() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("c")).unwrap();
        assert_eq!(below(&top).len(), 3);
        remove(&top, Duration::ZERO).unwrap();
        assert!(!top.exists());
        remove(&top, Duration::ZERO).unwrap();
    }
}
