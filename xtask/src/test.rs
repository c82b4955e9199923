//! `cargo xtask test`: every test of the workspace.
//!
//! | module | what it does |
//! |---|---|
//! | [`programs`] | has cargo build all test programs at once, and knows how each is run |
//! | [`outcome`] | runs one, and reads how it went |
//!
//! Those of the daemon's `tests` directory load programs into the kernel: they run one after the other, as root. Most of
//! their time they wait for one of the kernel's timers, so the lab boots its guests meanwhile. All others run as the user
//! who asks.

pub(crate) mod outcome;
pub(crate) mod programs;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::leftovers::Snapshot;
use crate::setup::{self, Purpose};
use crate::{cmd, dist, image};
use outcome::Outcome;
use programs::Program;

/// How the lab is called in the summary.
const LAB: &str = "lab (quick)";
/// The lab gives way to tests that do not wait.
const NICENESS: &str = "10";
/// For the soak: one round of each kind. `cargo xtask deep` has more.
pub(crate) const ONE_ROUND: (&str, &str) = ("OBSERVER_SOAK_SECONDS", "0");

/// Runs everything; `args` go to every test program.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Test])?;
    let target = cmd::target_directory()?;
    let before = Snapshot::take(&target)?;
    // First, since the tests' own build leaves its daemon at the same place.
    dist::ensure_built(&image::ensure_built()?)?;
    let programs = programs::build()?;
    let (kernel, others): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.needs_root);
    let run_all = |programs: &[&Program], results: &mut Vec<Outcome>| -> Result<()> {
        for program in programs {
            let mut command = program.command(&[ONE_ROUND])?;
            results.push(Outcome::of(&program.name, command.args(args))?);
        }
        Ok(())
    };

    // The quick ones first.
    let mut results = Vec::new();
    run_all(&others, &mut results)?;
    // The examples in the documentation have no program to run: cargo does it all.
    let mut examples = cmd::cargo(&["test", "--doc", "--"]);
    results.push(Outcome::of("documentation", examples.args(args))?);
    // Arguments choose some tests; the lab is none of them.
    let log = args.is_empty().then(|| target.join("lab.log"));
    thread::scope(|scope| -> Result<()> {
        let lab = log.as_deref().map(|log| scope.spawn(move || lab(log)));
        run_all(&kernel, &mut results)?;
        if let Some((lab, log)) = lab.zip(log.as_deref()) {
            let outcome = lab.join().expect("no panic")?;
            println!("{}", fs::read_to_string(log)?);
            results.push(outcome);
        }
        Ok(())
    })?;

    let left = before.left_since(&target)?;
    summarize(&results, &left)
}

/// Boots the lab's kernels; what it prints goes to a file, apart from the tests' own words.
fn lab(log: &Path) -> Result<Outcome> {
    let mut lab = cmd::command("nice");
    lab.args(["-n", NICENESS]).arg(env::current_exe()?).args(["lab", "--quick"]);
    cmd::show(&lab);
    let outcome = Outcome::kept(LAB, &mut lab, log).context("the lab")?;
    let (passed, failed) = (usize::from(outcome.success), usize::from(!outcome.success));
    Ok(Outcome { passed, failed, ..outcome })
}

/// Prints what happened; an error if anything failed or was left behind.
fn summarize(results: &[Outcome], left: &[String]) -> Result<()> {
    println!("\n{:<40} {:>6} {:>6} {:>7} {:>8}", "tests", "passed", "failed", "ignored", "seconds");
    for Outcome { name, passed, failed, ignored, success, took } in results {
        let mark = if *success { "" } else { "  FAILED" };
        let seconds = took.as_secs_f64();
        println!("{name:<40} {passed:>6} {failed:>6} {ignored:>7} {seconds:>8.1}{mark}");
    }
    let passed: usize = results.iter().map(|result| result.passed).sum();
    let failed = results.iter().filter(|result| !result.success).count();
    for thing in left {
        println!("left behind: {thing}");
    }
    match (failed, left.len()) {
        (0, 0) => {
            println!("all {passed} tests passed, nothing is left behind");
            Ok(())
        }
        (0, things) => bail!("the tests passed, but left {things} things behind"),
        (failed, _) => bail!("{failed} of {} test programs failed", results.len()),
    }
}
