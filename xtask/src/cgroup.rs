//! The cgroup trees of this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Where the v2 tree is mounted: the whole of `/sys/fs/cgroup`, or a part of it beside v1.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = mount_points(&mounts, &["cgroup2"]).next();
    root.context("no cgroup v2 tree is mounted here")
}

/// Where cgroup trees are mounted: the v2 tree, and those of v1's controllers.
pub(crate) fn roots() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mount_points(&mounts, &["cgroup", "cgroup2"]).collect())
}

/// The mount points of file systems of these types in `/proc/mounts`.
fn mount_points(mounts: &str, types: &[&str]) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, of) = (fields.next()?, fields.next()?, fields.next()?);
        types.contains(&of).then(|| path.into())
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
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n";
        let found = |types| mount_points(mounts, types).collect::<Vec<_>>();
        let [v1, v2] = ["cpu", "unified"].map(|tree| Path::new("/sys/fs/cgroup").join(tree));
        assert_eq!(found(&["cgroup2"]), [v2.as_path()]);
        assert_eq!(found(&["cgroup", "cgroup2"]), [v1, v2]);
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
