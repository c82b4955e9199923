//! Attempts to connect that come to nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use crate::{
    books::{Books, check},
    stage::{Side, Stage, expect_error},
    support::{
        daemon::Daemon,
        netns::{NetnsPair, ip},
        peer::Peer,
        pod::Pod,
        scenarios::Failures,
        wire::{
            cable::{Cable, Condition},
            tun::{RIGHT_V4, RIGHT_V6},
        },
    },
};

/// A port where nobody listens: the namespaces are ours alone.
const CLOSED: u16 = 9;
/// Part of a range for documentation (RFC 5737) that the namespace has no way to.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// All of them, over IPv4 and IPv6.
pub(crate) fn run(daemon: &Daemon, namespaces: &NetnsPair, cable: &Cable, failures: &mut Failures) {
    let lab = Lab { daemon, namespaces, cable };
    for address in [RIGHT_V4, RIGHT_V6] {
        let mut run = |name: &str, script: &dyn Fn() -> Result<()>| {
            failures.run(daemon, &format!("{name} ({address})"), || {
                cable.set(Condition::Sound);
                let result = script();
                cable.set(Condition::Sound);
                result
            });
        };
        run("to a closed port", &|| lab.refused(address));
        run("to a blackhole", &|| lab.blackhole(address));
        run("cancelled at once", &|| lab.cancelled(address, 300));
        run("cancelled after the second SYN", &|| lab.cancelled(address, 1500));
        run("abandoned at once", &|| lab.abandoned(address, 300));
        run("abandoned after the second SYN", &|| lab.abandoned(address, 1500));
        run("to a full accept queue", &|| lab.full_queue(address));
    }
    ip(&format!("-n {} route add unreachable {NOWHERE}", namespaces.a.name()));
    failures.run(daemon, "without a route", || lab.no_route());
}

struct Lab<'a> {
    daemon: &'a Daemon,
    namespaces: &'a NetnsPair,
    cable: &'a Cable,
}

impl Lab<'_> {
    /// A client alone tries, fails with this error, and has these books.
    fn attempt(
        &self,
        address: IpAddr,
        command: &str,
        error: &str,
        books: fn(Books) -> Books,
    ) -> Result<()> {
        let pod = Pod::new();
        let mut client = Peer::start(&pod.cgroup, Some(&self.namespaces.a));
        let command = format!("{command} {}", SocketAddr::new(address, CLOSED));
        expect_error(&mut client, &command, error)?;
        check(self.daemon, &[(&pod, books(Books::new("client", CLOSED)))])
    }

    /// The answer, a reset, belongs to no connection: it is counted as what it means.
    fn refused(&self, address: IpAddr) -> Result<()> {
        self.attempt(address, "connect", "Connection refused", |books| books.failed("refused"))
    }

    fn blackhole(&self, address: IpAddr) -> Result<()> {
        self.cable.set(Condition::Cut);
        self.attempt(address, "connect", "Connection timed out", |books| {
            books.failed("timed_out").timeout("connect")
        })
    }

    /// The program gives up before the kernel does.
    fn cancelled(&self, address: IpAddr, after: u32) -> Result<()> {
        self.cable.set(Condition::Cut);
        self.attempt(address, &format!("attempt {after}"), "timed out", |books| {
            books.failed("cancelled")
        })
    }

    /// The same by a reset, which the kernel reports as an error, to the program's own socket.
    fn abandoned(&self, address: IpAddr, after: u32) -> Result<()> {
        self.cable.set(Condition::Cut);
        let pod = Pod::new();
        let mut client = Peer::start(&pod.cgroup, Some(&self.namespaces.a));
        client.ask(&format!("abandon {after} {}", SocketAddr::new(address, CLOSED)))?;
        check(self.daemon, &[(&pod, Books::new("client", CLOSED).failed("cancelled"))])
    }

    /// There is room for one connection that nobody accepts; the kernel does not hear the SYNs of another.
    fn full_queue(&self, address: IpAddr) -> Result<()> {
        let namespaces = [&self.namespaces.a, &self.namespaces.b];
        let mut stage = Stage::new(self.daemon, address, Some(namespaces))?;
        stage.server.ask("backlog 0")?;
        stage.client.ask(&format!("connect {}", stage.address()))?;
        let pod = Pod::new();
        let mut second = Peer::start(&pod.cgroup, Some(&self.namespaces.a));
        let connect = format!("connect {}", stage.address());
        expect_error(&mut second, &connect, "Connection timed out")?;
        let books = Books::new("client", stage.address().port());
        check(self.daemon, &[(&pod, books.failed("timed_out").timeout("connect"))])?;
        // The first is a connection like any other, accepted or not.
        stage.check(Side::Client, Side::BOTH.map(|side| stage.books(side, 1).active(1)))?;
        // A byte at the end: however long the other has tried, this is no idle close.
        stage.client.ask("send 00")?;
        stage.client.ask("close")?;
        stage.server.ask("accept")?;
        stage.server.expect(&[0])?;
        stage.server.expect_end()?;
        stage.server.ask("close")?;
        let client = stage.books(Side::Client, 1).closed("local", 1).bytes(0, 1);
        let server = stage.books(Side::Server, 1).closed("peer", 1).bytes(1, 0);
        stage.check(Side::Client, [client, server])
    }

    /// The call fails before the socket has left CLOSE: no hook of the observer's sees that. A limit.
    fn no_route(&self) -> Result<()> {
        self.attempt(NOWHERE.into(), "connect", "No route to host", |books| books)
    }
}
