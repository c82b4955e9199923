//! What outlives the daemon: programs, links and maps that are pinned in a BPF file system (bpffs).
//!
//! ```text
//! DIRECTORY/                  locked (`flock(2)`) by the daemon that works with it
//!   FINGERPRINT/              whole or not there: it is built as `new-FINGERPRINT` and renamed
//!     maps/NAME  links/NAME  programs/NAME
//!     missing/NAME -> text    why an optional program is not attached, as the target of a symbolic link
//! ```
//!
//! The fingerprint stands for everything that two daemons must agree on to share the kernel's state: the ABI, the size of
//! the table, where the programs are attached, and the programs themselves. The same fingerprint is taken over as it
//! stands, nothing is loaded or attached; what bears another one is replaced.

use std::{
    error::Error,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData, ProgramArray},
    programs::links::PinnedLink,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use observer_common::abi::{ABI, Meaning};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Attached, Options, ProbeState, Probes,
    attach::{MAPS, Parts},
    causes,
    load::OBJECT,
    programs::PROBES,
    sys,
};

/// Why pins could not be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// There is no BPF file system.
    #[error("{0} is on no BPF file system; mount one (`mount -t bpf bpf /sys/fs/bpf`)")]
    NoBpffs(PathBuf),
    /// Another observer works with them.
    #[error(
        "another observer runs with the pins in {0}; stop it first, or wait for its end with --wait"
    )]
    Busy(PathBuf),
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
    /// If it is on no BPF file system, in use, or refused.
    pub fn open(directory: &Path, wait: bool) -> Result<Self, PinError> {
        let parent = directory.parent().unwrap_or(Path::new("/"));
        if !statfs(parent).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
            return Err(PinError::NoBpffs(directory.to_owned()));
        }
        loop {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make", directory, &error));
                }
                _ => {}
            }
            let file = File::open(directory).map_err(|error| failed("open", directory, &error))?;
            let inode = file.metadata().map_or(0, |metadata| metadata.ino());
            let lock = lock(file, directory, wait)?;
            // It may have been removed while we waited for it.
            if fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == inode) {
                return Ok(Self { directory: directory.to_owned(), _lock: lock });
            }
        }
    }

    /// The kernel side that was left running by a daemon of this fingerprint, if there is one and it is whole.
    #[must_use]
    pub fn take_over(&self, fingerprint: &str) -> Option<Probes> {
        let directory = self.directory.join(fingerprint);
        if !directory.exists() {
            return None;
        }
        let probes = parts(&directory).and_then(|parts| Ok(Probes::new(parts, true)?));
        match probes {
            Ok(probes) => Some(probes),
            Err(error) => {
                warn!(error = causes(&*error), "what is pinned cannot be used");
                None
            }
        }
    }

    /// Removes all pins, and with them what they keep attached; true if there were any.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn clear(&self) -> Result<bool, PinError> {
        let mut cleared = false;
        let entries = fs::read_dir(&self.directory)
            .map_err(|error| failed("list", &self.directory, &error))?;
        for entry in entries.flatten() {
            remove(&entry.path())?;
            info!(pins = %entry.path().display(), "removed a kernel side");
            cleared = true;
        }
        Ok(cleared)
    }

    /// Removes everything, the directory too.
    ///
    /// # Errors
    /// If the file system refuses.
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
    pub fn keep(&self, fingerprint: &str, attached: &mut Attached) -> Result<(), PinError> {
        let new = self.directory.join(format!("new-{fingerprint}"));
        let kept = self.directory.join(fingerprint);
        pin_all(&new, attached)
            .map_err(|error| failed("pin into", &new, &*error))
            .and_then(|()| fs::rename(&new, &kept).map_err(|error| failed("rename", &new, &error)))
            .inspect_err(|_| {
                let _ = remove(&new);
            })
    }
}

/// What a daemon started like this shares with others that were started likewise.
#[must_use]
pub fn fingerprint(options: &Options<'_>, cgroup_root: &Path) -> String {
    let root = fs::metadata(cgroup_root).map_or(0, |metadata| metadata.ino());
    let mut started = Meaning::NONE
        .numbers(&[u64::from(options.cells), u64::from(options.record_buffer), root])
        .bytes(&[options.kernel_log as u8, u8::from(options.simulate_empty)]);
    for lacking in options.simulate_lacking {
        started = started.text(lacking);
    }
    // The programs are taken over as they stand: those of another build count by its rules.
    let programs = Meaning::NONE.bytes(OBJECT).value();
    let abi = options.abi.map_or(ABI, u64::from);
    format!("abi{abi:016x}-{:016x}-programs{programs:016x}", started.value())
}

fn lock(file: File, directory: &Path, wait: bool) -> Result<Flock<File>, PinError> {
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) if wait => file,
        Err((_, Errno::EWOULDBLOCK)) => return Err(PinError::Busy(directory.to_owned())),
        Err((_, error)) => return Err(failed("lock", directory, &error)),
    };
    info!(pins = %directory.display(), "another observer runs: waiting for its end");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| failed("lock", directory, &error))
}

fn failed(what: &'static str, path: &Path, error: &dyn Error) -> PinError {
    PinError::File { what, path: path.to_owned(), reason: causes(error) }
}

/// Detaches what is pinned in a fingerprint's directory, and removes it.
fn remove(directory: &Path) -> Result<(), PinError> {
    // The hooks first: nothing runs any more when the parsers go.
    let links = directory.join("links");
    if links.exists() {
        fs::remove_dir_all(&links).map_err(|error| failed("remove", &links, &error))?;
    }
    if let Ok(map) = MapData::from_pin(directory.join("maps/PARSERS"))
        && let Ok(mut parsers) = ProgramArray::try_from(Map::ProgramArray(map))
    {
        super::empty(&mut parsers);
    }
    fs::remove_dir_all(directory).map_err(|error| failed("remove", directory, &error))
}

fn pin_all(directory: &Path, attached: &mut Attached) -> Result<(), Box<dyn Error>> {
    for part in ["maps", "links", "programs", "missing"] {
        fs::create_dir_all(directory.join(part))?;
    }
    for (name, map) in &attached.parts.maps {
        map.pin(directory.join("maps").join(name))?;
    }
    for (probe, state) in &attached.parts.states {
        match state {
            ProbeState::Active => {
                let program = attached.ebpf.program_mut(probe.program).expect("attached");
                program.pin(directory.join("programs").join(probe.program))?;
            }
            ProbeState::Unavailable(reason) => {
                symlink(reason, directory.join("missing").join(probe.program))?;
            }
        }
    }
    for (probe, link) in std::mem::take(&mut attached.parts.links) {
        let link = link.pin(directory.join("links").join(probe.program))?;
        attached.parts.links.push((probe, link.into()));
    }
    Ok(())
}

/// Opens what `pin_all` has pinned.
fn parts(directory: &Path) -> Result<Parts, Box<dyn Error>> {
    let (mut states, mut programs, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for probe in PROBES {
        let path = directory.join("programs").join(probe.program);
        if !path.exists() {
            let reason = fs::read_link(directory.join("missing").join(probe.program));
            // One that another program makes superfluous is neither.
            states.extend(reason.ok().map(|reason| {
                (probe, ProbeState::Unavailable(reason.to_string_lossy().into_owned()))
            }));
            continue;
        }
        states.push((probe, ProbeState::Active));
        programs.push((probe, sys::open(&path)?));
        let link = directory.join("links").join(probe.program);
        if link.exists() {
            links.push((probe, PinnedLink::from_pin(link)?.into()));
        }
    }
    let maps = MAPS
        .into_iter()
        .map(|name| {
            let data = MapData::from_pin(directory.join("maps").join(name))?;
            Ok((name, Map::from_map_data(data)?))
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    Ok(Parts { states, links, programs, maps })
}
