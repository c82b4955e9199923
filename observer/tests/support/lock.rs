//! One system test at a time: every daemon under test attaches to the root cgroup and counts
//! whatever happens on the host, the other tests' traffic included.

use std::{
    env,
    fs::{File, TryLockError},
    time::Duration,
};

use nix::unistd::geteuid;

use super::poll::poll;

/// How long the tests before this one may take together.
const PATIENCE: Duration = Duration::from_mins(30);

/// Held for as long as a system test runs, on this host and not only in this process.
pub(crate) struct SystemLock {
    /// The lock goes with the open file, so even a killed test gives it back.
    _file: File,
}

impl SystemLock {
    /// Waits until no other system test runs. Fails the test if it does not run as root.
    pub(crate) fn acquire() -> Self {
        require_root();
        let path = env::temp_dir().join("observer-system-tests.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        poll(PATIENCE, || match file.try_lock() {
            Ok(()) => Some(()),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path.display()),
        })
        .unwrap_or_else(|| panic!("{} stayed locked for {PATIENCE:?}", path.display()));
        Self { _file: file }
    }
}

/// Fails the test if it does not run as root: a system test that did not run proves nothing.
pub(crate) fn require_root() {
    assert!(
        geteuid().is_root(),
        "this test loads BPF programs and makes cgroups and network namespaces, and needs root for \
         it: run `cargo xtask test`, or this test binary by sudo"
    );
}
