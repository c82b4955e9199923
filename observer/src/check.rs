//! `observer check`: what this kernel and these privileges allow, line by line; attaches nothing.

use std::{fmt::Display, io};

use crate::{
    access::Access,
    bpf::{self, LoadError, Options, ProbeState},
    cli::{RunArgs, Variables},
    config::Config,
    exit::Code,
    kube, logging, output, preflight, run,
};

/// Prints the lines and returns [`Code::Success`] only if `run` would start.
///
/// # Errors
/// If the command line itself is wrong, or the lines cannot be written.
pub fn check(args: RunArgs, variables: &Variables) -> anyhow::Result<Code> {
    let config = Config::try_from(args)?;
    let _log = logging::start(config.log_format)?;
    let mut report = Report { failed: None, variables };
    output::line(format_args!("ok    kernel: {}", preflight::kernel_release()))?;
    let privileges = preflight::privileges();
    let may_load = privileges.is_ok();
    report.line(
        "privileges",
        privileges.map(|()| "BPF programs may be loaded".to_owned()),
        Code::Unsupported,
    )?;
    report.line(
        "type information",
        preflight::btf().map(|()| preflight::BTF.to_owned()),
        Code::Unsupported,
    )?;
    report.line(
        "cgroup v2",
        preflight::cgroup_root(config.cgroup_root.as_deref())
            .map(|(root, layout)| format!("{} ({layout})", root.display())),
        Code::Unsupported,
    )?;
    match kube::source(&config.kube) {
        Ok(Ok(source)) => output::line(format_args!("ok    names of pods: {source}"))?,
        Ok(Err(nameless)) => output::line(format_args!(
            "miss  names of pods: {nameless}; without them: pods go by their UID"
        ))?,
        Err(error) => report.line::<kube::SourceError>("names of pods", Err(error), Code::Usage)?,
    }
    if may_load {
        programs(&mut report, &config.options())?;
    } else {
        output::line("skip  kernel programs: they cannot be tried without privileges")?;
    }
    report.line(
        "access to the endpoints",
        Access::load(config.access).map(|access| access.to_string()),
        Code::Usage,
    )?;
    report.line(
        "listen address",
        run::bind("--listen", config.listen).map(|_| config.listen.to_string()),
        Code::Address,
    )?;
    if let Some(address) = config.self_listen {
        report.line(
            "own listen address",
            run::bind("--self-listen", address).map(|_| address.to_string()),
            Code::Address,
        )?;
    }
    match report.failed {
        None => {
            output::line("observer can run here.")?;
            Ok(Code::Success)
        }
        Some(code) => {
            output::line("observer cannot run here: see the lines that start with FAIL.")?;
            Ok(code)
        }
    }
}

fn programs(report: &mut Report<'_>, options: &Options<'_>) -> io::Result<()> {
    match bpf::load(options) {
        Ok(loaded) => {
            for (probe, state) in loaded.states() {
                let name = format!("{} ({})", probe.program, probe.hook.name());
                match state {
                    ProbeState::Active => report.line::<LoadError>(
                        &name,
                        Ok(probe.tells.to_owned()),
                        Code::Unsupported,
                    )?,
                    ProbeState::Unavailable(reason) => output::line(format_args!(
                        "miss  {name}: {reason}; without it: {}",
                        probe.tells
                    ))?,
                }
            }
            Ok(())
        }
        Err(error) => report.line("kernel programs", Err(error), Code::Unsupported),
    }
}

struct Report<'a> {
    failed: Option<Code>,
    variables: &'a Variables,
}

impl Report<'_> {
    fn line<E: Display>(
        &mut self,
        what: &str,
        found: Result<String, E>,
        code: Code,
    ) -> io::Result<()> {
        match found {
            Ok(text) => output::line(format_args!("ok    {what}: {text}")),
            Err(error) => {
                self.failed.get_or_insert(code);
                let error = self.variables.explain(error.to_string());
                output::line(format_args!("FAIL  {what}: {error}"))
            }
        }
    }
}
