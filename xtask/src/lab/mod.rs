//! `cargo xtask lab`: boots real distribution kernels in QEMU and runs the tests of the kernel inside.
//!
//! | module | what it does |
//! |---|---|
//! | [`architecture`] | what QEMU, Debian and Rust call the guests' architectures |
//! | [`kernels`] | gets the kernels from the configured Debian mirror |
//! | [`programs`] | builds what runs in the guests |
//! | [`origin`] | finds the other programs that they need: this machine's, or packages for another architecture |
//! | [`world`] | puts together what all guests of an architecture have |
//! | [`portable`] | shows that the kernel programs are the same for every architecture |
//! | [`initramfs`] | packs it into the guests' file system |
//! | [`qemu`] | runs one guest, and notices panics, stalls and overtime |
//! | [`verdict`] | reads what the guest reported |
//! | [`expected`] | judges it: what is not listed in `lab/expected.txt` must pass |
//! | [`table`] | writes the compatibility table |
//! | [`self_test`] | shows that the lab can fail |
//!
//! What happens inside a guest is told by two scripts, `lab/init` and `lab/steps`. This machine's own kernel is one
//! more row: the same steps, without a guest. Consoles, reports and the table are kept below `target/lab`.

mod architecture;
mod expected;
mod initramfs;
mod kernels;
mod origin;
mod portable;
mod programs;
mod qemu;
mod self_test;
mod table;
mod verdict;
mod world;

use std::cmp::Reverse;
use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cmd;
use crate::setup::{self, Purpose};
use architecture::{AMD64, ARM64, Architecture};
use expected::Expected;
use kernels::Kernel;
use qemu::{Ended, Guest};
use table::Row;
use verdict::{Outcome, Report};
use world::World;

const STEPS: &str = include_str!("../../lab/steps");
const EXPECTED: &str = include_str!("../../lab/expected.txt");

/// The name of this machine's own kernel.
const HOST: &str = "host";
/// Wall-clock limit of a guest, in seconds: an emulated kernel on a loaded machine, with the system tests and without.
const LIMIT: u64 = 7_200;
const QUICK_LIMIT: u64 = 900;
/// Lines of a failed test that are shown; the report has all.
const SHOWN: usize = 30;

/// Arguments of `cargo xtask lab`.
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of a command line")]
#[derive(Args, Default)]
pub(crate) struct LabArgs {
    /// Only these: 5.10, 6.1, 6.12, sid, arm64, host, a package (.deb) or an image; may be repeated
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Only load the programs, locked down, and check the refusals: no system tests, and no architecture that needs a
    /// cross build
    #[arg(long)]
    quick: bool,
    /// Only these steps of `lab/steps`, such as `check` or `tests-of-restart`; may be repeated
    #[arg(long = "step", value_name = "STEP", conflicts_with = "quick")]
    steps: Vec<String>,
    /// Ask the mirror for newer kernels, even if it was asked within the last day
    #[arg(long)]
    refresh: bool,
    /// Wall-clock limit of a guest, in seconds [default: 7200; with --quick 900]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Make observer believe that the guests' kernels lack this hook, to see the lab turn red
    #[arg(long, value_name = "HOOK")]
    lacking: Option<String>,
    /// Put the table into docs/compatibility.md, with all kernels
    #[arg(long, conflicts_with_all = ["kernels", "steps", "lacking"])]
    write_docs: bool,
    /// Show that the lab notices failures, unexpected skips, panics, hangs and a missing hook
    #[arg(long)]
    self_test: bool,
}

/// Runs the lab; an error if anything was not as it should be.
pub(crate) fn run(args: &LabArgs) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Lab])?;
    let directory = cmd::target_directory()?.join("lab");
    fs::create_dir_all(&directory)?;
    let _alone = alone(&directory)?;
    let with_host = args.kernels.is_empty() || args.kernels.iter().any(|name| name == HOST);
    let named: Vec<_> = args.kernels.iter().filter(|name| *name != HOST).cloned().collect();
    let cache = directory.join("kernels");
    // A cross build is too much for what has to be quick, and for what any kernel shows.
    let foreign = args.write_docs || !(args.quick || args.self_test);
    let kernels = if args.kernels.is_empty() {
        kernels::all(foreign, &cache, args.refresh)?
    } else {
        kernels::resolve(&named, &cache, args.refresh)?
    };
    for Kernel { name, version, .. } in &kernels {
        cmd::say("*", &format!("kernel {name}: {version}"));
    }
    let booted = |of| kernels.iter().any(|kernel| kernel.architecture == of);
    let (ours, others) = (with_host || booted(&AMD64), booted(&ARM64));
    if others {
        setup::ensure(&[Purpose::Arm64])?;
    }
    let wanted = [(ours, &AMD64), (others, &ARM64)].into_iter().filter(|(wanted, _)| *wanted);
    let worlds = wanted
        .map(|(_, of)| World::build(of, &directory, args.refresh, args.with_tests()))
        .collect::<Result<Vec<_>>>()?;
    let lab = Lab { directory, worlds, expected: Expected::parse(EXPECTED)? };
    if args.kernels.is_empty() && args.steps.is_empty() {
        let object = |of| lab.world(of).ok().map(|world| world.programs.object.as_path());
        let ours = object(&AMD64).context("this machine's programs were built")?;
        portable::check(ours, object(&ARM64))?;
    }
    if args.self_test {
        return self_test::run(&lab, &kernels);
    }
    lab.run(&kernels, with_host, args)
}

/// Keeps other labs out for as long as the file is open: each would overwrite the other's consoles and reports.
fn alone(directory: &Path) -> Result<File> {
    let lock = File::create(directory.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another lab writes to {}; wait for its end, or set CARGO_TARGET_DIR to another directory",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("locking the directory of the lab"),
    }
}

impl LabArgs {
    /// Whether any step starts the test programs.
    fn with_tests(&self) -> bool {
        let chosen =
            self.steps.is_empty() || self.steps.iter().any(|step| step.starts_with("tests"));
        chosen && !self.quick && !self.self_test
    }

    fn limit(&self) -> u64 {
        self.limit.unwrap_or(if self.quick { QUICK_LIMIT } else { LIMIT })
    }
}

/// What every guest shares.
struct Lab {
    /// Where everything is kept.
    directory: PathBuf,
    /// One for each architecture among the kernels, and this machine's if its own kernel is one of them.
    worlds: Vec<World>,
    expected: Expected,
}

/// A guest to be, and where its file system lies.
struct Job<'a> {
    kernel: &'a Kernel,
    plan: Plan<'a>,
    initramfs: &'a Path,
}

/// What a guest is to have and to do.
struct Plan<'a> {
    processors: u32,
    /// Whether its kernel runs with `lockdown=confidentiality`.
    locked: bool,
    steps: Vec<&'a str>,
}

impl Job<'_> {
    fn name(&self) -> String {
        let Self { kernel, plan: Plan { processors, locked, .. }, .. } = self;
        let locked = if *locked { ", locked down" } else { "" };
        format!("{}, {processors} processors{locked}", kernel.name)
    }

    /// Where its console and its report are kept.
    fn directory(&self) -> String {
        let Self { kernel, plan: Plan { processors, locked, .. }, .. } = self;
        format!("{}-{processors}{}", kernel.name, if *locked { "-locked" } else { "" })
    }
}

impl Lab {
    fn world(&self, of: &Architecture) -> Result<&World> {
        let world = self.worlds.iter().find(|world| world.architecture == of);
        world.with_context(|| format!("nothing was built for {}", of.name))
    }

    fn run(&self, kernels: &[Kernel], with_host: bool, args: &LabArgs) -> Result<()> {
        let archive =
            |kernel: &Kernel| self.world(kernel.architecture)?.initramfs(kernel, &self.directory);
        let archives = kernels.iter().map(archive).collect::<Result<Vec<_>>>()?;
        let jobs = kernels.iter().zip(&archives).flat_map(|(kernel, initramfs)| {
            plans(kernel, args).into_iter().map(move |plan| Job { kernel, plan, initramfs })
        });
        let jobs: Vec<_> = jobs.collect();
        let mut rows = Vec::new();
        let mut red = Vec::new();
        for (job, ended) in jobs.iter().zip(self.boot(&jobs, args)) {
            let (kernel, ended) = (job.kernel, ended?);
            let name = job.name();
            let report = Report::read(&ended.report);
            if !self.judge(&name, &kernel.names(), &report, &ended) {
                red.push(name);
            }
            // The first guest of a kernel has the statistics.
            if rows.last().is_none_or(|row: &Row| row.name != kernel.name) {
                let Kernel { name, version, architecture, .. } = kernel.clone();
                rows.push(Row { name, version, architecture, report });
            }
        }
        if with_host {
            let ended = self.host(args)?;
            let report = Report::read(&ended.report);
            if !self.judge("this machine", &[HOST], &report, &ended) {
                red.push("this machine".to_owned());
            }
            let name = HOST.to_owned();
            rows.push(Row { name, version: String::new(), architecture: &AMD64, report });
        }
        table::write(&rows, &self.directory)?;
        println!("\nlogs and the compatibility table are in {}", self.directory.display());
        if !red.is_empty() {
            bail!("the lab is red: {}", red.join("; "));
        }
        if args.write_docs {
            table::write_docs(&rows)?;
        }
        println!("the lab is green");
        Ok(())
    }

    /// Boots all guests, two at a time: most have one thread, and a test that has to be in time is patient in a guest.
    fn boot(&self, jobs: &[Job], args: &LabArgs) -> Vec<Result<Ended>> {
        let next = AtomicUsize::new(0);
        // The longest first: all tests, and those on one processor before others; then the newest kernel, whose
        // verifier does most.
        let mut order: Vec<_> = jobs.iter().enumerate().collect();
        order.sort_by_key(|&(number, job)| {
            (!job.plan.steps.contains(&"tests"), job.plan.processors, Reverse(number))
        });
        let work = || {
            let mut ended = Vec::new();
            while let Some(&(number, job)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let guest = Guest {
                    kernel: job.kernel,
                    initramfs: job.initramfs,
                    processors: job.plan.processors,
                    steps: &job.plan.steps,
                    locked: job.plan.locked,
                    lacking: args.lacking.as_deref(),
                    limit: Duration::from_secs(args.limit()),
                    directory: self.directory.join(job.directory()),
                };
                ended.push((number, guest.boot()));
            }
            ended
        };
        let mut ended: Vec<_> = thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(work));
            let ended = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            ended.flatten().collect()
        });
        ended.sort_by_key(|(number, _)| *number);
        ended.into_iter().map(|(_, ended)| ended).collect()
    }

    /// Prints the verdicts; whether all is as it should be.
    fn judge(&self, name: &str, kernel: &[&str], report: &Report, ended: &Ended) -> bool {
        println!("\n{name}: {} ({:.1} s)", report.kernel, ended.took.as_secs_f64());
        for verdict in &report.verdicts {
            let outcome = match verdict.outcome {
                Outcome::Passed => "passed",
                Outcome::Skipped => "skipped",
                Outcome::Failed => "FAILED",
            };
            println!("  {outcome:<8}{}", verdict.test);
            if verdict.outcome == Outcome::Failed {
                let said: Vec<_> = verdict.said.lines().collect();
                said[said.len().saturating_sub(SHOWN)..]
                    .iter()
                    .for_each(|line| println!("      {line}"));
            }
        }
        let mut wrong = self.expected.complaints(kernel, report);
        wrong.extend(ended.trouble.iter().map(|trouble| format!("the guest: {trouble}")));
        for complaint in &wrong {
            println!("  WRONG: {complaint}");
        }
        wrong.is_empty()
    }

    /// The same steps on this machine, as root.
    fn host(&self, args: &LabArgs) -> Result<Ended> {
        let mut steps: Vec<_> = args.steps.iter().map(String::as_str).collect();
        if steps.is_empty() {
            steps = vec!["check", "statistics"];
            steps.extend((!args.quick).then_some("tests"));
        }
        let tests = self.directory.join("tests");
        let programs = &self.world(&AMD64)?.programs;
        programs.link_tests(&tests)?;
        let script = self.directory.join("steps");
        fs::write(&script, STEPS)?;
        let started = Instant::now();
        let mut report =
            format!("LAB kernel {}\n", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
        for step in steps {
            let mut command = alone_on(step)?;
            command.arg(format!("OBSERVER={}", programs.observer.display()));
            command.arg(format!("LAB_TESTS={}", tests.display()));
            command.args(["timeout", &args.limit().to_string(), "sh"]).arg(&script).arg(step);
            let output = command.output().context("starting a step")?;
            report += &String::from_utf8_lossy(&output.stdout);
        }
        report += "LAB done\n";
        fs::write(self.directory.join("host.log"), &report)?;
        Ok(Ended { report, trouble: Vec::new(), took: started.elapsed() })
    }
}

/// A command that runs a step on this machine when no system test does. Their own lock (`observer/tests/support/lock.rs`)
/// is taken for a step that starts a daemon; test programs take it themselves.
fn alone_on(step: &str) -> Result<Command> {
    if step.starts_with("tests") {
        return cmd::as_root("env");
    }
    let mut flock = cmd::as_root("flock")?;
    flock.arg(env::temp_dir().join("observer-system-tests.lock")).arg("env");
    Ok(flock)
}

/// The steps that need no test programs; the first loads all programs and has the statistics of the verifier.
const QUICK: [&str; 4] = ["lockdown", "hybrid", "no-v2", "no-btf"];

/// The guests of a kernel. The first is the one that is in the table; its kernel is locked down, for what runs there runs
/// everywhere.
fn plans<'a>(kernel: &Kernel, args: &'a LabArgs) -> Vec<Plan<'a>> {
    // One processor never waits for another's lock, see `Kernel::nolock`.
    let processors = if kernel.nolock { 1 } else { 2 };
    let open = |processors, steps| Plan { processors, locked: false, steps };
    if !args.steps.is_empty() {
        let locked = args.steps.iter().any(|step| step == QUICK[0]);
        let steps = args.steps.iter().map(String::as_str).collect();
        return vec![Plan { processors, locked, steps }];
    }
    if kernel.refused {
        return vec![open(2, vec!["refused"])];
    }
    let mut plans = vec![Plan { processors: 2, locked: true, steps: QUICK.into() }];
    if !args.quick {
        plans.push(open(processors, vec!["check", "tests"]));
    }
    if !args.quick && processors > 1 {
        plans.push(open(1, vec!["check", "tests-of-ground_truth"]));
    }
    plans
}
