//! `observer check`: what this kernel and these privileges allow, line by line; attaches nothing.

use crate::{
    bpf::{self, LoadError, Options, ProbeState},
    cli::RunArgs,
    config::Config,
    exit::Code,
    kube, logging, preflight, run,
};

/// Prints the lines and returns [`Code::Success`] only if `run` would start.
///
/// # Errors
/// If the command line itself is wrong.
pub fn check(args: RunArgs) -> anyhow::Result<Code> {
    let config = Config::try_from(args)?;
    logging::start(config.log_format);
    let mut report = Report { failed: None };
    println!("ok    kernel: {}", preflight::kernel_release());
    let privileges = preflight::privileges();
    let may_load = privileges.is_ok();
    report.line(
        "privileges",
        privileges.map(|()| "BPF programs may be loaded".to_owned()),
        Code::Unsupported,
    );
    report.line(
        "type information",
        preflight::btf().map(|()| preflight::BTF.to_owned()),
        Code::Unsupported,
    );
    report.line(
        "cgroup v2",
        preflight::cgroup_root(config.cgroup_root.as_deref())
            .map(|(root, layout)| format!("{} ({layout})", root.display())),
        Code::Unsupported,
    );
    match kube::source(&config.kube) {
        Ok(Ok(source)) => println!("ok    names of pods: {source}"),
        Ok(Err(nameless)) => {
            println!("miss  names of pods: {nameless}; without them: pods go by their UID");
        }
        Err(error) => report.line::<kube::SourceError>("names of pods", Err(error), Code::Usage),
    }
    if may_load {
        programs(&mut report, &config.options());
    } else {
        println!("skip  kernel programs: they cannot be tried without privileges");
    }
    report.line(
        "listen address",
        run::bind("--listen", config.listen).map(|_| config.listen.to_string()),
        Code::Address,
    );
    if let Some(address) = config.self_listen {
        report.line(
            "own listen address",
            run::bind("--self-listen", address).map(|_| address.to_string()),
            Code::Address,
        );
    }
    match report.failed {
        None => {
            println!("observer can run here.");
            Ok(Code::Success)
        }
        Some(code) => {
            println!("observer cannot run here: see the lines that start with FAIL.");
            Ok(code)
        }
    }
}

fn programs(report: &mut Report, options: &Options<'_>) {
    match bpf::load(options) {
        Ok(loaded) => {
            for (probe, state) in loaded.states() {
                let name = format!("{} ({})", probe.program, probe.hook.name());
                match state {
                    ProbeState::Active => report.line::<LoadError>(
                        &name,
                        Ok(probe.tells.to_owned()),
                        Code::Unsupported,
                    ),
                    ProbeState::Unavailable(reason) => {
                        println!("miss  {name}: {reason}; without it: {}", probe.tells);
                    }
                }
            }
        }
        Err(error) => report.line("kernel programs", Err(error), Code::Unsupported),
    }
}

struct Report {
    failed: Option<Code>,
}

impl Report {
    fn line<E: std::fmt::Display>(&mut self, what: &str, found: Result<String, E>, code: Code) {
        match found {
            Ok(text) => println!("ok    {what}: {text}"),
            Err(error) => {
                println!("FAIL  {what}: {error}");
                self.failed.get_or_insert(code);
            }
        }
    }
}
