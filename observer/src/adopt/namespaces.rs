//! Every network namespace of the node that has a process, a thread or a mount.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

/// How a visit went.
pub(crate) struct Visited {
    /// Namespaces in which the visitor did its work.
    pub(crate) entered: usize,
    /// Why others were not visited.
    pub(crate) failures: Vec<anyhow::Error>,
}

/// Runs `visit` once in each namespace, on a thread of its own: only a thread can change its namespace without taking the
/// whole process along.
pub(crate) fn visit_all(mut visit: impl FnMut() -> anyhow::Result<()> + Send) -> Visited {
    let own = identity(Path::new("/proc/self/ns/net"));
    let mut others = paths();
    if let Some(own) = own {
        others.remove(&own);
    }
    let mut visited = Visited { entered: 0, failures: Vec::new() };
    let mut count = |outcome: anyhow::Result<()>| match outcome {
        Ok(()) => visited.entered += 1,
        Err(error) => visited.failures.push(error),
    };
    let walk = || {
        count(visit());
        for path in others.into_values() {
            // One that has gone meanwhile has taken its connections along.
            if let Ok(file) = File::open(&path) {
                count(
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("cannot enter {}", path.display()))
                        .and_then(|()| visit()),
                );
            }
        }
    };
    if thread::scope(|scope| scope.spawn(walk).join()).is_err() {
        visited.failures.push(anyhow::anyhow!("the visit was cut short"));
    }
    visited
}

/// A path to each namespace, by its identity.
fn paths() -> HashMap<(u64, u64), PathBuf> {
    let threads = directories(Path::new("/proc"))
        .flat_map(|process| directories(&process.join("task")).collect::<Vec<_>>())
        .map(|thread| thread.join("ns/net"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    threads.chain(mounted(&mounts)).filter_map(|path| Some((identity(&path)?, path))).collect()
}

/// Device and inode of a namespace's file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Entries whose names are numbers: processes, or threads.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path())
}

/// Mounts of namespaces, such as those of `ip netns` (`proc_pid_mountinfo(5)`).
fn mounted(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (rest.starts_with("nsfs ") && root.starts_with("net:")).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_network_namespaces_are_found() {
        let table = "501 30 0:4 net:[4026532289] /run/netns/blue rw shared:9 - nsfs nsfs rw\n\
                     502 30 0:4 mnt:[4026532290] /run/mnt/red rw - nsfs nsfs rw\n\
                     24 1 0:22 / /sys rw - sysfs sysfs rw\n\
                     nonsense";
        assert_eq!(mounted(table).collect::<Vec<_>>(), [PathBuf::from("/run/netns/blue")]);
    }

    #[test]
    fn the_own_namespace_is_visited_once() {
        let mut visits = 0;
        let own = identity(Path::new("/proc/self/ns/net")).unwrap();
        let visited = visit_all(|| {
            visits += u32::from(identity(Path::new("/proc/thread-self/ns/net")) == Some(own));
            Ok(())
        });
        assert_eq!(visits, 1);
        assert!(visited.entered >= 1);
    }
}
