//! The workload: real servers and clients in cgroups and namespaces, and their books.
//!
//! The program is the example `workload`, which documents what it speaks on stdin and stdout.

use std::net::{IpAddr, SocketAddr};

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::{cgroup::TestCgroup, netns::Netns, program::Program};

/// The example's name.
const WORKLOAD: &str = "workload";

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
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
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
        let program = Program::start(WORKLOAD, &args.map(str::to_owned), cgroup, netns);
        let Ready { ready: addr } = program.line();
        Self { program, addr }
    }

    /// The books as they stand.
    pub(crate) fn books(&mut self) -> ServerBooks {
        self.program.say("books");
        self.program.line()
    }

    /// Kills it by SIGKILL: the kernel closes its connections.
    pub(crate) fn kill(mut self) {
        self.program.kill();
    }

    /// Ends it by SIGTERM and returns its last books.
    pub(crate) fn stop(mut self) -> ServerBooks {
        self.program.signal(Signal::SIGTERM);
        let books = self.program.line();
        self.program.end();
        books
    }
}

/// A process that passes connections on, as a sidecar does. It is killed when dropped.
pub(crate) struct Relay {
    _program: Program,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

/// On which side of a relay nobody can read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    Neither,
    Clients,
    Server,
}

impl Relay {
    /// Starts a relay in a cgroup, and in a namespace if one is given.
    pub(crate) fn start(
        listen: SocketAddr,
        connect: SocketAddr,
        hidden: Hidden,
        cgroup: &TestCgroup,
        netns: Option<&Netns>,
    ) -> Self {
        #[derive(Deserialize)]
        struct Ready {
            ready: SocketAddr,
        }
        let (listen, connect) = (listen.to_string(), connect.to_string());
        let mut args = vec!["relay", "--listen", &listen, "--connect", &connect];
        match hidden {
            Hidden::Neither => {}
            Hidden::Clients => args.extend(["--hide", "clients"]),
            Hidden::Server => args.extend(["--hide", "server"]),
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let program = Program::start(WORKLOAD, &args, cgroup, netns);
        let Ready { ready: addr } = program.line();
        Self { _program: program, addr }
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
        Self(Program::start(WORKLOAD, &drive.args(), cgroup, netns))
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

    /// Exchanges that many more messages on each long connection, many at once.
    pub(crate) fn flood(&mut self, messages: u64) -> DriverBooks {
        self.0.say(&format!("flood {messages}"));
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
        self.0.hang_up();
        self.last_books()
    }

    /// Kills it by SIGKILL: the kernel closes its connections.
    pub(crate) fn kill(mut self) {
        self.0.kill();
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    fn books(&self, ready: bool) -> DriverBooks {
        let books: DriverBooks = self.0.line();
        assert!(
            books.failures == 0 && books.attempted == books.opened && books.ready == ready,
            "{}: not what a driver should come to: {books:?}",
            self.0
        );
        books
    }

    fn last_books(mut self) -> DriverBooks {
        let books = self.books(false);
        self.0.end();
        books
    }
}
