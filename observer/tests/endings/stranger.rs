//! What a host does that is no ordinary client, to a real server; or no server, to a real client.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use crate::{
    books::{Books, check},
    stage::expect_error,
    support::{
        daemon::Daemon,
        netns::Netns,
        peer::Peer,
        pod::Pod,
        scenarios::Failures,
        wire::{
            raw::Raw,
            tun::{LEFT_V4, LEFT_V6, RIGHT_V4, RIGHT_V6, Tun},
        },
    },
};

/// All of them, over IPv4 and IPv6.
pub(crate) fn run(daemon: &Daemon, netns: &Netns, tun: &Tun, failures: &mut Failures) {
    for (ours, theirs) in [(RIGHT_V4, LEFT_V4), (RIGHT_V6, LEFT_V6)] {
        let lab = Lab { daemon, netns, tun, ours, theirs };
        let mut run = |name: &str, script: &dyn Fn() -> Result<()>| {
            failures.run(daemon, &format!("{name} ({theirs})"), script);
        };
        run("a port scan: SYN, then RST", &|| lab.half_open_scan());
        run("a port scan: handshake, then RST", &|| lab.connect_scan());
        run("a reset by who listens, then one by the program", &|| lab.stray_acknowledgement());
        run("a reset that is not in sequence", &|| lab.forged_reset());
        run("a handshake that waits for room in the accept queue", &|| lab.full_queue());
        run("more out of order than is kept", &|| lab.late_start());
        run("an answer to an older connection, then silence", &|| lab.mistaken());
        run("an attempt that a router answers: unreachable", &|| lab.unreachable());
    }
}

struct Lab<'a> {
    daemon: &'a Daemon,
    netns: &'a Netns,
    tun: &'a Tun,
    /// The stranger's address.
    ours: IpAddr,
    /// The real socket's.
    theirs: IpAddr,
}

impl<'a> Lab<'a> {
    /// A real server in a pod.
    fn server(&self) -> Result<(Pod, Peer, SocketAddr)> {
        let pod = Pod::new();
        let mut server = Peer::start(&pod.cgroup, Some(self.netns));
        let address = server.listen((self.theirs, 0).into(), false)?;
        Ok((pod, server, address))
    }

    /// The stranger connects, up to the SYN/ACK or completely.
    fn connect(&self, server: SocketAddr, completely: bool) -> Result<Raw<'a>> {
        Raw::connect(self.tun, self.ours, server, completely)
    }

    /// A real client in a pod that is connecting to this port of ours.
    fn calling(&self) -> Result<(Pod, Peer, u16)> {
        let pod = Pod::new();
        let mut client = Peer::start(&pod.cgroup, Some(self.netns));
        let port = Raw::free_port();
        client.say(&format!("connect {}", SocketAddr::new(self.ours, port)))?;
        Ok((pod, client, port))
    }

    fn check(&self, pod: &Pod, books: Books) -> Result<()> {
        check(self.daemon, &[(pod, books)])
    }

    /// No connection comes about, so none is counted, as opened or as anything else; a real one afterwards is.
    fn half_open_scan(&self) -> Result<()> {
        let (pod, mut server, address) = self.server()?;
        for _ in 0..20 {
            self.connect(address, false)?.reset(0)?;
        }
        // Nothing tells that a packet has had no effect, but the next one does.
        let mut raw = self.connect(address, true)?;
        server.ask("accept")?;
        let books = Books::new("server", address.port()).opened(1);
        self.check(&pod, books.clone().active(1))?;
        raw.finish()?;
        server.expect_end()?;
        server.ask("close")?;
        raw.expect_finish()?;
        self.check(&pod, books.closed("peer", 1))
    }

    /// A connection comes about, accepted or not.
    fn connect_scan(&self) -> Result<()> {
        let (pod, _server, address) = self.server()?;
        self.connect(address, true)?.reset(0)?;
        let books = Books::new("server", address.port()).opened(1);
        self.check(&pod, books.closed("reset_peer", 1).was_reset(1))
    }

    /// The kernel resets what belongs to no connection, with the listener's socket from Linux 6.13 on: it is none of those
    /// that are accepted afterwards.
    fn stray_acknowledgement(&self) -> Result<()> {
        let (pod, mut server, address) = self.server()?;
        let scan = self.connect(address, false)?;
        scan.reset(0)?;
        scan.acknowledge()?;
        let _raw = self.connect(address, true)?;
        server.ask("accept")?;
        server.ask("reset")?;
        let books = Books::new("server", address.port()).opened(1);
        self.check(&pod, books.closed("reset_local", 1).reset("disconnect", 1))
    }

    /// TCP takes only a reset right behind what it has received (RFC 5961 section 3.2).
    fn forged_reset(&self) -> Result<()> {
        let (pod, mut server, address) = self.server()?;
        let mut raw = self.connect(address, true)?;
        server.ask("accept")?;
        for ahead in [1, 1000, 30_000] {
            raw.reset(ahead)?;
        }
        raw.send(0, b"still here")?;
        server.expect(b"still here")?;
        let books = Books::new("server", address.port()).opened(1).bytes(10, 0);
        self.check(&pod, books.clone().active(1))?;
        raw.finish()?;
        server.expect_end()?;
        server.ask("close")?;
        raw.expect_finish()?;
        self.check(&pod, books.closed("peer", 1))
    }

    /// Two handshakes at once, room for one connection: the other is opened when the first has been accepted.
    fn full_queue(&self) -> Result<()> {
        let (pod, mut server, address) = self.server()?;
        server.ask("backlog 0")?;
        let mut first = self.connect(address, false)?;
        let mut second = self.connect(address, false)?;
        first.acknowledge()?;
        second.acknowledge()?;
        let books = |count| Books::new("server", address.port()).opened(count);
        self.check(&pod, books(1).active(1))?;
        server.ask("accept")?;
        server.ask("keep")?;
        second.acknowledge()?;
        server.ask("accept")?;
        server.ask("keep")?;
        self.check(&pod, books(2).active(2))?;
        first.finish()?;
        second.finish()?;
        server.ask("outlast")?;
        for raw in [&mut first, &mut second] {
            raw.expect_finish()?;
        }
        self.check(&pod, books(2).closed("peer", 2))
    }

    /// The start of a stream comes last: some of what comes before it is kept, the rest is not waited for. Each byte
    /// counts once, those that come twice included.
    fn late_start(&self) -> Result<()> {
        const SEGMENT: usize = 100;
        for segments in 1..10 {
            let (pod, mut server, address) = self.server()?;
            let mut raw = self.connect(address, true)?;
            server.ask("accept")?;
            let part = |number: usize| vec![b'a' + number as u8; SEGMENT];
            for number in (1..segments).chain([segments / 2]) {
                raw.send(number * SEGMENT, part(number))?;
            }
            raw.send(0, part(0))?;
            let all: Vec<u8> = (0..segments).flat_map(part).collect();
            server.expect(&all)?;
            raw.send(all.len(), b"and on")?;
            server.expect(b"and on")?;
            raw.finish()?;
            server.expect_end()?;
            server.ask("close")?;
            raw.expect_finish()?;
            let books = Books::new("server", address.port()).opened(1);
            self.check(&pod, books.bytes(all.len() as u64 + 6, 0).closed("peer", 1))?;
        }
        Ok(())
    }

    /// The reset of such an answer ends nothing, and is not what ends the connection later.
    fn mistaken(&self) -> Result<()> {
        let (pod, mut client, port) = self.calling()?;
        Raw::mistake(self.tun, self.ours, port)?;
        let _silent = Raw::accept(self.tun, self.ours, port)?;
        client.answer()?;
        client.ask("user-timeout 1000")?;
        client.say_send(b"lost")?;
        client.answer()?;
        expect_error(&mut client, "receive 1", "timed out")?;
        client.ask("close")?;
        let books = Books::new("client", port).opened(1).bytes(0, 4);
        let books = books.closed("timeout", 1).timeout("retransmission");
        self.check(&pod, books.reset("invalid_segment", 1))
    }

    /// A SYN is answered by an ICMP message (RFC 792, RFC 4443).
    fn unreachable(&self) -> Result<()> {
        let (pod, client, port) = self.calling()?;
        Raw::refuse_as_unreachable(self.tun, self.ours, port)?;
        let found = client.answer().err().map(|found| format!("{found:#}")).unwrap_or_default();
        // Before 6.10 a program may see the end of its attempt before the error (Linux commit 853c3bd7b791).
        let told = ["No route to host", "no error set after POLLHUP"];
        ensure!(told.iter().any(|error| found.contains(error)), "it failed with `{found}`");
        self.check(&pod, Books::new("client", port).failed("unreachable"))
    }
}
