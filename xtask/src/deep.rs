//! `cargo xtask deep`: what takes too long for every change, and is run to find what is rare.
//!
//! | part | what it does |
//! |---|---|
//! | repetitions | each program of tests that load programs into the kernel, again and again on a busy machine |
//! | places | the receive path's test, each load so many times with its ends on different processors, on one, and anywhere |
//! | properties | the property tests, with many more cases than usual |
//! | soak | `cargo xtask soak` for an hour |
//!
//! What failed is kept in `target/deep`, and the table as `results.md` there. One failure is a failure: it shows a defect
//! of the daemon or of the test, and there is no number of repetitions that makes it none.

mod busy;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::leftovers::Snapshot;
use crate::machine::Machine;
use crate::setup::{self, Purpose};
use crate::spread::Spread;
use crate::test::ONE_ROUND;
use crate::test::outcome::Outcome;
use crate::test::programs::{self, Program};
use crate::{cmd, image, soak};
use busy::Busy;

/// Tests that have a smaller size for the gate have their full one.
const DEEP: (&str, &str) = ("OBSERVER_TEST_DEEP", "1");

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Repetitions,
    Places,
    Properties,
    Soak,
}

/// What `cargo xtask deep` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this part; may be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Of the repetitions only this program of tests, such as `restart`; may be repeated
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
    /// How often each program of tests runs, and each load in each place
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    times: usize,
    /// Threads that compute beside the repetitions [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    busy: Option<usize>,
    /// Cases of each property
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    cases: u32,
    /// How long the soak lasts, such as 10m
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = soak::time)]
    length: Duration,
}

/// A line of the table.
struct Row {
    what: String,
    runs: usize,
    /// What went wrong, a line each.
    wrong: Vec<String>,
    seconds: Vec<f64>,
}

/// Runs what is asked for; an error if anything failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Test])?;
    let directory = cmd::target_directory()?.join("deep");
    fs::create_dir_all(&directory)?;
    let machine = Machine::look()?;
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut rows = Vec::new();
    if [Part::Repetitions, Part::Places, Part::Properties].into_iter().any(wanted) {
        image::ensure_built()?;
        let programs = programs::build()?;
        if wanted(Part::Repetitions) {
            rows.extend(repetitions(options, &programs, &directory)?);
        }
        if wanted(Part::Places) {
            rows.push(places(options, &programs, &directory)?);
        }
        if wanted(Part::Properties) {
            rows.extend(properties(options, &programs, &directory)?);
        }
    }
    if wanted(Part::Soak) {
        let started = Instant::now();
        let result = soak::run(&soak::Options::lasting(options.length));
        rows.push(Row {
            what: "soak".to_owned(),
            runs: 1,
            wrong: result.err().map(|error| format!("{error:#}")).into_iter().collect(),
            seconds: vec![started.elapsed().as_secs_f64()],
        });
    }
    let table = table(&machine, &rows);
    println!("\n{table}");
    fs::write(directory.join("results.md"), &table)?;
    let failed = rows.iter().filter(|row| !row.wrong.is_empty()).count();
    ensure!(
        failed == 0,
        "{failed} of {} failed; what they printed is in {}",
        rows.len(),
        directory.display()
    );
    Ok(())
}

/// Every program that the kernel has to do with, `times` times.
fn repetitions(options: &Options, programs: &[Program], directory: &Path) -> Result<Vec<Row>> {
    let chosen = |program: &&Program| {
        let name = program.name.rsplit('/').next().unwrap_or_default();
        program.needs_root
            && (options.programs.is_empty() || options.programs.iter().any(|of| of == name))
    };
    let chosen: Vec<_> = programs.iter().filter(chosen).collect();
    ensure!(
        !chosen.is_empty(),
        "there is no program of tests named {}",
        options.programs.join(", ")
    );
    let threads = match options.busy {
        Some(threads) => threads,
        None => thread::available_parallelism()?.get(),
    };
    let _busy = Busy::start(threads);
    chosen
        .iter()
        .map(|program| repeat(program, &[ONE_ROUND, DEEP], options.times, directory))
        .collect()
}

/// Each load of the receive path in each place, `times` times. Nothing else computes: both processors are wanted.
fn places(options: &Options, programs: &[Program], directory: &Path) -> Result<Row> {
    let receive = programs.iter().find(|program| program.name.ends_with("/receive"));
    let receive = receive.context("there is no test of the receive path")?;
    let times = options.times.to_string();
    let row = repeat(receive, &[("OBSERVER_RECEIVE_TIMES", &times)], 1, directory)?;
    Ok(Row { what: format!("{}, {times} times in each place", row.what), ..row })
}

/// The property tests are among the tests of libraries.
fn properties(options: &Options, programs: &[Program], directory: &Path) -> Result<Vec<Row>> {
    let cases = options.cases.to_string();
    let libraries = programs.iter().filter(|program| !program.needs_root);
    let with = [("PROPTEST_CASES", cases.as_str())];
    libraries.map(|program| repeat(program, &with, 1, directory)).collect()
}

/// Runs a program again and again, whatever comes of it. What it printed is kept if it failed.
fn repeat(
    program: &Program,
    variables: &[(&str, &str)],
    times: usize,
    directory: &Path,
) -> Result<Row> {
    let target = cmd::target_directory()?;
    let mut row =
        Row { what: program.name.clone(), runs: 0, wrong: Vec::new(), seconds: Vec::new() };
    for run in 1..=times {
        let before = Snapshot::take(&target)?;
        let log = log_of(directory, &program.name, run);
        let mut command = program.command(variables)?;
        let outcome = Outcome::kept(&program.name, &mut command, &log)?;
        row.runs += 1;
        row.seconds.push(outcome.took.as_secs_f64());
        let mut wrong: Vec<_> = before
            .left_since(&target)?
            .into_iter()
            .map(|thing| format!("run {run} left behind: {thing}"))
            .collect();
        if outcome.success {
            fs::remove_file(&log)?;
        } else {
            wrong.push(format!("run {run}: {} failed, see {}", outcome.failed, log.display()));
        }
        let result = if wrong.is_empty() { "passed" } else { "FAILED" };
        let seconds = outcome.took.as_secs_f64();
        println!("{} {run} of {times}: {result} ({seconds:.1} s)", program.name);
        row.wrong.extend(wrong);
    }
    Ok(row)
}

fn log_of(directory: &Path, program: &str, run: usize) -> PathBuf {
    directory.join(format!("{}-{run}.log", program.replace('/', "-")))
}

/// Writing to a String does not fail, so its results are dropped.
fn table(machine: &Machine, rows: &[Row]) -> String {
    let mut text = format!("{machine}.\n\n| what | runs | failed | seconds, median (min–max) |\n");
    text.push_str("|---|---|---|---|\n");
    for Row { what, runs, wrong, seconds } in rows {
        let spread = Spread::of(seconds.clone());
        let spread = spread.map_or_else(String::new, |spread| format!("{spread:.1}"));
        let failed = if wrong.is_empty() { "0".to_owned() } else { format!("**{}**", wrong.len()) };
        let _ = writeln!(text, "| {what} | {runs} | {failed} | {spread} |");
    }
    for row in rows {
        for line in &row.wrong {
            let _ = write!(text, "\n{}: {line}\n", row.what);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_failed() {
        let machine = Machine {
            processor: "p".to_owned(),
            cores: 2,
            kernel: "k".to_owned(),
            load_before: "0".to_owned(),
        };
        let row = |what: &str, wrong: &[&str]| Row {
            what: what.to_owned(),
            runs: 2,
            wrong: wrong.iter().map(|line| (*line).to_owned()).collect(),
            seconds: vec![1.0, 3.0],
        };
        let text = table(&machine, &[row("a", &[]), row("b", &["run 2: x"])]);
        assert!(text.contains("\n| a | 2 | 0 | 2.0 (1.0–3.0) |\n"), "{text}");
        assert!(text.contains("\n| b | 2 | **1** |"), "{text}");
        assert!(text.ends_with("\nb: run 2: x\n"), "{text}");
    }
}
