//! A BPF file system of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::lock::require_root;

/// A mounted BPF file system. It goes, with all that is pinned in it, when dropped.
pub(crate) struct Bpffs {
    mount: TempDir,
    pins: String,
}

impl Bpffs {
    pub(crate) fn new() -> Self {
        require_root();
        let directory = tempfile::tempdir().expect("a directory for the mount");
        let none: Option<&str> = None;
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), none)
            .expect("a BPF file system");
        let pins = directory.path().join("observer").to_str().expect("text").to_owned();
        Self { mount: directory, pins }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// The directory for `--pin`.
    pub(crate) fn pins(&self) -> &str {
        &self.pins
    }

    /// Whether nothing of an observer is left. The kernel puts files of its own into a new file system.
    pub(crate) fn is_clean(&self) -> bool {
        !Path::new(&self.pins).exists()
    }

    /// Detaches what is attached to hooks, by removing the links.
    pub(crate) fn detach(&self, hooks: &[&str]) {
        for hook in hooks {
            fs::remove_file(self.kept().join("links").join(hook)).expect("a pinned link");
        }
    }

    /// Takes one map away from what is pinned.
    pub(crate) fn remove_one_map(&self) {
        fs::remove_file(self.kept().join("maps/FREE")).expect("a pinned map");
    }

    /// The directory of the one kernel side that is pinned.
    fn kept(&self) -> PathBuf {
        let mut kept = fs::read_dir(&self.pins).expect("the pins").flatten();
        kept.next().expect("something is pinned").path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.mount.path(), MntFlags::MNT_DETACH) {
            eprintln!("the BPF file system at {} stays: {error}", self.mount.path().display());
        }
    }
}
