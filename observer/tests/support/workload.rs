//! The workload: real servers and clients in cgroups and namespaces, and their books.
//!
//! The program is the example `workload`, which documents what it speaks on stdin and stdout.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::{Deserialize, de::DeserializeOwned};

use super::{cgroup::TestCgroup, daemon, netns::Netns, process::Process};

/// How long a workload may take for its next line: thousands of connections on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// What is spoken on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Ws,
    Http1,
    Grpc,
    Tcp,
}

impl Protocol {
    /// All that the workload speaks.
    pub(crate) const ALL: [Self; 4] = [Self::Ws, Self::Http1, Self::Grpc, Self::Tcp];

    /// The workload's name for it.
    fn argument(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Http1 => "http1",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What a server counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct ServerBooks {
    /// Connections accepted.
    pub(crate) accepted: u64,
    /// Of those, the ones that were over.
    pub(crate) closed: u64,
    /// HTTP requests: upgrades, GETs or gRPC calls; none for plain TCP.
    pub(crate) requests: u64,
    /// Application messages received.
    pub(crate) messages_in: u64,
    /// Application messages sent.
    pub(crate) messages_out: u64,
}

/// What a driver counted. Failures are none: they fail the test.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct DriverBooks {
    /// Whether the long connections are up.
    pub(crate) ready: bool,
    /// Connections tried.
    pub(crate) attempted: u64,
    /// Connections established.
    pub(crate) opened: u64,
    /// Of those, the ones that are over, by a reset too.
    pub(crate) closed: u64,
    /// Of those, the ones that are not.
    pub(crate) active: u64,
    /// Application messages received, each verified.
    pub(crate) messages_in: u64,
    /// Application messages sent.
    pub(crate) messages_out: u64,
    /// Connections that were not what they should have been.
    pub(crate) failures: u64,
}

/// A server process. It is killed when dropped.
pub(crate) struct Server {
    program: Program,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts a server in a cgroup, and in a namespace if one is given. Port 0 takes a free one.
    pub(crate) fn start(
        protocol: Protocol,
        listen: SocketAddr,
        cgroup: &TestCgroup,
        netns: Option<&Netns>,
    ) -> Self {
        #[derive(Deserialize)]
        struct Ready {
            ready: SocketAddr,
        }
        let listen = listen.to_string();
        let args = ["serve", "--protocol", protocol.argument(), "--listen", &listen];
        let program = Program::start(&args.map(str::to_owned), cgroup, netns);
        let Ready { ready: addr } = program.line();
        Self { program, addr }
    }

    /// The books as they stand.
    pub(crate) fn books(&mut self) -> ServerBooks {
        self.program.say("books");
        self.program.line()
    }

    /// Ends it by SIGTERM and returns its last books.
    pub(crate) fn stop(mut self) -> ServerBooks {
        self.program.process.signal(Signal::SIGTERM);
        let books = self.program.line();
        self.program.end();
        books
    }
}

/// What a driver is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drive {
    pub(crate) protocol: Protocol,
    /// The server.
    pub(crate) connect: SocketAddr,
    /// Connections to open, use and close.
    pub(crate) short: u64,
    /// Connections to open, use once and hold.
    pub(crate) long: u64,
    /// How many connections are worked on at a time.
    pub(crate) concurrency: u64,
    /// The local address; the kernel chooses when there is none.
    pub(crate) bind: Option<IpAddr>,
    /// Messages on each short connection.
    pub(crate) messages: u64,
}

impl Drive {
    /// No connections yet, one message on each, 64 at a time.
    pub(crate) fn new(protocol: Protocol, connect: SocketAddr) -> Self {
        Self { protocol, connect, short: 0, long: 0, concurrency: 64, bind: None, messages: 1 }
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec!["drive".to_owned()];
        let mut option = |name: &str, value: &dyn ToString| {
            args.extend([format!("--{name}"), value.to_string()]);
        };
        option("protocol", &self.protocol.argument());
        option("connect", &self.connect);
        option("short", &self.short);
        option("long", &self.long);
        option("concurrency", &self.concurrency);
        option("messages", &self.messages);
        if let Some(address) = &self.bind {
            option("bind", address);
        }
        args
    }
}

/// A driver process. It is killed when dropped.
pub(crate) struct Driver(Program);

impl Driver {
    /// Starts a driver in a cgroup, and in a namespace if one is given.
    pub(crate) fn start(drive: &Drive, cgroup: &TestCgroup, netns: Option<&Netns>) -> Self {
        Self(Program::start(&drive.args(), cgroup, netns))
    }

    /// Waits until all short connections are over and all long ones are up.
    pub(crate) fn ready(&mut self) -> DriverBooks {
        self.books(true)
    }

    /// Exchanges one more message on each long connection.
    pub(crate) fn talk(&mut self) -> DriverBooks {
        self.0.say("talk");
        self.books(true)
    }

    /// Closes the long connections orderly and ends.
    pub(crate) fn close(mut self) -> DriverBooks {
        self.0.say("close");
        self.last_books()
    }

    /// Resets the long connections and ends.
    pub(crate) fn reset(mut self) -> DriverBooks {
        self.0.say("reset");
        self.last_books()
    }

    /// Lets it end by itself: it closes the long connections orderly.
    pub(crate) fn finish(mut self) -> DriverBooks {
        self.0.stdin = None;
        self.last_books()
    }

    /// Kills it by SIGKILL: the kernel closes its connections.
    pub(crate) fn kill(mut self) {
        self.0.process.kill();
    }

    fn books(&self, ready: bool) -> DriverBooks {
        let books: DriverBooks = self.0.line();
        assert!(
            books.failures == 0 && books.attempted == books.opened && books.ready == ready,
            "{}: not what a driver should come to: {books:?}",
            self.0.description
        );
        books
    }

    fn last_books(mut self) -> DriverBooks {
        let books = self.books(false);
        self.0.end();
        books
    }
}

/// A running workload and its two pipes. Its stderr is the test's.
struct Program {
    process: Process,
    description: String,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    fn start(args: &[String], cgroup: &TestCgroup, netns: Option<&Netns>) -> Self {
        let path = executable();
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(netns) = netns {
            netns.enter(&mut command);
        }
        let description = format!("workload {}", args.join(" "));
        let mut process = Process::new(cgroup.spawn_in(&mut command), description.clone());
        let stdin = Some(process.take_stdin());
        let lines = read_lines(process.take_stdout());
        Self { process, description, stdin, lines }
    }

    fn say(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("its stdin is open");
        writeln!(stdin, "{command}").unwrap_or_else(|e| panic!("{}: {e}", self.description));
    }

    /// Its next line.
    fn line<T: DeserializeOwned>(&self) -> T {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("{} printed nothing more: {error}", self.description));
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{} printed `{line}`: {error}", self.description))
    }

    /// Waits for its success.
    fn end(&mut self) {
        self.stdin = None;
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{} ended with {status}", self.description);
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
fn executable() -> PathBuf {
    let path = daemon::executable().with_file_name("examples").join("workload");
    assert!(
        path.exists(),
        "{} is missing: build it by `cargo build --package observer --example workload`",
        path.display()
    );
    path
}
