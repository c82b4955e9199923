//! The kernel side as the daemon sees it: the only user of aya, and the only place with unsafe code.
//!
//! ```text
//!   load ─▶ attach ─┬─▶ Probes      counters, losses, records, while the daemon runs
//!                   └─▶ adoption    once, for the connections that are older
//!   pin ────────────▶ Probes        what an earlier daemon has left running
//! ```
//!
//! [`programs`] is the table of what is attached where, [`cells`] reads the counters, [`Reconciliation`] checks them.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::SystemTime,
};

use aya::maps::{Array, Map, MapData, MapError, ProgramArray, RingBuf};
use observer_common::{label::Reason, wire::loss::Loss};
use thiserror::Error;

pub mod adoption;
mod attach;
pub mod cells;
mod enumeration;
pub mod heap;
mod load;
mod pin;
pub mod programs;
mod reconciliation;
mod replicas;
mod side;
mod sys;
mod update;

pub use attach::Attached;
pub use load::{Loaded, load};
pub use pin::{Origin, PinError, Pins, fingerprint};
pub use reconciliation::Reconciliation;
pub use replicas::Replicas;

use attach::{Build, Shared};
use cells::{MapMemory, SlotTable};
use programs::{Dispatcher, Hook, PROBES, Probe, RECONCILED};

use crate::kernel_log::KernelLog;

/// Why the kernel side cannot run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The object or a map was refused.
    #[error("the kernel refused the maps: {0}; `observer check` tells what is missing")]
    Object(String),
    /// A mandatory hook is not there.
    #[error(
        "this kernel has no hook {hook}; observer needs Linux 5.15 or newer with CONFIG_DEBUG_INFO_BTF"
    )]
    NoHook {
        /// The hook's name.
        hook: &'static str,
    },
    /// A program was refused.
    #[error("the kernel refused program {program}: {reason}; observer needs Linux 5.15 or newer")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The last line of what the kernel said.
        reason: String,
    },
    /// A program could not be attached.
    #[error("cannot attach {program}: {reason}; run as root with the host's cgroup tree")]
    Attach {
        /// The program's name.
        program: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel's type information is unusable.
    #[error(
        "cannot read the kernel's type information: {0}; boot a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    Btf(String),
    /// A map could not be used.
    #[error("cannot use map {map}: {reason}; `observer check` tells what is missing")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What went wrong.
        reason: String,
    },
}

impl LoadError {
    /// What is wrong, without the remedy: of what observer can do without.
    fn reason(&self) -> String {
        match self {
            Self::NoHook { hook } => format!("this kernel has no hook {hook}"),
            Self::Program { program, reason } => {
                format!("the kernel refused program {program}: {reason}")
            }
            other => other.to_string(),
        }
    }
}

/// Passes on the programs' own log lines.
pub type KernelLogger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// How a probe ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// Attached.
    Active,
    /// Not attached; what it would have told is missing.
    Unavailable(String),
}

/// What to load and where to attach it.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Slots in the table.
    pub cells: u32,
    /// Bytes of the ring buffer for records: a power of two, whole pages.
    pub record_buffer: u32,
    /// Level of the programs' own log.
    pub kernel_log: KernelLog,
    /// Hooks to pretend away.
    pub simulate_lacking: &'a [String],
    /// Whether the programs return at once.
    pub simulate_empty: bool,
    /// Another build to pretend: its programs are other code that counts the same.
    pub simulate_build: Option<u32>,
    /// The step of an update at which to die.
    pub simulate_death: Option<u32>,
    /// ABI version to pretend.
    pub abi: Option<u32>,
}

/// An error and its causes in one line, each once: some of aya's repeat their cause, others keep it
/// to themselves.
fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

fn map_error(map: &'static str, error: &dyn std::error::Error) -> LoadError {
    LoadError::Map { map, reason: causes(error) }
}

/// The attached kernel side. Dropping it detaches everything, unless it is pinned.
pub struct Probes {
    pinned: bool,
    since: SystemTime,
    states: Vec<(&'static Probe, ProbeState)>,
    _links: Vec<(&'static str, OwnedFd)>,
    dispatchers: Vec<(&'static Dispatcher, OwnedFd)>,
    /// Kept open, as the next.
    _arrays: Vec<(&'static str, Map)>,
    programs: Vec<(&'static Probe, OwnedFd)>,
    /// Kept open: closing the last descriptor of a program array empties it.
    parsers: ProgramArray<MapData>,
    slots: SlotTable,
    losses: MapMemory,
    replicas: Replicas,
    /// The storage of sockets.
    states_of_sockets: OwnedFd,
    reconciliation: Option<Reconciliation>,
    /// Until somebody takes them.
    records: Option<Map>,
    records_wanted: Array<MapData, u32>,
}

impl Probes {
    /// `since` is when they were not attached yet.
    fn new(
        shared: Shared,
        build: Build,
        pinned: bool,
        since: SystemTime,
    ) -> Result<Self, LoadError> {
        let (arrays, mut maps): (Vec<_>, Vec<_>) =
            shared.maps.into_iter().partition(|(_, map)| matches!(map, Map::ProgramArray(_)));
        maps.extend(build.maps);
        let mut take = |name: &'static str| {
            let at = maps.iter().position(|(map, _)| *map == name);
            at.map(|at| maps.swap_remove(at).1)
                .ok_or_else(|| LoadError::Map { map: name, reason: "it is missing".to_owned() })
        };
        let conns = take("CONNS")?;
        let Map::SkStorage(states) = &conns else {
            let reason = "it is not the storage of sockets".to_owned();
            return Err(LoadError::Map { map: "CONNS", reason });
        };
        let states_of_sockets = states.fd().as_fd().try_clone_to_owned();
        let states_of_sockets = states_of_sockets.map_err(|error| map_error("CONNS", &error))?;
        let counts_states = build.programs.iter().find(|(probe, _)| probe.program == RECONCILED);
        let reconciliation = match counts_states {
            None => None,
            Some((_, program)) => {
                let [reconciliation, walks] = [take("RECONCILED")?, take("WALKS")?];
                let reconciliation = program.try_clone().and_then(|program| {
                    Reconciliation::new(program, &conns, &reconciliation, &walks)
                });
                Some(reconciliation.map_err(|error| map_error("RECONCILED", &error))?)
            }
        };
        Ok(Self {
            pinned,
            since,
            states_of_sockets,
            reconciliation,
            slots: SlotTable::new(
                &take("SLOTS")?,
                &take("TABLE")?,
                take("INDEX")?,
                take("FREE")?,
                take("BUDGETS")?,
            )
            .map_err(|error| map_error("SLOTS", &error))?,
            losses: MapMemory::new(&take("LOSS")?).map_err(|error| map_error("LOSS", &error))?,
            replicas: Replicas::new(take("REPLICAS")?)
                .map_err(|error| map_error("REPLICAS", &error))?,
            parsers: ProgramArray::try_from(take("PARSERS")?)
                .map_err(|error| map_error("PARSERS", &error))?,
            records: Some(take("RECORDS")?),
            records_wanted: Array::try_from(take("RECORDS_WANTED")?)
                .map_err(|error| map_error("RECORDS_WANTED", &error))?,
            states: build.states,
            _links: shared.links,
            dispatchers: shared.dispatchers,
            _arrays: arrays,
            programs: build.programs,
        })
    }

    /// How each probe ended up.
    #[must_use]
    pub fn states(&self) -> &[(&'static Probe, ProbeState)] {
        &self.states
    }

    /// A time at which nothing was counted yet, and soon after which everything was.
    #[must_use]
    pub const fn since(&self) -> SystemTime {
        self.since
    }

    /// The counters.
    pub fn slots(&mut self) -> &mut SlotTable {
        &mut self.slots
    }

    /// What the programs know of cgroups.
    pub fn replicas(&mut self) -> &mut Replicas {
        &mut self.replicas
    }

    /// The loss counters, in the order of [`observer_common::wire::loss::Loss`].
    #[must_use]
    pub fn losses(&self) -> Vec<u64> {
        self.losses.all()
    }

    /// The map in which the programs keep the state of each socket.
    ///
    /// # Errors
    /// If there can be no more descriptors.
    pub fn states_of_sockets(&self) -> io::Result<OwnedFd> {
        self.states_of_sockets.try_clone()
    }

    /// The reconciliation of the sockets' states; `None` if this kernel cannot walk over them.
    #[must_use]
    pub const fn reconciliation(&self) -> Option<&Reconciliation> {
        self.reconciliation.as_ref()
    }

    /// Counts ends that no hook has told: `count` connections are no longer active in `cell`.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn end_unseen(&self, cell: u32, count: u64) -> io::Result<()> {
        self.slots.end(cell, Reason::Unknown, count)?;
        self.losses.add(Loss::UnseenEnd as usize, count);
        Ok(())
    }

    /// How often the kernel skipped each program because it was already running on the processor.
    #[must_use]
    pub fn misses(&self) -> Vec<(&'static Probe, u64)> {
        let hooked = self.programs.iter().filter(|(probe, _)| probe.hook.is_attached());
        // What is skipped is what is attached.
        let attached = |probe: &Probe, fd| {
            let mut dispatchers = self.dispatchers.iter();
            let dispatcher =
                dispatchers.find(|(of, _)| Hook::Tracepoint(of.tracepoint) == probe.hook);
            dispatcher.map_or(fd, |(_, fd)| fd)
        };
        hooked
            .map(|(probe, fd)| (*probe, recursion_misses(attached(probe, fd)).unwrap_or(0)))
            .collect()
    }

    /// The records of connections; `None` if they are taken already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_records(&mut self) -> Result<Option<RingBuf<MapData>>, MapError> {
        self.records.take().map(RingBuf::try_from).transpose()
    }

    /// Tells the programs whether to write records.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn want_records(&mut self, wanted: bool) -> Result<(), MapError> {
        self.records_wanted.set(0, u32::from(wanted), 0)
    }
}

/// From the text that the kernel shows about a program's descriptor (`bpf_prog_show_fdinfo`, 5.12).
fn recursion_misses(program: &OwnedFd) -> Option<u64> {
    let fd = program.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

impl Drop for Probes {
    fn drop(&mut self) {
        if !self.pinned {
            empty(&mut self.parsers);
        }
    }
}

/// The parsers call each other through the array that holds them; emptied, both can go at once.
fn empty(parsers: &mut ProgramArray<MapData>) {
    for probe in PROBES {
        if let Hook::Parser(slot) = probe.hook {
            let _ = parsers.clear_index(&slot);
        }
    }
}
