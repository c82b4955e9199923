//! The daemon under test: the real binary, as a user would start it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{ChildStderr, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    http,
    lock::require_root,
    metrics::{self, CLASSIC, Expected, Metrics},
    process::Process,
    scale::patience,
};

/// How long the daemon may take to load its programs: the verifier of a debug kernel is slow.
const START: Duration = Duration::from_mins(1);

/// How long it may take to end.
const STOP: Duration = Duration::from_secs(20);

/// The binary under test.
pub(crate) fn executable() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_observer"))
}

/// A running `observer run`, killed when dropped. Its log is printed if the test fails.
pub(crate) struct Daemon {
    process: Process,
    log: Log,
    address: SocketAddr,
}

impl Daemon {
    /// Starts the daemon on a free port of 127.0.0.1, with more arguments of `observer run`, and
    /// waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = Command::new(executable());
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]).args(args);
        // Everything, so that sums of exact counts lack nothing; what is left out by default has tests of its own.
        if !args.contains(&"--detail") {
            command.args(["--detail", "full"]);
        }
        Self::spawn(&mut command)
    }

    /// Starts a daemon by a command of the caller's, who may have changed its environment, cgroup
    /// or namespace. It must log in JSON, to stderr.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        require_root();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let mut process = Process::new(child, "the daemon");
        let (mut log, ready) = Log::read(process.take_stderr());
        let address = ready.recv_timeout(patience(START)).unwrap_or_else(|error| {
            process.kill();
            let why = match error {
                RecvTimeoutError::Timeout => format!("was not ready within {:?}", patience(START)),
                RecvTimeoutError::Disconnected => "ended before it was ready".to_owned(),
            };
            panic!("the daemon {why}; its log:\n{}", log.finish());
        });
        Self { process, log, address }
    }

    /// Where it serves its metrics.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves its own metrics, if it was told to do so apart.
    pub(crate) fn self_address(&self) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| address_in_ready(line, "self_listen"))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged up to now.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// One scrape of `/metrics` in the classic format.
    pub(crate) fn scrape(&self) -> Metrics {
        let answer = http::get(self.address, "/metrics", Some(CLASSIC))
            .unwrap_or_else(|error| panic!("cannot scrape the daemon: {error:#}"));
        assert_eq!(answer.status, 200, "the scrape failed: {}", answer.body);
        let kind = &answer.content_type;
        assert!(kind.starts_with("text/plain"), "asked for {CLASSIC}, got {kind}");
        Metrics::parse(&answer.body).unwrap_or_else(|error| panic!("malformed scrape: {error:#}"))
    }

    /// Scrapes until the sums are as expected, see [`metrics::wait_for`].
    pub(crate) fn wait_for(&self, deadline: Duration, expected: &[Expected]) -> Metrics {
        metrics::wait_for(deadline, || self.scrape(), expected)
    }

    /// Scrapes until `holds`, see [`metrics::wait_until`].
    pub(crate) fn wait_until(
        &self,
        deadline: Duration,
        holds: impl FnMut(&Metrics) -> bool,
    ) -> Metrics {
        metrics::wait_until(deadline, || self.scrape(), holds)
    }

    /// Ends it by SIGTERM, which it must obey with exit code 0. Returns its log.
    pub(crate) fn stop(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(STOP);
        assert_eq!(status.code(), Some(0), "the daemon ended with {status}");
        self.log.finish()
    }

    /// Kills it by SIGKILL, as a crash would. Returns its log.
    pub(crate) fn kill(mut self) -> String {
        self.process.kill();
        self.log.finish()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill();
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log.finish());
        }
    }
}

/// A daemon's stderr, read as it comes.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    /// Reads on a thread. The address of the line `ready` comes through the channel.
    fn read(stderr: ChildStderr) -> (Self, mpsc::Receiver<SocketAddr>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = mpsc::channel();
        let kept = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let address = ready_address(&line);
                // Who is told that it is ready finds the line.
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                if let Some(address) = address {
                    // Nobody listens any more after the first one.
                    let _ = sender.send(address);
                }
            }
        });
        (Self { lines, reader: Some(reader) }, ready)
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The whole log; to be called once the daemon has ended.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}

/// The address in `{"level":"INFO","fields":{"message":"ready","listen":"127.0.0.1:1234"},…}`.
pub(crate) fn ready_address(line: &str) -> Option<SocketAddr> {
    address_in_ready(line, "listen")
}

fn address_in_ready(line: &str, field: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    if fields["message"] != "ready" {
        return None;
    }
    fields[field].as_str()?.parse().ok()
}
