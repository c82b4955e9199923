//! A process of the project's example program `workload`: it answers in lines of JSON and takes
//! words as commands.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{start, terminate};

/// The process; it ends when this is dropped.
pub(crate) struct Workload {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Workload {
    /// Starts it, and waits for its first answer: it is ready.
    pub(crate) fn start(command: &mut Command, log: &File) -> Result<(Self, Value)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = start(command)?;
        let stdout = child.stdout.take().context("the workload's output is a pipe")?;
        let mut workload = Self { child, answers: BufReader::new(stdout).lines() };
        let ready = workload.hear()?;
        Ok((workload, ready))
    }

    /// Gives a command and returns the answer.
    pub(crate) fn tell(&mut self, word: &str) -> Result<Value> {
        let stdin = self.child.stdin.as_mut().context("the workload's input is a pipe")?;
        writeln!(stdin, "{word}")?;
        self.hear()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    fn hear(&mut self) -> Result<Value> {
        let line = self.answers.next().context("the workload ended, see the log")??;
        serde_json::from_str(&line).with_context(|| format!("the workload says {line:?}"))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // It may have ended already, and there is nobody left to tell.
        let _ = terminate(&mut self.child);
    }
}
