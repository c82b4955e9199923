//! From the object to programs that the kernel has verified.

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, CgroupSkb, Iter, ProgramError, SockOps},
};

use super::{
    LoadError, Options, ProbeState, causes,
    programs::{Hook, Need, PROBES, Probe},
};
use crate::cli::KernelLog;

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
    let empty = u8::from(options.simulate_empty);
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global(aya_log::LEVEL, &log_level, false)
        .override_global("EMPTY", &empty, true)
        .map_max_entries("SLOTS", options.cells)
        .map_max_entries("INDEX", options.cells)
        .map_max_entries("CENSUS", options.cells)
        .map_max_entries("FREE", options.cells)
        .map_max_entries("RECORDS", options.record_buffer)
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
                states.push((probe, ProbeState::Unavailable(error.reason())));
            }
        }
    }
    Ok(Loaded { ebpf, states })
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
        Hook::Iterator(name) => <&mut Iter>::try_from(program)
            .and_then(|program| program.load(name.trim_start_matches("iter/"), btf))
            .map_err(refused),
        Hook::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program)
            .and_then(|program| program.load(name, btf))
            .map_err(refused),
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
