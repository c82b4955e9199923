//! From verified programs to attached ones, and to the maps that the daemon keeps.

use std::{
    error::Error,
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::SystemTime,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, ProgramArray, Queue},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, ProgramError,
        SockOps, links::FdLink,
    },
};
use observer_common::{label::ResetCause, wire::kept, wire::slot::RESERVED_SLOTS};

use super::{
    KernelLogger, LoadError, Pins, ProbeState, Probes,
    adoption::Adopter,
    causes, cells, enumeration,
    load::Loaded,
    map_error,
    programs::{ADOPT, Hook, Need, Probe},
};
use crate::preflight;

/// What keeps the kernel side going, whoever attached it.
pub(super) struct Parts {
    pub(super) states: Vec<(&'static Probe, ProbeState)>,
    /// Detached when dropped, unless they are pinned.
    pub(super) links: Vec<(&'static Probe, FdLink)>,
    pub(super) programs: Vec<(&'static Probe, OwnedFd)>,
    /// By name, in the order of [`MAPS`].
    pub(super) maps: Vec<(&'static str, Map)>,
}

/// The maps that the daemon uses; the programs keep the others.
pub(super) const MAPS: [&str; 12] = [
    "SLOTS",
    "TABLE",
    "INDEX",
    "FREE",
    "BUDGETS",
    "LOSS",
    "PARSERS",
    "RECORDS",
    "RECORDS_WANTED",
    "CONNS",
    "RECONCILED",
    "WALKS",
];

/// The kernel side right after it was attached.
pub struct Attached {
    pub(super) parts: Parts,
    pub(super) ebpf: Ebpf,
    /// Before the first program was.
    since: SystemTime,
}

impl Loaded {
    /// Attaches everything that is loaded, the lifecycle first: a socket must have its state before a segment of it
    /// is looked at.
    ///
    /// # Errors
    /// If a mandatory program cannot be attached; what was attached is detached again.
    pub fn attach(mut self, cgroup_root: &Path) -> Result<Attached, LoadError> {
        let since = SystemTime::now();
        fill_table(&mut self.ebpf)?;
        fill_kept(&mut self.ebpf)?;
        fill_reset_causes(&mut self.ebpf)?;
        tell_order_of_errors(&mut self.ebpf)?;
        fill_parsers(&mut self.ebpf, &self.states)?;
        let root = File::open(cgroup_root).map_err(|error| LoadError::Attach {
            program: "segment_in",
            reason: format!("{}: {error}", cgroup_root.display()),
        })?;
        let (mut links, mut programs) = (Vec::new(), Vec::new());
        for (probe, state) in &mut self.states {
            if *state != ProbeState::Active {
                continue;
            }
            let program = self.ebpf.program_mut(probe.program).expect("loaded");
            let error = match attach_program(program, probe, &root) {
                Ok((fd, link)) => {
                    links.extend(link.map(|link| (*probe, link)));
                    programs.push((*probe, fd));
                    continue;
                }
                Err(error) => error,
            };
            let error = LoadError::Attach { program: probe.program, reason: causes(&*error) };
            match probe.need {
                Need::Mandatory => return Err(error),
                Need::Optional | Need::Instead(_) => {
                    *state = ProbeState::Unavailable(error.to_string());
                }
            }
        }
        let maps = MAPS
            .into_iter()
            .map(|name| Ok((name, take(&mut self.ebpf, name)?)))
            .collect::<Result<_, LoadError>>()?;
        let parts = Parts { states: self.states, links, programs, maps };
        Ok(Attached { parts, ebpf: self.ebpf, since })
    }
}

impl Attached {
    /// Starts to pass on the programs' own log lines to the `log` crate.
    ///
    /// # Errors
    /// If the log's ring buffer cannot be opened.
    pub fn kernel_log(&mut self) -> std::io::Result<KernelLogger> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(std::io::Error::other)
    }

    /// What adopts the connections that exist, once; `None` if this kernel has no iterator for it.
    ///
    /// # Errors
    /// If its table is not what it should be.
    pub fn adopter(&mut self) -> Result<Option<Adopter<'_>>, LoadError> {
        let found = HashMap::try_from(take(&mut self.ebpf, "FOUND")?)
            .map_err(|error| map_error("FOUND", &error))?;
        let mut active = self.parts.states.iter().filter(|(_, state)| *state == ProbeState::Active);
        let iterator = active.find(|(probe, _)| probe.program == ADOPT);
        Ok(iterator.map(|(probe, _)| {
            let program = self.ebpf.program_mut(probe.program).expect("loaded");
            Adopter { program: program.try_into().expect("an iterator"), found }
        }))
    }

    /// What serves from now on; pinned, if pins are given, under the fingerprint that is given with them.
    ///
    /// # Errors
    /// If it cannot be pinned, or a map is not what it should be.
    pub fn serve(mut self, pins: Option<(&Pins, &str)>) -> anyhow::Result<Probes> {
        if let Some((pins, fingerprint)) = pins {
            pins.keep(fingerprint, &mut self)?;
        }
        Ok(Probes::new(self.parts, pins.is_some(), self.since)?)
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or_else(|| not_there(name))
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, LoadError> {
    ebpf.map_mut(name).ok_or_else(|| not_there(name))
}

fn not_there(map: &'static str) -> LoadError {
    LoadError::Map { map, reason: "not in the object".to_owned() }
}

/// Every slot but those for overflow starts free.
fn fill_table(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let (slots, table) = (ebpf.map("SLOTS"), ebpf.map("TABLE"));
    let (slots, table) = slots.zip(table).ok_or_else(|| not_there("SLOTS"))?;
    let slots = cells::prepare(slots, table).map_err(|error| map_error("SLOTS", &error))?;
    let mut free: Queue<&mut MapData, u32> =
        Queue::try_from(map(ebpf, "FREE")?).map_err(|error| map_error("FREE", &error))?;
    for index in RESERVED_SLOTS..slots {
        free.push(index, 0).map_err(|error| map_error("FREE", &error))?;
    }
    Ok(())
}

/// All entries and blocks for kept segments start free; they go by their index plus one.
fn fill_kept(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for (name, count) in [
        ("KEPT_FREE", kept::ENTRIES),
        ("SMALL_FREE", kept::SMALL_BLOCKS),
        ("LARGE_FREE", kept::LARGE_BLOCKS),
    ] {
        let mut free: Queue<&mut MapData, u32> =
            Queue::try_from(map(ebpf, name)?).map_err(|error| map_error(name, &error))?;
        for index in 1..=count {
            free.push(index as u32, 0).map_err(|error| map_error(name, &error))?;
        }
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
        // `SO_LINGER` 0 is carried out as a disconnect (`__tcp_close`), and the kernel says no more than that.
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

fn fill_parsers(ebpf: &mut Ebpf, states: &[(&'static Probe, ProbeState)]) -> Result<(), LoadError> {
    for (probe, state) in states {
        if let (Hook::Parser(slot), ProbeState::Active) = (probe.hook, state) {
            let fd = <&CgroupSkb>::try_from(ebpf.program(probe.program).expect("loaded"))
                .and_then(|program| program.fd()?.try_clone().map_err(ProgramError::IOError))
                .map_err(|error| map_error("PARSERS", &error))?;
            let mut parsers: ProgramArray<&mut MapData> =
                ProgramArray::try_from(map(ebpf, "PARSERS")?)
                    .map_err(|error| map_error("PARSERS", &error))?;
            parsers.set(slot, &fd, 0).map_err(|error| map_error("PARSERS", &error))?;
        }
    }
    Ok(())
}

/// Attaches a program; its descriptor, and the link that keeps it attached if its hook has one.
fn attach_program(
    program: &mut Program,
    probe: &Probe,
    root: &File,
) -> Result<(OwnedFd, Option<FdLink>), Box<dyn Error>> {
    let fd = program.fd()?.as_fd().try_clone_to_owned()?;
    let link = match probe.hook {
        Hook::Parser(_) | Hook::Iterator(_) => None,
        Hook::CgroupIngress | Hook::CgroupEgress => {
            let at = if matches!(probe.hook, Hook::CgroupIngress) {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            let program = <&mut CgroupSkb>::try_from(program)?;
            // A link shares its hook with others by nature; the kernel refuses the flag that says so.
            let link = program.attach(root, at, CgroupAttachMode::Single)?;
            Some(program.take_link(link)?.try_into()?)
        }
        Hook::SocketCallbacks => {
            let program = <&mut SockOps>::try_from(program)?;
            let link = program.attach(root, CgroupAttachMode::Single)?;
            Some(program.take_link(link)?.try_into()?)
        }
        Hook::Tracepoint(_) => {
            let program = <&mut BtfTracePoint>::try_from(program)?;
            let link = program.attach()?;
            Some(program.take_link(link)?.into())
        }
    };
    Ok((fd, link))
}
