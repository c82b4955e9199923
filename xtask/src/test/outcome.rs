//! How programs of tests ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cmd;

/// How a program of tests ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    pub(crate) success: bool,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Runs the program, shows what it prints and reads its counts from that.
    pub(crate) fn of(name: &str, command: &mut Command) -> Result<Self> {
        cmd::show(command);
        Self::run(name, command, Stdio::inherit(), std::io::stdout())
    }

    /// The same, with everything that it prints in a file.
    pub(crate) fn kept(name: &str, command: &mut Command, file: &Path) -> Result<Self> {
        let kept = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        Self::run(name, command, kept.try_clone()?.into(), kept)
    }

    fn run(
        name: &str,
        command: &mut Command,
        stderr: Stdio,
        mut shown: impl Write,
    ) -> Result<Self> {
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("starting the tests {name}"))?;
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
            writeln!(shown, "{line}")?;
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

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn what_is_printed_can_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("echo aside >&2; echo '{line}'; exit 3")]);
        let outcome = Outcome::kept("a", &mut shell, &file).unwrap();
        assert_eq!((outcome.passed, outcome.success), (2, false));
        assert_eq!(fs::read_to_string(file).unwrap(), format!("aside\n{line}\n"));
    }
}
