//! The kernel side as the daemon sees it: the only user of aya, and the only place with unsafe code.
//!
//! [`Probes`] owns programs, links and maps; dropping it detaches everything. [`programs`] is the table of what is
//! attached where, [`cells`] reads the counters.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, MapError, ProgramArray, Queue, RingBuf},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, SockOps,
    },
};
use observer_common::{cell::OVERFLOW_CELLS, protocol::ResetCause};
use thiserror::Error;

pub mod cells;
mod enumeration;
pub mod programs;

use cells::{CellTable, MapMemory};
use programs::{Hook, Need, PROBES, Probe};

use crate::{cli::KernelLog, preflight};

/// The object built from `observer-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf"));

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
    /// Cells in the table.
    pub cells: u32,
    /// Level of the programs' own log.
    pub kernel_log: KernelLog,
    /// Hooks to pretend away.
    pub simulate_lacking: &'a [String],
}

/// Programs that are loaded, verified, and not attached yet.
pub struct Loaded {
    ebpf: Ebpf,
    states: Vec<(&'static Probe, ProbeState)>,
    cells: u32,
}

/// Loads and verifies every program.
///
/// # Errors
/// If a mandatory program cannot be loaded. An optional one that cannot is told by [`Loaded::states`].
pub fn load(options: &Options<'_>) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(causes(&error)))?;
    let log_level: u8 = match options.kernel_log {
        KernelLog::Off => 0,
        KernelLog::Debug => aya_log::Level::Debug as u8,
    };
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries("CELLS", options.cells)
        .map_max_entries("INDEX", options.cells)
        .map_max_entries("FREE", options.cells)
        .load(OBJECT)
        .map_err(|error| LoadError::Object(causes(&error)))?;
    let mut states = Vec::new();
    let mut superseded = None;
    for probe in PROBES {
        if superseded == Some(probe.program) {
            continue;
        }
        let state = if options
            .simulate_lacking
            .iter()
            .any(|lacking| [probe.hook.name(), probe.program].contains(&lacking.as_str()))
        {
            Err(LoadError::NoHook { hook: probe.hook.name() })
        } else {
            load_program(&mut ebpf, &btf, probe)
        };
        match (state, probe.need) {
            (Ok(()), need) => {
                if let Need::Instead(lesser) = need {
                    superseded = Some(lesser);
                }
                states.push((probe, ProbeState::Active));
            }
            (Err(error), Need::Mandatory) => return Err(error),
            (Err(error), Need::Optional | Need::Instead(_)) => {
                states.push((probe, ProbeState::Unavailable(error.to_string())));
            }
        }
    }
    Ok(Loaded { ebpf, states, cells: options.cells })
}

fn load_program(ebpf: &mut Ebpf, btf: &Btf, probe: &'static Probe) -> Result<(), LoadError> {
    let program = ebpf.program_mut(probe.program).ok_or_else(|| LoadError::Program {
        program: probe.program,
        reason: "not in the object".to_owned(),
    })?;
    let refused = |error: ProgramError| match error {
        ProgramError::Btf(aya::BtfError::UnknownBtfTypeName { .. }) => {
            LoadError::NoHook { hook: probe.hook.name() }
        }
        error => LoadError::Program { program: probe.program, reason: verdict(&error) },
    };
    match probe.hook {
        Hook::CgroupIngress | Hook::CgroupEgress | Hook::Parser(_) => {
            <&mut CgroupSkb>::try_from(program).and_then(CgroupSkb::load).map_err(refused)
        }
        Hook::SocketCallbacks => {
            <&mut SockOps>::try_from(program).and_then(SockOps::load).map_err(refused)
        }
        Hook::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program)
            .and_then(|program| program.load(name, btf))
            .map_err(refused),
    }
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

/// Lines of a verifier log that say how it went, not why it ended.
const STATISTICS: [&str; 3] = ["processed ", "verification time", "stack depth"];

/// What the kernel said about a program, in one line: the verifier's reason stands before its statistics.
fn verdict(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return causes(error);
    };
    let log = verifier_log.to_string();
    tracing::debug!(%log, "the verifier's log");
    let reason =
        log.lines().rev().map(str::trim).find(|line| {
            !line.is_empty() && !STATISTICS.iter().any(|prefix| line.starts_with(prefix))
        });
    match reason {
        Some(reason) => format!("{reason} ({io_error})"),
        None => io_error.to_string(),
    }
}

impl Loaded {
    /// How each probe ended up.
    #[must_use]
    pub fn states(&self) -> &[(&'static Probe, ProbeState)] {
        &self.states
    }

    /// Attaches everything that is loaded, the lifecycle first: a socket must have its state before a segment of it
    /// is looked at.
    ///
    /// # Errors
    /// If a mandatory program cannot be attached; what was attached is detached again.
    pub fn attach(mut self, cgroup_root: &Path) -> Result<Probes, LoadError> {
        fill_free_list(&mut self.ebpf, self.cells)?;
        fill_reset_causes(&mut self.ebpf)?;
        tell_order_of_errors(&mut self.ebpf)?;
        let parsers = fill_parsers(&mut self.ebpf, &self.states)?;
        let root = File::open(cgroup_root).map_err(|error| LoadError::Attach {
            program: "segment_in",
            reason: format!("{}: {error}", cgroup_root.display()),
        })?;
        for (probe, state) in &mut self.states {
            if *state != ProbeState::Active {
                continue;
            }
            if let Err(error) = attach_program(&mut self.ebpf, probe, &root) {
                let error = LoadError::Attach { program: probe.program, reason: causes(&error) };
                match probe.need {
                    Need::Mandatory => return Err(error),
                    Need::Optional | Need::Instead(_) => {
                        *state = ProbeState::Unavailable(error.to_string());
                    }
                }
            }
        }
        let cells = CellTable::new(
            take(&mut self.ebpf, "CELLS")?,
            take(&mut self.ebpf, "INDEX")?,
            take(&mut self.ebpf, "FREE")?,
        )
        .map_err(|error| map_error("CELLS", &error))?;
        let losses = MapMemory::new(&take(&mut self.ebpf, "LOSS")?)
            .map_err(|error| map_error("LOSS", &error))?;
        let tight = Array::try_from(take(&mut self.ebpf, "TIGHT")?)
            .map_err(|error| map_error("TIGHT", &error))?;
        Ok(Probes { ebpf: self.ebpf, parsers, states: self.states, cells, losses, tight })
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    ebpf.take_map(name)
        .ok_or_else(|| LoadError::Map { map: name, reason: "not in the object".to_owned() })
}

fn map_error(map: &'static str, error: &dyn std::error::Error) -> LoadError {
    LoadError::Map { map, reason: causes(error) }
}

/// Every cell but the overflow cells starts free.
fn fill_free_list(ebpf: &mut Ebpf, cells: u32) -> Result<(), LoadError> {
    let mut free: Queue<&mut MapData, u32> =
        Queue::try_from(ebpf.map_mut("FREE").ok_or_else(|| LoadError::Map {
            map: "FREE",
            reason: "not in the object".to_owned(),
        })?)
        .map_err(|error| map_error("FREE", &error))?;
    for index in OVERFLOW_CELLS..cells {
        free.push(index, 0).map_err(|error| map_error("FREE", &error))?;
    }
    Ok(())
}

/// Tells the programs what the numbers of this kernel's `enum sk_rst_reason` mean.
fn fill_reset_causes(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let mut map: Array<MapData, u32> = Array::try_from(take(ebpf, "RESET_CAUSES")?)
        .map_err(|error| map_error("RESET_CAUSES", &error))?;
    let reasons = enumeration::read(Path::new(preflight::BTF), "sk_rst_reason").unwrap_or_default();
    for (name, value) in reasons {
        if value < map.len() {
            map.set(value, reset_cause(&name) as u32, 0)
                .map_err(|error| map_error("RESET_CAUSES", &error))?;
        }
    }
    Ok(())
}

/// Tells the programs whether this kernel reports the error of a connection before it closes it.
fn tell_order_of_errors(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let mut map: Array<MapData, u32> = Array::try_from(take(ebpf, "ERROR_FIRST")?)
        .map_err(|error| map_error("ERROR_FIRST", &error))?;
    let after = enumeration::names(Path::new(preflight::BTF), "tcp_done_with_error");
    map.set(0, u32::from(!after), 0).map_err(|error| map_error("ERROR_FIRST", &error))
}

/// What a name of `enum sk_rst_reason` (include/net/rstreason.h) amounts to.
fn reset_cause(name: &str) -> ResetCause {
    match name.trim_start_matches("SK_RST_REASON_") {
        "NO_SOCKET" => ResetCause::NoSocket,
        "TCP_ABORT_ON_CLOSE" => ResetCause::AbortOnClose,
        "TCP_ABORT_ON_LINGER" => ResetCause::AbortOnLinger,
        "TCP_ABORT_ON_DATA" => ResetCause::AbortOnData,
        "TCP_ABORT_ON_MEMORY" => ResetCause::AbortOnMemory,
        "TCP_STATE" | "TCP_DISCONNECT_WITH_DATA" => ResetCause::Disconnect,
        "TCP_KEEPALIVE_TIMEOUT" => ResetCause::KeepaliveTimeout,
        "TCP_TIMEWAIT_SOCKET" => ResetCause::TimeWait,
        "TCP_INVALID_ACK_SEQUENCE"
        | "TCP_RFC7323_PAWS"
        | "TCP_TOO_OLD_ACK"
        | "TCP_ACK_UNSENT_DATA"
        | "TCP_FLAGS"
        | "TCP_OLD_ACK"
        | "INVALID_SYN" => ResetCause::InvalidSegment,
        other if other.starts_with("MPTCP_") => ResetCause::Mptcp,
        _ => ResetCause::Unspecified,
    }
}

fn fill_parsers(
    ebpf: &mut Ebpf,
    states: &[(&'static Probe, ProbeState)],
) -> Result<ProgramArray<MapData>, LoadError> {
    let mut parsers: ProgramArray<MapData> = ProgramArray::try_from(take(ebpf, "PARSERS")?)
        .map_err(|error| map_error("PARSERS", &error))?;
    for (probe, state) in states {
        if let (Hook::Parser(slot), ProbeState::Active) = (probe.hook, state) {
            let fd = <&CgroupSkb>::try_from(ebpf.program(probe.program).expect("loaded above"))
                .and_then(|program| program.fd())
                .map_err(|error| map_error("PARSERS", &error))?;
            parsers.set(slot, fd, 0).map_err(|error| map_error("PARSERS", &error))?;
        }
    }
    Ok(parsers)
}

fn attach_program(ebpf: &mut Ebpf, probe: &Probe, root: &File) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(probe.program).expect("loaded above");
    match probe.hook {
        Hook::Parser(_) => {}
        Hook::CgroupIngress | Hook::CgroupEgress => {
            let at = if matches!(probe.hook, Hook::CgroupIngress) {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            // A link shares its hook with others by nature; the kernel refuses the flag that says so.
            <&mut CgroupSkb>::try_from(program)?.attach(root, at, CgroupAttachMode::Single)?;
        }
        Hook::SocketCallbacks => {
            <&mut SockOps>::try_from(program)?.attach(root, CgroupAttachMode::Single)?;
        }
        Hook::Tracepoint(_) => {
            <&mut BtfTracePoint>::try_from(program)?.attach()?;
        }
    }
    Ok(())
}

/// The attached kernel side.
pub struct Probes {
    ebpf: Ebpf,
    /// Kept open: closing the last descriptor of a program array empties it.
    parsers: ProgramArray<MapData>,
    states: Vec<(&'static Probe, ProbeState)>,
    cells: CellTable,
    losses: MapMemory,
    tight: Array<MapData, u32>,
}

impl Probes {
    /// How each probe ended up.
    #[must_use]
    pub fn states(&self) -> &[(&'static Probe, ProbeState)] {
        &self.states
    }

    /// The counters.
    pub fn cells(&mut self) -> &mut CellTable {
        &mut self.cells
    }

    /// The loss counters, in the order of [`observer_common::loss::Loss`].
    #[must_use]
    pub fn losses(&self) -> Vec<u64> {
        self.losses.element(0, observer_common::loss::LOSSES)
    }

    /// How often the kernel skipped each program because it was already running on the processor.
    #[must_use]
    pub fn misses(&self) -> Vec<(&'static Probe, u64)> {
        let active = self.states.iter().filter(|(_, state)| *state == ProbeState::Active);
        active.map(|(probe, _)| (*probe, self.recursion_misses(probe).unwrap_or(0))).collect()
    }

    /// From the text that the kernel shows about a program's descriptor (`bpf_prog_show_fdinfo`, 5.12).
    fn recursion_misses(&self, probe: &Probe) -> Option<u64> {
        let fd = self.ebpf.program(probe.program)?.fd().ok()?.as_fd().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
    }

    /// Tells the programs whether the table is nearly full, so that they no longer tell ports apart.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_tight(&mut self, tight: bool) -> Result<(), MapError> {
        self.tight.set(0, u32::from(tight), 0)
    }

    /// The records of ended connections; from now on the programs write them. `None` if they are taken already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_records(&mut self) -> Result<Option<RingBuf<MapData>>, MapError> {
        let (Some(records), Some(wanted)) =
            (self.ebpf.take_map("RECORDS"), self.ebpf.take_map("RECORDS_WANTED"))
        else {
            return Ok(None);
        };
        let records = RingBuf::try_from(records)?;
        Array::<MapData, u32>::try_from(wanted)?.set(0, 1, 0)?;
        Ok(Some(records))
    }

    /// Starts to pass on the programs' own log lines to the `log` crate.
    ///
    /// # Errors
    /// If the log's ring buffer cannot be opened.
    pub fn kernel_log(&mut self) -> io::Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(io::Error::other)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // The parsers call each other through the array that holds them; emptied, both can go at once.
        for probe in PROBES {
            if let Hook::Parser(slot) = probe.hook {
                let _ = self.parsers.clear_index(&slot);
            }
        }
    }
}
