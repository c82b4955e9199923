//! The examples that tests start: each obeys lines on stdin and answers in lines of JSON on stdout.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use super::{cgroup::TestCgroup, daemon, netns::Netns, process::Process, scale::patience};

/// How long a program may take for its next line: thousands of connections on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running example and its two pipes, killed when dropped. Its stderr is the test's.
pub(crate) struct Program {
    process: Process,
    description: String,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    /// Starts the example of that name in a cgroup, and in a namespace if one is given.
    pub(crate) fn start(
        example: &str,
        args: &[String],
        cgroup: &TestCgroup,
        netns: Option<&Netns>,
    ) -> Self {
        let path = executable(example);
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(netns) = netns {
            netns.enter(&mut command);
        }
        let description = format!("{example} {}", args.join(" "));
        let mut process = Process::new(cgroup.spawn_in(&mut command), description.clone());
        let stdin = Some(process.take_stdin());
        let lines = read_lines(process.take_stdout());
        Self { process, description, stdin, lines }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Writes a line to its stdin.
    pub(crate) fn say(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("its stdin is open");
        writeln!(stdin, "{command}").unwrap_or_else(|e| panic!("{}: {e}", self.description));
    }

    /// Its next line.
    pub(crate) fn line<T: DeserializeOwned>(&self) -> T {
        let line = self
            .lines
            .recv_timeout(patience(PATIENCE))
            .unwrap_or_else(|error| panic!("{} printed nothing more: {error}", self.description));
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{} printed `{line}`: {error}", self.description))
    }

    /// Ends its stdin.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether any handshake is under way in its network namespace, at either end.
    pub(crate) fn is_connecting(&self) -> bool {
        const SYN_SENT: &str = "02";
        const SYN_RECV: &str = "03";
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.id())).expect("it runs");
        let mut states = table.lines().filter_map(|line| line.split_whitespace().nth(3));
        states.any(|state| state == SYN_SENT || state == SYN_RECV)
    }

    /// Kills it by SIGKILL: the kernel closes its connections.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its success.
    pub(crate) fn end(&mut self) {
        self.hang_up();
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{} ended with {status}", self.description);
    }
}

/// Its command line.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Reads on a thread, so that a line can be waited for with a deadline.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// The example's binary, which cargo puts beside the daemon's.
fn executable(example: &str) -> PathBuf {
    let path = daemon::executable().with_file_name("examples").join(example);
    assert!(
        path.exists(),
        "{} is missing: build it by `cargo build --package observer --example {example}`",
        path.display()
    );
    path
}
