//! `cargo xtask test`: every test of the workspace.
//!
//! cargo builds all test programs at once; then each runs on its own. Those of the daemon's
//! `tests` directory load programs into the kernel: they run as root, one test at a time, because
//! each of them counts what the whole machine does. All others run as the user who asks.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::leftovers::Snapshot;
use crate::setup::{self, Purpose};
use crate::{cmd, image, lab};

/// Runs everything; `args` go to every test program.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Test])?;
    let target = cmd::target_directory()?;
    let before = Snapshot::take(&target)?;
    let programs = build()?;
    image::ensure_built()?;

    let mut results = Vec::new();
    // The quick ones first.
    for as_root in [false, true] {
        for program in programs.iter().filter(|program| program.needs_root == as_root) {
            results.push(program.run(args)?);
        }
    }
    // The examples in the documentation have no program to run: cargo does it all.
    let mut examples = cmd::cargo(&["test", "--doc", "--"]);
    results.push(Outcome::of("documentation", examples.args(args))?);
    // Arguments choose some tests; the lab is none of them.
    if args.is_empty() {
        results.push(Outcome::of_lab());
    }

    let left = before.left_since(&target)?;
    summarize(&results, &left)
}

/// A program made of tests.
struct Program {
    /// Package and target, as in "observer/lib" or "observer/proxy".
    name: String,
    executable: PathBuf,
    /// The directory of its package, where cargo would run it.
    directory: PathBuf,
    needs_root: bool,
}

/// A line of cargo's `--message-format=json`, as far as we read it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests, and the programs and examples that they start.
fn build() -> Result<Vec<Program>> {
    let mut cargo = cmd::cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    cmd::show(&cargo);
    let output = cargo.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        programs.extend(Program::from_message(serde_json::from_str(line)?));
    }
    // cargo reports them as they are finished.
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

impl Program {
    /// The test program that a message of cargo's is about, if it is about one.
    fn from_message(message: Message) -> Option<Self> {
        let (target, executable) = (message.target?, message.executable?);
        message.profile?.test.then_some(())?;
        let directory = message.manifest_path?.parent()?.to_owned();
        let package = directory.file_name()?.to_string_lossy().into_owned();
        let kind = target.kind.first()?;
        // A library and a program of the same package usually share their name.
        let name = if kind == "test" { &target.name } else { kind };
        let needs_root = package == "observer" && kind == "test";
        Some(Self { name: format!("{package}/{name}"), executable, directory, needs_root })
    }

    fn run(&self, args: &[OsString]) -> Result<Outcome> {
        let mut command = if self.needs_root {
            let mut command = cmd::as_root(&self.executable)?;
            command.arg("--test-threads=1");
            command
        } else {
            cmd::command(&self.executable)
        };
        // What cargo would set; sudo does not pass it on, and no test of the kernel needs it.
        command.env("CARGO_MANIFEST_DIR", &self.directory);
        Outcome::of(&self.name, command.args(args).current_dir(&self.directory))
    }
}

/// How a program of tests ended.
struct Outcome {
    name: String,
    passed: usize,
    failed: usize,
    ignored: usize,
    success: bool,
    took: Duration,
}

impl Outcome {
    /// Boots the lab's kernels, which print what they find.
    fn of_lab() -> Self {
        let started = Instant::now();
        let ended = lab::quick();
        if let Err(error) = &ended {
            println!("the lab: {error:#}");
        }
        Self {
            name: "lab (quick)".to_owned(),
            passed: usize::from(ended.is_ok()),
            failed: usize::from(ended.is_err()),
            ignored: 0,
            success: ended.is_ok(),
            took: started.elapsed(),
        }
    }

    /// Runs the program, shows what it prints and reads its counts from that.
    fn of(name: &str, command: &mut Command) -> Result<Self> {
        cmd::show(command);
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the tests of {name}"))?;
        let mut outcome = Self {
            name: name.to_owned(),
            passed: 0,
            failed: 0,
            ignored: 0,
            success: false,
            took: Duration::ZERO,
        };
        let stdout = child.stdout.take().context("the child's output is a pipe")?;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some([passed, failed, ignored]) = counts(&line) {
                outcome.passed += passed;
                outcome.failed += failed;
                outcome.ignored += ignored;
            }
        }
        outcome.success = child.wait()?.success();
        outcome.took = started.elapsed();
        Ok(outcome)
    }
}

/// The numbers of passed, failed and ignored tests in a line such as
/// "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out".
fn counts(line: &str) -> Option<[usize; 3]> {
    let (_, list) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what: &str| {
        let mut words = list.split("; ").filter_map(|part| part.split_once(' '));
        words.find(|(_, word)| *word == what)?.0.parse().ok()
    };
    Some([number("passed")?, number("failed")?, number("ignored")?])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_result_line() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; \
                    finished in 0.01s";
        assert_eq!(counts(line), Some([3, 1, 2]));
        assert_eq!(counts("test result: ok. some other words"), None);
        assert_eq!(counts("test a::b ... ok"), None);
    }

    #[test]
    fn only_the_tests_of_the_kernel_need_root() {
        let parse = |kind: &str, test: bool| {
            let line = format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"a","kind":["{kind}"]}},
                    "profile":{{"test":{test}}},"executable":"/t/a-1",
                    "manifest_path":"/w/observer/Cargo.toml"}}"#
            );
            Program::from_message(serde_json::from_str(&line).unwrap())
        };
        assert!(parse("test", true).unwrap().needs_root);
        assert!(!parse("lib", true).unwrap().needs_root);
        assert!(parse("example", false).is_none());
        assert_eq!(parse("test", true).unwrap().directory, PathBuf::from("/w/observer"));
    }

    #[test]
    fn other_messages_are_skipped() {
        let message = serde_json::from_str(r#"{"reason":"build-finished","success":true}"#);
        assert!(Program::from_message(message.unwrap()).is_none());
    }
}
