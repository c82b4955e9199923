//! What outlives the daemon: programs, links and maps that are pinned in a BPF file system (bpffs).
//!
//! ```text
//! DIRECTORY/        locked (`flock(2)`) by the daemon that works with it
//!   FINGERPRINT/    whole or not there: it is pinned as `new-FINGERPRINT` and renamed; see `side.rs`
//! ```
//!
//! The fingerprint stands for everything that two daemons must agree on to share the kernel's state: the ABI, and where
//! programs are attached. What bears the same fingerprint goes on: as it stands if the programs are the
//! same, too, and else with the new programs in the place of the old ones ([`super::update`]). What bears another one is
//! replaced.

use std::{
    error::Error,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use observer_common::{abi::ABI, meaning::Meaning};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Attached, Options, Probes, causes,
    load::{OBJECT, SHARED, load_with},
    programs::PROBES,
    side::{NEW, Side},
    update::{Steps, update},
};

/// Why pins could not be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// There is no BPF file system.
    #[error("{0} is on no BPF file system; mount one (`mount -t bpf bpf /sys/fs/bpf`)")]
    NoBpffs(PathBuf),
    /// Another observer works with them.
    #[error("another observer runs with the pins in {directory}; {remedy}")]
    Busy {
        /// Where they are.
        directory: PathBuf,
        /// What whoever asks can do about it.
        remedy: &'static str,
    },
    /// There is nothing to remove.
    #[error(
        "{0} does not exist, so nothing is pinned there; give the directory that `observer run` had, with --pin"
    )]
    Missing(PathBuf),
    /// The directory is not for pins alone.
    #[error(
        "{directory} holds {entry}, which no observer has made; give a directory of its own with --pin, or remove what else is in this one"
    )]
    Foreign {
        /// The directory asked for.
        directory: PathBuf,
        /// What is in it.
        entry: String,
    },
    /// The file system refused something.
    #[error("cannot {what} {path}: {reason}; run as root, with the BPF file system writable")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said. Not the error's `source`, which would be printed once more.
        reason: String,
    },
}

/// How this daemon came to its kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There was none.
    Created,
    /// An earlier daemon's, which counted on meanwhile.
    TakenOver,
    /// An earlier daemon's, likewise, with the programs of another build in the place of its own.
    Updated,
    /// An earlier daemon's could not be used and was removed.
    Replaced,
}

impl Origin {
    /// The text used as a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::TakenOver => "taken_over",
            Self::Updated => "updated",
            Self::Replaced => "replaced",
        }
    }
}

/// A directory of pins, locked.
pub struct Pins {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Locks the directory, which is made if it is missing. With `wait`, waits until its user is gone.
    ///
    /// # Errors
    /// If it is on no BPF file system, in use, not for pins alone, or refused.
    pub fn open(directory: &Path, wait: bool) -> Result<Self, PinError> {
        on_bpffs(directory)?;
        loop {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make", directory, &error));
                }
                _ => {}
            }
            let remedy = "stop it first, or wait for its end with --wait";
            if let Some(pins) = Self::lock(directory, wait, remedy)? {
                return Ok(pins);
            }
        }
    }

    /// Locks a directory that is there.
    ///
    /// # Errors
    /// As [`Self::open`], and if it is missing.
    pub fn existing(directory: &Path) -> Result<Self, PinError> {
        let missing = || PinError::Missing(directory.to_owned());
        if fs::symlink_metadata(directory).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Err(missing());
        }
        on_bpffs(directory)?;
        // One that has gone meanwhile was removed by somebody else.
        Self::lock(directory, false, "stop it first")?.ok_or_else(missing)
    }

    /// Locks the directory; `None` if it has been removed meanwhile.
    fn lock(directory: &Path, wait: bool, remedy: &'static str) -> Result<Option<Self>, PinError> {
        let file = File::open(directory).map_err(|error| failed("open", directory, &error))?;
        let inode = file.metadata().map_or(0, |metadata| metadata.ino());
        let lock = lock(file, directory, wait, remedy)?;
        if !fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == inode) {
            return Ok(None);
        }
        let pins = Self { directory: directory.to_owned(), _lock: lock };
        pins.entries()?;
        Ok(Some(pins))
    }

    /// The kernel sides in the directory, which must hold nothing else.
    fn entries(&self) -> Result<Vec<PathBuf>, PinError> {
        let list = |error: &io::Error| failed("list", &self.directory, error);
        let mut ours = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|error| list(&error))? {
            let entry = entry.map_err(|error| list(&error))?;
            let name = entry.file_name();
            // Not a symbolic link: what it points to may be anybody's.
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !(is_directory && name.to_str().is_some_and(is_fingerprint)) {
                let entry = name.to_string_lossy().into_owned();
                return Err(PinError::Foreign { directory: self.directory.clone(), entry });
            }
            ours.push(entry.path());
        }
        Ok(ours)
    }

    /// The kernel side that was left running by a daemon of this fingerprint, if there is one and it is whole; its programs
    /// are those of this build from now on.
    ///
    /// # Errors
    /// If this build's programs cannot take the place of those that run.
    pub fn take_over(
        &self,
        fingerprint: &str,
        options: &Options<'_>,
        cgroup_root: &Path,
    ) -> anyhow::Result<Option<(Probes, Origin)>> {
        let side = Side::at(self.directory.join(fingerprint));
        if !side.exists() {
            return Ok(None);
        }
        let found = side.open().and_then(|shared| Ok((shared, side.builds()?)));
        let (shared, builds) = match found {
            Ok(found) => found,
            Err(error) => {
                warn!(error = causes(&*error), "what is pinned cannot be used");
                return Ok(None);
            }
        };
        let cells = shared.cells()?;
        if cells != options.cells {
            warn!(
                cells,
                asked_for = options.cells,
                "the table stays as large as it is: --cells is for a new one, after `observer detach`"
            );
        }
        let options = &Options { cells, ..options.clone() };
        let ours = build(options);
        let as_it_stands = match &builds[..] {
            [one] if one.starts_with(&ours) => side.open_build(one).map(Some),
            _ => Ok(None),
        };
        let as_it_stands = as_it_stands.unwrap_or_else(|error| {
            warn!(error = causes(&*error), "the programs that are pinned cannot be used");
            None
        });
        let (shared, build, origin) = if let Some(build) = as_it_stands {
            (shared, build, Origin::TakenOver)
        } else {
            let loaded = load_with(options, Some(&side.maps()))?;
            let mut steps = Steps::until(options.simulate_death);
            let name = free_name(&ours, &builds);
            let (shared, build) = update(&side, shared, loaded, &name, cgroup_root, &mut steps)?;
            (shared, build, Origin::Updated)
        };
        let probes = Probes::new(shared, build, true, side.since())?;
        // Whatever else an interrupted start has left counts for nobody.
        for entry in self.entries()? {
            if entry != side.directory() {
                remove(&entry)?;
            }
        }
        Ok(Some((probes, origin)))
    }

    /// Removes all pins, and with them what they keep attached; true if there were any.
    ///
    /// # Errors
    /// If there is anything else, which then stays with all the rest, or the file system refuses.
    pub fn clear(&self) -> Result<bool, PinError> {
        let entries = self.entries()?;
        for kernel_side in &entries {
            remove(kernel_side)?;
            info!(pins = %kernel_side.display(), "removed a kernel side");
        }
        Ok(!entries.is_empty())
    }

    /// Removes all pins, and the directory too.
    ///
    /// # Errors
    /// As [`Self::clear`].
    pub fn remove(self) -> Result<bool, PinError> {
        let cleared = self.clear()?;
        fs::remove_dir(&self.directory)
            .map_err(|error| failed("remove", &self.directory, &error))?;
        Ok(cleared)
    }

    /// Pins what is attached.
    ///
    /// # Errors
    /// If the file system refuses; nothing stays pinned then.
    pub fn keep(
        &self,
        fingerprint: &str,
        options: &Options<'_>,
        attached: &Attached,
    ) -> Result<(), PinError> {
        let new = self.directory.join(format!("{NEW}{fingerprint}"));
        let kept = self.directory.join(fingerprint);
        let name = free_name(&build(options), &[]);
        Side::at(new.clone())
            .pin(&attached.shared, &attached.build, &name)
            .map_err(|error| failed("pin into", &new, &*error))
            .and_then(|()| fs::rename(&new, &kept).map_err(|error| failed("rename", &new, &error)))
            .inspect_err(|_| {
                let _ = remove(&new);
            })
    }
}

/// What a daemon started like this shares with others that were started likewise. The size of the table is none of it: it is
/// taken over as it is.
#[must_use]
pub fn fingerprint(options: &Options<'_>, cgroup_root: &Path) -> String {
    let root = fs::metadata(cgroup_root).map_or(0, |metadata| metadata.ino());
    let mut shared = Meaning::NONE.number(root).texts(&SHARED);
    for hook in PROBES.iter().filter_map(|probe| probe.hook.link()) {
        shared = shared.text(hook);
    }
    let abi = options.abi.map_or(ABI, u64::from);
    format!("abi{abi:016x}-{:016x}", shared.value())
}

/// What a build is called: by its programs, and by what else decides what they do.
fn build(options: &Options<'_>) -> String {
    let numbers = [
        u64::from(options.simulate_empty),
        options.simulate_build.map_or(0, u64::from),
        options.kernel_log as u64,
        u64::from(options.record_buffer),
    ];
    let mut build = Meaning::NONE.bytes(OBJECT).numbers(&numbers);
    for lacking in options.simulate_lacking {
        build = build.text(lacking);
    }
    format!("{:016x}", build.value())
}

/// A name for a build that none of `others` has, whole or not.
fn free_name(build: &str, others: &[String]) -> String {
    let name = |number| format!("{build}-{number}");
    let is_free = |name: &String| !others.iter().any(|other| other.ends_with(name.as_str()));
    (1..=u32::MAX).map(name).find(is_free).expect("there are fewer others than numbers")
}

/// Whether a daemon, of whatever version, gives such a name: see [`fingerprint`] and [`NEW`].
fn is_fingerprint(name: &str) -> bool {
    let fingerprint = name.strip_prefix(NEW).unwrap_or(name);
    let parts = fingerprint.strip_prefix("abi").and_then(|rest| rest.split_once('-'));
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    parts.is_some_and(|(abi, rest)| {
        // Those of earlier versions have a part for the programs.
        let (hash, programs) = rest.split_once("-programs").unwrap_or((rest, rest));
        !abi.is_empty()
            && abi.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && is_hash(hash)
            && is_hash(programs)
    })
}

fn on_bpffs(directory: &Path) -> Result<(), PinError> {
    let parent = match directory.parent() {
        None => directory,
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if statfs(parent).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        Ok(())
    } else {
        Err(PinError::NoBpffs(directory.to_owned()))
    }
}

fn lock(
    file: File,
    directory: &Path,
    wait: bool,
    remedy: &'static str,
) -> Result<Flock<File>, PinError> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) if wait => file,
        Err((_, Errno::EWOULDBLOCK)) => {
            return Err(PinError::Busy { directory: directory.to_owned(), remedy });
        }
        Err((_, error)) => return Err(failed("lock", directory, &error)),
    };
    info!(pins = %directory.display(), "another observer runs: waiting for its end");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| failed("lock", directory, &error))
}

pub(super) fn failed(what: &'static str, path: &Path, error: &dyn Error) -> PinError {
    PinError::File { what, path: path.to_owned(), reason: causes(error) }
}

/// Detaches what is pinned in a fingerprint's directory, and removes it.
fn remove(directory: &Path) -> Result<(), PinError> {
    let side = Side::at(directory.to_owned());
    side.remove().map_err(|error| failed("remove", directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_daemon_gives_and_others() {
        let options = Options {
            cells: 17,
            record_buffer: 4096,
            kernel_log: crate::kernel_log::KernelLog::Off,
            simulate_lacking: &[],
            simulate_empty: false,
            simulate_build: None,
            simulate_death: None,
            abi: None,
        };
        let name = fingerprint(&options, Path::new("/"));
        assert!(is_fingerprint(&name) && is_fingerprint(&format!("{NEW}{name}")), "{name}");
        assert!(is_fingerprint("abi999-0123456789abcdef"), "of another version");
        assert!(is_fingerprint("abi999-0123456789abcdef-programs0123456789abcdef"), "likewise");
        for name in [
            "",
            "abi",
            "abi1",
            "abi1-",
            "abi-0123456789abcdef",
            "abi1-0123456789abcde",
            "abi1-0123456789abcdeg",
            "new-",
            "new-new-abi1-0123456789abcdef",
            "ip",
            "tc",
            "abi1-0123456789abcdef.bak",
            "abi1-0123456789abcdef-programs",
            "xabi1-0123456789abcdef",
        ] {
            assert!(!is_fingerprint(name), "{name}");
        }
    }

    #[test]
    fn a_build_gets_a_name_that_is_free() {
        let others = ["a-1", "new-a-2", "b-3"].map(str::to_owned);
        assert_eq!(free_name("a", &others), "a-3");
        assert_eq!(free_name("b", &others), "b-1");
    }
}
