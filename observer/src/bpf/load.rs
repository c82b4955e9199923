//! From the object to programs that the kernel has verified.

use std::{
    collections::HashMap,
    num::NonZero,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, CgroupSkb, Iter, Program, ProgramError, SockOps},
};

use super::{
    LoadError, Options, ProbeState, causes,
    programs::{DISPATCHERS, Hook, Need, PROBES, Probe},
};
use crate::kernel_log::KernelLog;

/// The object built from `observer-ebpf`.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf"));

/// Programs that are loaded, verified, and not attached yet.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) states: Vec<(&'static Probe, ProbeState)>,
}

impl Loaded {
    /// How each probe ended up.
    #[must_use]
    pub fn states(&self) -> &[(&'static Probe, ProbeState)] {
        &self.states
    }
}

/// The maps that all builds of an ABI share. Each build has the others for itself: tables of parsers, what one program hands
/// to the next, records.
pub(super) const SHARED: [&str; 23] = [
    "CONNS",
    "SLOTS",
    "TABLE",
    "INDEX",
    "FREE",
    "BUDGETS",
    "LOSS",
    "REPLICAS",
    "SYNS",
    "NOTE",
    "KEPT",
    "SMALL_BLOCKS",
    "LARGE_BLOCKS",
    "KEPT_FREE",
    "GRAVES",
    "SMALL_FREE",
    "LARGE_FREE",
    "PENDING",
    "AT_STATE",
    "AT_DESTROY",
    "AT_RESET_IN",
    "AT_RESET_OUT",
    "AT_ERROR",
];

/// Loads and verifies every program, with maps of its own.
///
/// # Errors
/// If a mandatory program cannot be loaded. An optional one that cannot is told by [`Loaded::states`].
pub fn load(options: &Options<'_>) -> Result<Loaded, LoadError> {
    load_with(options, None)
}

/// As [`load`], with the shared maps that are pinned in a directory: all of [`SHARED`] are.
///
/// # Errors
/// As [`load`].
pub(super) fn load_with(options: &Options<'_>, shared: Option<&Path>) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(causes(&error)))?;
    let log_level: u8 = match options.kernel_log {
        KernelLog::Off => 0,
        KernelLog::Debug => aya_log::Level::Debug as u8,
    };
    let empty = u8::from(options.simulate_empty);
    let detour = u8::from(options.simulate_build.is_some());
    let mut loader = EbpfLoader::new();
    for name in SHARED {
        if let Some(directory) = shared {
            loader.map_pin_path(name, directory.join(name));
        }
    }
    let mut ebpf = loader
        .btf(Some(&btf))
        .override_global(aya_log::LEVEL, &log_level, false)
        .override_global("EMPTY", &empty, true)
        .override_global("DETOUR", &detour, true)
        .map_max_entries("SLOTS", options.cells)
        .map_max_entries("INDEX", options.cells)
        .map_max_entries("RECONCILED", options.cells)
        .map_max_entries("FREE", options.cells)
        .map_max_entries("RECORDS", options.record_buffer)
        .load(OBJECT)
        .map_err(|error| LoadError::Object(causes(&error)))?;
    let states = load_programs(&mut ebpf, &btf, options)?;
    Ok(Loaded { ebpf, states })
}

/// Has every program verified but those that a better one has made superfluous. How each ended up, in the order of the
/// table.
fn load_programs(
    ebpf: &mut Ebpf,
    btf: &Btf,
    options: &Options<'_>,
) -> Result<Vec<(&'static Probe, ProbeState)>, LoadError> {
    let lesser: Vec<_> = PROBES.iter().filter_map(|probe| instead_of(probe)).collect();
    let (second, first): (Vec<_>, Vec<_>) =
        PROBES.iter().partition(|probe| lesser.contains(&probe.program));
    let mut states = verify(ebpf, btf, options, first)?;
    let superseded: Vec<_> = states
        .iter()
        .filter(|(_, state)| *state == ProbeState::Active)
        .filter_map(|(probe, _)| instead_of(probe))
        .collect();
    let needed = second.into_iter().filter(|probe| !superseded.contains(&probe.program));
    states.extend(verify(ebpf, btf, options, needed.collect())?);
    for (probe, state) in &mut states {
        if *state == ProbeState::Active
            && let Err(error) = load_dispatcher(ebpf, btf, probe)
        {
            match probe.need {
                Need::Mandatory => return Err(error),
                Need::Optional | Need::Instead(_) => {
                    *state = ProbeState::Unavailable(error.reason());
                }
            }
        }
    }
    let position = |probe: &Probe| PROBES.iter().position(|of| of.program == probe.program);
    states.sort_by_key(|(probe, _)| position(probe));
    Ok(states)
}

/// The program that is not needed if this one is there.
fn instead_of(probe: &Probe) -> Option<&'static str> {
    match probe.need {
        Need::Instead(lesser) => Some(lesser),
        Need::Mandatory | Need::Optional => None,
    }
}

/// The most programs that are verified at a time: the kernel takes some 20 MiB for each of the larger ones.
const AT_A_TIME: usize = 4;

/// Has programs verified side by side, where there is more than one processor: each takes the kernel up to a second. An
/// error if it refuses a mandatory one: the first of them.
fn verify(
    ebpf: &mut Ebpf,
    btf: &Btf,
    options: &Options<'_>,
    probes: Vec<&'static Probe>,
) -> Result<Vec<(&'static Probe, ProbeState)>, LoadError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(AT_A_TIME);
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let jobs: Vec<_> = probes
        .into_iter()
        .enumerate()
        .map(|(number, probe)| (number, probe, programs.remove(probe.program)))
        .collect();
    let jobs = Mutex::new(jobs.into_iter());
    let refused = AtomicBool::new(false);
    let work = || {
        let mut done = Vec::new();
        // Jobs are taken in order, so those before one that is refused are done whatever the other threads do.
        while !refused.load(Ordering::Relaxed)
            && let Some((number, probe, program)) = next(&jobs)
        {
            let result = load_program(program, btf, options, probe);
            if result.is_err() && probe.need == Need::Mandatory {
                refused.store(true, Ordering::Relaxed);
            }
            done.push((number, probe, result));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    done.sort_by_key(|(number, ..)| *number);
    done.into_iter()
        .map(|(_, probe, result)| match (result, probe.need) {
            (Ok(()), _) => Ok((probe, ProbeState::Active)),
            (Err(error), Need::Mandatory) => Err(error),
            (Err(error), Need::Optional | Need::Instead(_)) => {
                Ok((probe, ProbeState::Unavailable(error.reason())))
            }
        })
        .collect()
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn load_program(
    program: Option<&mut Program>,
    btf: &Btf,
    options: &Options<'_>,
    probe: &'static Probe,
) -> Result<(), LoadError> {
    let lacks = |lacking: &String| [probe.hook.name(), probe.program].contains(&lacking.as_str());
    if options.simulate_lacking.iter().any(lacks) {
        return Err(LoadError::NoHook { hook: probe.hook.name() });
    }
    let program = program.ok_or_else(|| not_there(probe.program))?;
    let refused = |error| refused(probe.program, probe.hook, &error);
    match probe.hook {
        Hook::CgroupIngress | Hook::CgroupEgress | Hook::Parser(_) => {
            <&mut CgroupSkb>::try_from(program).and_then(CgroupSkb::load).map_err(refused)
        }
        Hook::SocketCallbacks => {
            <&mut SockOps>::try_from(program).and_then(SockOps::load).map_err(refused)
        }
        Hook::Iterator(name) => <&mut Iter>::try_from(program)
            .and_then(|program| program.load(name.trim_start_matches("iter/"), btf))
            .map_err(refused),
        Hook::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program)
            .and_then(|program| program.load(name, btf))
            .map_err(refused),
    }
}

/// Has the dispatcher verified that calls this probe's program, if it is one for a tracepoint.
fn load_dispatcher(ebpf: &mut Ebpf, btf: &Btf, probe: &Probe) -> Result<(), LoadError> {
    let Hook::Tracepoint(name) = probe.hook else { return Ok(()) };
    for dispatcher in DISPATCHERS.iter().filter(|dispatcher| dispatcher.tracepoint == name) {
        let program = ebpf.program_mut(dispatcher.program);
        let program = program.ok_or_else(|| not_there(dispatcher.program))?;
        <&mut BtfTracePoint>::try_from(program)
            .and_then(|program| program.load(name, btf))
            .map_err(|error| refused(dispatcher.program, probe.hook, &error))?;
    }
    Ok(())
}

fn not_there(program: &'static str) -> LoadError {
    LoadError::Program { program, reason: "not in the object".to_owned() }
}

fn refused(program: &'static str, hook: Hook, error: &ProgramError) -> LoadError {
    match error {
        ProgramError::Btf(aya::BtfError::UnknownBtfTypeName { .. }) => {
            LoadError::NoHook { hook: hook.name() }
        }
        error => LoadError::Program { program, reason: verdict(error) },
    }
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

#[cfg(test)]
mod tests {
    use memchr::memmem::find;

    use super::OBJECT;

    #[test]
    fn the_embedded_object_has_types_and_no_debug_information() {
        assert!(find(OBJECT, b".BTF.ext").is_some(), "the kernel asks for it");
        assert!(find(OBJECT, b".debug_").is_none(), "it would be four fifths of the object");
    }
}
