//! From verified programs to attached ones, and to the maps that the daemon keeps.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::SystemTime,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, ProgramArray, Queue},
    programs::{CgroupSkb, ProgramError},
};
use observer_common::{label::ResetCause, wire::kept, wire::slot::RESERVED_SLOTS};

use super::{
    KernelLogger, LoadError, Options, Pins, ProbeState, Probes,
    adoption::Adopter,
    causes, cells, enumeration,
    load::{Loaded, SHARED},
    map_error,
    programs::{ADOPT, DISPATCHERS, Dispatcher, Hook, Need, Probe},
    sys,
};
use crate::preflight;

/// What all builds of an ABI share, whoever attached it.
pub(super) struct Shared {
    /// By the name of the hook ([`Hook::link`]). Detached when dropped, unless they are pinned.
    pub(super) links: Vec<(&'static str, OwnedFd)>,
    /// What is attached to the tracepoints.
    pub(super) dispatchers: Vec<(&'static Dispatcher, OwnedFd)>,
    /// By name, in the order of [`SHARED`].
    pub(super) maps: Vec<(&'static str, Map)>,
}

/// What belongs to one build.
pub(super) struct Build {
    pub(super) states: Vec<(&'static Probe, ProbeState)>,
    pub(super) programs: Vec<(&'static Probe, OwnedFd)>,
    /// By name, in the order of [`OWN`].
    pub(super) maps: Vec<(&'static str, Map)>,
}

/// The maps of a build that the daemon uses; its programs keep the others.
pub(super) const OWN: [&str; 5] = ["PARSERS", "RECORDS", "RECORDS_WANTED", "RECONCILED", "WALKS"];

/// The kernel side right after it was attached.
pub struct Attached {
    pub(super) shared: Shared,
    pub(super) build: Build,
    ebpf: Ebpf,
    /// Before the first program was.
    since: SystemTime,
}

impl Loaded {
    /// Attaches everything that is loaded, the lifecycle first: a socket must have its state before a segment of it
    /// is looked at. `cgroups` are those that there are, each with the number of whom it belongs to.
    ///
    /// # Errors
    /// If a mandatory program cannot be attached; what was attached is detached again.
    pub fn attach(
        mut self,
        cgroup_root: &Path,
        cgroups: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<Attached, LoadError> {
        let since = SystemTime::now();
        let newest = fill_replicas(&mut self.ebpf, cgroups)?;
        fill_table(&mut self.ebpf, newest)?;
        fill_kept(&mut self.ebpf)?;
        let dispatchers = self.dispatchers()?;
        let maps = take_all(&mut self.ebpf, &SHARED)?;
        let mut shared = Shared { links: Vec::new(), dispatchers, maps };
        let (mut build, ebpf) = self.into_build()?;
        let root = open_root(cgroup_root)?;
        let Build { states, programs, .. } = &mut build;
        for (probe, state) in states {
            if *state != ProbeState::Active {
                continue;
            }
            let program = programs.iter().find(|(of, _)| of == probe).expect("loaded").1.as_fd();
            let Err(error) = shared.attach(probe.hook, program, &root) else { continue };
            let error = LoadError::Attach { program: probe.program, reason: causes(&error) };
            match probe.need {
                Need::Mandatory => return Err(error),
                Need::Optional | Need::Instead(_) => {
                    *state = ProbeState::Unavailable(error.to_string());
                    programs.retain(|(of, _)| of != probe);
                }
            }
        }
        Ok(Attached { shared, build, ebpf, since })
    }

    /// The dispatchers of the tracepoints that there are programs for.
    pub(super) fn dispatchers(&self) -> Result<Vec<(&'static Dispatcher, OwnedFd)>, LoadError> {
        let mut dispatchers = Vec::new();
        for (probe, state) in &self.states {
            let (Hook::Tracepoint(name), ProbeState::Active) = (probe.hook, state) else {
                continue;
            };
            for dispatcher in DISPATCHERS.iter().filter(|of| of.tracepoint == name) {
                dispatchers.push((dispatcher, self.program(dispatcher.program)?));
            }
        }
        Ok(dispatchers)
    }

    /// What belongs to this build, ready to be attached.
    pub(super) fn into_build(mut self) -> Result<(Build, Ebpf), LoadError> {
        fill_reset_causes(&mut self.ebpf)?;
        tell_order_of_errors(&mut self.ebpf)?;
        fill_parsers(&mut self.ebpf, &self.states)?;
        let mut programs = Vec::new();
        for (probe, state) in &self.states {
            if *state == ProbeState::Active {
                programs.push((*probe, self.program(probe.program)?));
            }
        }
        let maps = take_all(&mut self.ebpf, &OWN)?;
        Ok((Build { states: self.states, programs, maps }, self.ebpf))
    }

    fn program(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        let fd = self.ebpf.program(name).expect("loaded").fd().map_err(io::Error::other);
        fd.and_then(|fd| fd.as_fd().try_clone_to_owned())
            .map_err(|error| LoadError::Program { program: name, reason: causes(&error) })
    }
}

impl Shared {
    /// Lets a program run at its hook, if it has one, from now on; whatever runs there instead runs no more.
    pub(super) fn attach(
        &mut self,
        hook: Hook,
        program: BorrowedFd<'_>,
        root: &File,
    ) -> io::Result<()> {
        let Some(name) = hook.link() else { return Ok(()) };
        let link = self.links.iter().find(|(of, _)| *of == name).map(|(_, link)| link.as_fd());
        let link = match (hook, link) {
            (Hook::Tracepoint(_), link) => {
                let array = self.array(name)?;
                sys::store(array, 0, program)?;
                if link.is_some() {
                    return Ok(());
                }
                let dispatcher = self.dispatchers.iter().find(|(of, _)| of.tracepoint == name);
                let (_, dispatcher) =
                    dispatcher.ok_or_else(|| io::Error::other("it has no dispatcher"))?;
                sys::attach_to_tracepoint(dispatcher.as_fd())?
            }
            (_, Some(link)) => return sys::replace(link, program),
            (hook, None) => sys::attach_to_cgroup(program, root.as_fd(), attach_type(hook))?,
        };
        self.links.push((name, link));
        Ok(())
    }

    /// The size of the table.
    pub(super) fn cells(&self) -> Result<u32, LoadError> {
        let Some((_, Map::Array(slots))) = self.maps.iter().find(|(name, _)| *name == "SLOTS")
        else {
            return Err(not_there("SLOTS"));
        };
        Ok(slots.info().map_err(|error| map_error("SLOTS", &error))?.max_entries())
    }

    /// The array of a tracepoint's dispatcher.
    pub(super) fn array(&self, tracepoint: &str) -> io::Result<BorrowedFd<'_>> {
        let of = DISPATCHERS.iter().find(|dispatcher| dispatcher.tracepoint == tracepoint);
        let array = of.and_then(|of| self.maps.iter().find(|(name, _)| *name == of.array));
        match array {
            Some((_, Map::ProgramArray(array))) => Ok(array.fd().as_fd()),
            _ => Err(io::Error::other("it has no array of programs")),
        }
    }
}

/// `enum bpf_attach_type` of a hook of a cgroup.
const fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::CgroupEgress => 1,
        Hook::SocketCallbacks => 3,
        _ => 0,
    }
}

/// Opens the cgroup that programs are attached to.
pub(super) fn open_root(cgroup_root: &Path) -> Result<File, LoadError> {
    File::open(cgroup_root).map_err(|error| LoadError::Attach {
        program: "segment_in",
        reason: format!("{}: {error}", cgroup_root.display()),
    })
}

impl Attached {
    /// Starts to pass on the programs' own log lines to the `log` crate.
    ///
    /// # Errors
    /// If the log's ring buffer cannot be opened.
    pub fn kernel_log(&mut self) -> io::Result<KernelLogger> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(io::Error::other)
    }

    /// What adopts the connections that exist, once; `None` if this kernel has no iterator for it.
    ///
    /// # Errors
    /// If its table is not what it should be.
    pub fn adopter(&mut self) -> Result<Option<Adopter<'_>>, LoadError> {
        let found = HashMap::try_from(take(&mut self.ebpf, "FOUND")?)
            .map_err(|error| map_error("FOUND", &error))?;
        let iterator = self.build.programs.iter().find(|(probe, _)| probe.program == ADOPT);
        Ok(iterator.map(|(probe, _)| {
            let program = self.ebpf.program_mut(probe.program).expect("loaded");
            Adopter { program: program.try_into().expect("an iterator"), found }
        }))
    }

    /// What serves from now on; pinned, if pins are given, under the fingerprint that is given with them.
    ///
    /// # Errors
    /// If it cannot be pinned, or a map is not what it should be.
    pub fn serve(self, pins: Option<(&Pins, &Options<'_>, &str)>) -> anyhow::Result<Probes> {
        if let Some((pins, options, fingerprint)) = pins {
            pins.keep(fingerprint, options, &self)?;
        }
        Ok(Probes::new(self.shared, self.build, pins.is_some(), self.since)?)
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or_else(|| not_there(name))
}

fn take_all(
    ebpf: &mut Ebpf,
    names: &[&'static str],
) -> Result<Vec<(&'static str, Map)>, LoadError> {
    names.iter().map(|&name| Ok((name, take(ebpf, name)?))).collect()
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, LoadError> {
    ebpf.map_mut(name).ok_or_else(|| not_there(name))
}

fn not_there(map: &'static str) -> LoadError {
    LoadError::Map { map, reason: "not in the object".to_owned() }
}

/// Every slot but those for overflow starts free.
fn fill_table(ebpf: &mut Ebpf, newest_cgroup: u64) -> Result<(), LoadError> {
    let (slots, table) = (ebpf.map("SLOTS"), ebpf.map("TABLE"));
    let (slots, table) = slots.zip(table).ok_or_else(|| not_there("SLOTS"))?;
    let slots = cells::prepare(slots, table, newest_cgroup);
    let slots = slots.map_err(|error| map_error("SLOTS", &error))?;
    let mut free: Queue<&mut MapData, u32> =
        Queue::try_from(map(ebpf, "FREE")?).map_err(|error| map_error("FREE", &error))?;
    for index in RESERVED_SLOTS..slots {
        free.push(index, 0).map_err(|error| map_error("FREE", &error))?;
    }
    Ok(())
}

/// The programs have to tell pods apart from the first connection on. The newest of the cgroups: the kernel gives them
/// numbers that grow.
fn fill_replicas(
    ebpf: &mut Ebpf,
    cgroups: impl IntoIterator<Item = (u64, u64)>,
) -> Result<u64, LoadError> {
    let mut replicas: HashMap<&mut MapData, u64, u64> =
        HashMap::try_from(map(ebpf, "REPLICAS")?).map_err(|error| map_error("REPLICAS", &error))?;
    let mut newest = 0;
    for (cgroup, number) in cgroups {
        replicas.insert(cgroup, number, 0).map_err(|error| map_error("REPLICAS", &error))?;
        newest = newest.max(cgroup);
    }
    Ok(newest)
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
