//! What watches while a load runs: nothing, the observer, or one of the common tools.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::Bench;
use crate::{cmd, demo};

/// How long a watcher may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tools find their tracepoint in tracefs, which may not be mounted: this mounts it where
/// nobody else sees it.
const IN_TRACEFS: &str = r#"mount -t tracefs tracefs /sys/kernel/tracing; exec "$0""#;

/// What there is to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Observer,
    /// The observer with programs that return at once: what the hooks cost by themselves.
    Empty,
    /// Prints a line per TCP connection that ended.
    Tcplife,
    /// Prints a line per change of state of a TCP connection.
    Tcpstates,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Observer, Self::Empty, Self::Tcplife, Self::Tcpstates];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Empty => "empty programs",
            Self::Tcplife => "tcplife",
            Self::Tcpstates => "tcpstates",
        }
    }
}

/// A watcher at work; ended when dropped.
pub(super) struct Watcher {
    kind: Kind,
    child: Child,
    /// Where the observer serves its metrics.
    address: String,
    start_up: Duration,
}

impl Watcher {
    /// Starts it and waits until it watches.
    pub(super) fn start(kind: Kind, bench: &Bench<'_>) -> Result<Self> {
        Self::start_with(kind, bench, &[])
    }

    /// The same, with more arguments for the observer.
    pub(super) fn start_with(kind: Kind, bench: &Bench<'_>, args: &[&str]) -> Result<Self> {
        if matches!(kind, Kind::Observer | Kind::Empty) {
            return Self::observer(kind, &bench.programs.join("observer"), args);
        }
        ensure!(cmd::which(kind.name()).is_some(), "not installed");
        let mut command = cmd::command("unshare");
        command.args(["--mount", "sh", "-c", IN_TRACEFS, kind.name()]);
        let mut watcher = Self::spawn(kind, &mut command)?;
        let deadline = Instant::now() + PATIENCE;
        while !has_attached(watcher.id()) {
            if let Some(status) = watcher.child.try_wait()? {
                let lines = BufReader::new(watcher.child.stderr.take().context("piped")?).lines();
                let last = lines.map_while(Result::ok).last().unwrap_or_default();
                bail!("ended with {status}: {last}");
            }
            ensure!(Instant::now() < deadline, "did not attach within {PATIENCE:?}");
            sleep(Duration::from_millis(10));
        }
        watcher.drain_log();
        Ok(watcher)
    }

    /// The observer on a free port.
    fn observer(kind: Kind, program: &Path, args: &[&str]) -> Result<Self> {
        let started = Instant::now();
        let mut command = cmd::command(program);
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.args((kind == Kind::Empty).then_some("--simulate-empty")).args(args);
        let mut watcher = Self::spawn(kind, &mut command)?;
        let mut log = BufReader::new(watcher.child.stderr.take().context("piped")?).lines();
        let mut last = String::new();
        let address = loop {
            let Some(line) = log.next() else { bail!("the observer ended: {last}") };
            last = line?;
            if let Some(address) = ready_address(&last) {
                break address;
            }
        };
        watcher.start_up = started.elapsed();
        watcher.address = address;
        thread::spawn(move || log.for_each(drop));
        Ok(watcher)
    }

    fn spawn(kind: Kind, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = demo::start(command)?;
        Ok(Self { kind, child, address: String::new(), start_up: Duration::ZERO })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where the observer serves its metrics.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// From its start until the observer was ready.
    pub(super) fn start_up(&self) -> Duration {
        self.start_up
    }

    /// Ends it; it must have run until now.
    pub(super) fn stop(mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} ended by itself", self.kind.name());
        demo::terminate(&mut self.child)?;
        Ok(())
    }

    /// Reads on what it says, so that it never waits for a reader.
    fn drain_log(&mut self) {
        if let Some(stderr) = self.child.stderr.take() {
            thread::spawn(move || BufReader::new(stderr).lines().for_each(drop));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Only after an error, which is the one to be told; or it has ended already.
        let _ = demo::terminate(&mut self.child);
    }
}

/// Whether a process holds an attached BPF program.
fn has_attached(id: u32) -> bool {
    let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| {
        let target = target.to_string_lossy();
        target.contains("bpf_link") || target.contains("bpf-link")
    })
}

/// The address in the line by which the observer says that it is ready.
fn ready_address(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    (fields["message"] == "ready").then(|| fields["listen"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::ready_address;

    #[test]
    fn the_observer_says_where_it_listens() {
        let line = r#"{"level":"INFO","fields":{"message":"ready","listen":"127.0.0.1:1234"}}"#;
        assert_eq!(ready_address(line).as_deref(), Some("127.0.0.1:1234"));
        assert_eq!(ready_address(r#"{"fields":{"message":"starting"}}"#), None);
    }
}
