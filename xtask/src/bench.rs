//! `cargo xtask bench`: what the kernel programs and the daemon cost, beside the targets.
//!
//! | module | what it does |
//! |---|---|
//! | [`loads`] | the loads, each of which counts its own operations, and the servers behind them |
//! | [`watcher`] | what may watch meanwhile: nothing, the observer, Debian's tcplife or tcpstates |
//! | [`kernel`] | the kernel's run-time statistics of a process's BPF programs |
//! | [`compare`] | throughput with and without a watcher, interleaved |
//! | [`pods`] | memory and scrape time of the daemon with many pods |
//! | [`detail`] | series and bytes of typical pods, at each level of detail |
//! | [`held`] | memory of the daemon with very many connections |
//! | [`report`] | the targets, the Markdown table and the JSON |
//!
//! Everything goes over loopback. All that was started is ended, and the switch of the kernel's
//! statistics is put back.

mod compare;
mod detail;
mod held;
mod kernel;
mod loads;
mod pods;
mod report;
mod watcher;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use clap::{Args, ValueEnum};
use kernel::Statistics;
use loads::{Load, Servers};
use report::{BpfTime, ProgramRow, Results};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use watcher::{Kind, Watcher};

use crate::machine::Machine;
use crate::setup::{self, Purpose};
use crate::{cmd, documents};

/// What the bench is told on its command line.
#[derive(Args)]
pub(crate) struct Options {
    /// Shorter runs: about two minutes in all
    #[arg(long)]
    quick: bool,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// Put the tables into docs/cost.md and docs/cardinality.md; with --only, those that there are
    #[arg(long)]
    write_docs: bool,
    /// The directory of the programs, once they are built
    #[arg(long, hide = true)]
    programs: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// The programs in the kernel, and what they cost the loads
    Kernel,
    /// The daemon with many pods and with many connections
    Daemon,
    /// Series and bytes of typical pods
    Series,
}

impl Part {
    /// How the documents mark its tables.
    const fn mark(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Daemon => "daemon",
            Self::Series => "series",
        }
    }
}

/// How much is measured.
struct Plan {
    /// Rounds of the comparison: each runs every load without and with each watcher.
    rounds: usize,
    /// Rounds of BPF time: each runs every load with each watcher.
    bpf_rounds: usize,
    /// How long a load runs.
    run: Duration,
    /// Scrapes per number of pods.
    scrapes: usize,
}

impl Plan {
    fn new(quick: bool) -> Self {
        if quick {
            Self { rounds: 5, bpf_rounds: 1, run: Duration::from_secs(1), scrapes: 10 }
        } else {
            Self { rounds: 7, bpf_rounds: 3, run: Duration::from_secs(3), scrapes: 50 }
        }
    }
}

/// Builds what is measured, and measures it as root.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(programs) = &options.programs {
        return measure(programs, options);
    }
    setup::ensure(&[Purpose::Build, Purpose::Bench])?;
    let build = ["build", "--release", "--package", "observer"];
    cmd::run(&mut cmd::cargo(&build))?;
    cmd::run(cmd::cargo(&build).args(["--example", "workload"]))?;
    let programs = cmd::target_directory()?.join("release");
    if cmd::is_root() {
        return measure(&programs, options);
    }
    let mut again = cmd::as_root(env::current_exe()?)?;
    again.arg("bench").arg("--programs").arg(programs);
    again.args(options.quick.then_some("--quick"));
    again.args(options.write_docs.then_some("--write-docs"));
    if let Some(part) = options.only.and_then(|part| part.to_possible_value()) {
        again.args(["--only", part.get_name()]);
    }
    cmd::show(&again);
    Err(Error::new(again.exec()).context("starting the bench"))
}

/// Measures everything and writes the results to the directory `bench` beside `programs`.
fn measure(programs: &Path, options: &Options) -> Result<()> {
    let interrupted = Interrupted::watch()?;
    let _alone = alone(&interrupted)?;
    let plan = Plan::new(options.quick);
    let directory = programs.parent().context("the programs lie in a directory")?.join("bench");
    fs::create_dir_all(&directory)?;
    let log = File::create(directory.join("bench.log"))?;
    let _statistics = Statistics::take_over()?;
    let bench = Bench { programs, plan, log, interrupted };

    let machine = Machine::look()?;
    let wants = |part| options.only.is_none_or(|only| only == part);
    let mut results = Results::of(machine, options.quick);
    if wants(Part::Kernel) {
        let mut servers = Servers::start(&bench)?;
        let (kinds, skipped) = bench.watchers();
        results.skipped = skipped;
        (results.programs, results.bpf_times) = bench.bpf_time(&mut servers, &kinds)?;
        let (comparisons, start_up) = compare::run(&bench, &mut servers, &kinds)?;
        (results.comparisons, results.start_up_ms) = (comparisons, Some(start_up));
    }
    if wants(Part::Daemon) {
        results.pods = pods::measure(&bench)?;
        match held::measure(&bench) {
            Ok(held) => results.held = Some(held),
            Err(error) => results.skipped.push(format!("many connections: {error:#}")),
        }
    }
    if wants(Part::Series) {
        results.detail = detail::measure(&bench)?;
    }
    results.judge();
    let mut markdown = String::new();
    for (part, page) in
        [(Part::Kernel, "cost"), (Part::Daemon, "cost"), (Part::Series, "cardinality")]
    {
        if wants(part) {
            let tables = results.markdown(part);
            if options.write_docs {
                let page = cmd::workspace().join(format!("docs/{page}.md"));
                documents::write(&page, part.mark(), &tables)?;
            }
            markdown.push_str(&tables);
        }
    }
    print!("{markdown}");
    fs::write(directory.join("results.md"), markdown)?;
    fs::write(directory.join("results.json"), serde_json::to_string_pretty(&results)?)?;
    cmd::say("*", &format!("written to {}", directory.join("results.{md,json}").display()));
    Ok(())
}

/// What every part of the bench needs.
struct Bench<'a> {
    /// Where `observer` and `examples/workload` are.
    programs: &'a Path,
    plan: Plan,
    /// What the programs under way have to say.
    log: File,
    interrupted: Interrupted,
}

impl Bench<'_> {
    /// The watchers that run here, and for each other one why it does not.
    fn watchers(&self) -> (Vec<Kind>, Vec<String>) {
        let (mut kinds, mut skipped) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            match Watcher::start(kind, self).and_then(Watcher::stop) {
                Ok(()) => kinds.push(kind),
                Err(error) => skipped.push(format!("{}: {error:#}", kind.name())),
            }
        }
        (kinds, skipped)
    }

    /// Runs every load with the kernel's statistics on. Of the runs of a load with a watcher the one in the middle counts:
    /// what else goes on at this machine comes in bursts.
    fn bpf_time(
        &self,
        servers: &mut Servers,
        kinds: &[Kind],
    ) -> Result<(Vec<ProgramRow>, Vec<BpfTime>)> {
        let mut runs = Vec::new();
        Statistics::switch(true)?;
        for round in 1..=self.plan.bpf_rounds {
            for &kind in kinds {
                cmd::say("*", &format!("BPF time of {}: round {round}", kind.name()));
                runs.extend(self.bpf_time_of(kind, servers)?);
            }
        }
        Statistics::switch(false)?;
        let (mut rows, mut times) = (Vec::new(), Vec::new());
        for &kind in kinds {
            for load in Load::ALL {
                let is_one =
                    |(time, _): &mut (BpfTime, _)| time.watcher == kind && time.load == load;
                let mut same: Vec<_> = runs.extract_if(.., is_one).collect();
                same.sort_by(|(one, _), (other, _)| {
                    one.ns_per_operation.total_cmp(&other.ns_per_operation)
                });
                let (time, programs) = same.swap_remove(same.len() / 2);
                times.push(time);
                rows.extend(programs);
            }
        }
        Ok((rows, times))
    }

    /// Runs every load once with a watcher.
    fn bpf_time_of(
        &self,
        kind: Kind,
        servers: &mut Servers,
    ) -> Result<Vec<(BpfTime, Vec<ProgramRow>)>> {
        let watcher = Watcher::start(kind, self)?;
        let names = kernel::names()?;
        let mut runs = Vec::new();
        for load in Load::ALL {
            self.interrupted.check()?;
            let before = kernel::figures(watcher.id())?;
            let run = servers.run(load, self)?;
            let after = kernel::figures(watcher.id())?;
            let spent = kernel::since(&before, &after);
            let nanoseconds: u64 = spent.values().map(|figures| figures.nanoseconds).sum();
            let time = BpfTime {
                load,
                watcher: kind,
                operations: run.operations,
                ns_per_operation: nanoseconds as f64 / run.operations,
            };
            runs.push((time, program_rows(load, kind, &spent, &names)));
        }
        watcher.stop()?;
        Ok(runs)
    }
}

/// One row for each program that ran.
fn program_rows(
    load: Load,
    watcher: Kind,
    spent: &BTreeMap<u32, kernel::Figures>,
    names: &BTreeMap<u32, kernel::Name>,
) -> Vec<ProgramRow> {
    let ran = spent.iter().filter(|(_, figures)| figures.runs > 0);
    let rows = ran.filter_map(|(id, figures)| {
        let name = names.get(id)?;
        Some(ProgramRow {
            load,
            watcher,
            program: name.program.clone(),
            kind: name.kind.clone(),
            runs: figures.runs,
            mean_ns: figures.nanoseconds as f64 / figures.runs as f64,
        })
    });
    rows.collect()
}

/// Whether someone wants us to end. Loads are short: it is enough to ask between them.
struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// Waits until no system test runs, and keeps others from starting: see `SystemLock` of the
/// daemon's tests. The lock goes with the file.
fn alone(interrupted: &Interrupted) -> Result<File> {
    let path = env::temp_dir().join("observer-system-tests.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        if !told {
            cmd::say("*", "waiting for the system tests that run to end");
            told = true;
        }
        interrupted.check()?;
        sleep(Duration::from_millis(100));
    }
}
