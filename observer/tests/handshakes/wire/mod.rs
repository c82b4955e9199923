//! Segments in any order: a TCP of our own on a TUN device against a real socket.
//!
//! The kernel believes that [`Raw`] is a host behind `tun0`. What the host sends is up to the
//! script, and the real socket at this end must still get the right stream: then the kernel has
//! put it together, and so must the observer have.

pub(crate) mod client;
pub(crate) mod server;

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    books::{Books, Spoken},
    support::{
        daemon::Daemon,
        netns::Netns,
        peer::Peer,
        pod::{Pod, check},
        scenarios::Failures,
        wire::{
            raw::Raw,
            tun::{LEFT_V4, LEFT_V6, RIGHT_V4, RIGHT_V6, Tun},
        },
    },
};

/// How a connection comes about.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Open {
    /// The real socket is the server.
    Server,
    /// The same, but the ACK that completes the handshake is lost.
    ServerWithoutAck,
    /// The real socket is the client.
    Client,
}

/// What the host behind `tun0` does to a real socket, and what that must be counted as.
pub(crate) struct Scenario {
    name: &'static str,
    open: Open,
    spoken: Spoken,
    script: fn(&mut Bench) -> Result<()>,
}

impl Scenario {
    /// A conversation in these protocols, one after the other.
    pub(crate) fn new(
        name: &'static str,
        open: Open,
        protocols: &'static [&'static str],
        script: fn(&mut Bench) -> Result<()>,
    ) -> Self {
        let spoken = Spoken { protocols, messages: (0, 0), errors: 0 };
        Self { name, open, spoken, script }
    }

    /// With so many WebSocket messages from client to server, and back.
    pub(crate) fn messages(mut self, to_server: u64, to_client: u64) -> Self {
        self.spoken.messages = (to_server, to_client);
        self
    }

    fn run(&self, daemon: &Daemon, lab: &Lab<'_>, ours: IpAddr, theirs: IpAddr) -> Result<()> {
        let pod = Pod::new();
        let mut socket = Peer::start(&pod.cgroup, Some(lab.netns));
        let (raw, port, accepted);
        if self.open == Open::Client {
            let port_of_ours = Raw::free_port();
            socket.say(&format!("connect {}", std::net::SocketAddr::new(ours, port_of_ours)))?;
            raw = Raw::accept(lab.tun, ours, port_of_ours)?;
            socket.answer()?;
            (port, accepted) = (port_of_ours, true);
        } else {
            let server = socket.listen((theirs, 0).into(), false)?;
            raw = Raw::connect(lab.tun, ours, server, self.open == Open::Server)?;
            (port, accepted) = (server.port(), false);
        }
        let mut bench = Bench { raw, socket, accepted, over: false };
        (self.script)(&mut bench)?;
        bench.accept()?;

        let role = if self.open == Open::Client { "client" } else { "server" };
        let books = Books { pod: &pod, role, port, spoken: self.spoken };
        if !bench.over {
            check(daemon, &[(&pod, books.open())])?;
        }
        bench.close()?;
        check(daemon, &[(&pod, books.over())])
    }
}

/// Where the scenarios take place.
pub(crate) struct Lab<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) tun: &'a Tun,
}

/// Runs all scenarios, over IPv4 and over IPv6.
pub(crate) fn run(daemon: &Daemon, lab: &Lab<'_>, scenarios: &[Scenario], failures: &mut Failures) {
    for scenario in scenarios {
        for (ours, theirs) in [(RIGHT_V4, LEFT_V4), (RIGHT_V6, LEFT_V6)] {
            let name = format!("{} ({theirs})", scenario.name);
            failures.run(daemon, &name, || scenario.run(daemon, lab, ours, theirs));
        }
    }
}

/// Our end and the real one.
pub(crate) struct Bench<'a> {
    pub(crate) raw: Raw<'a>,
    socket: Peer,
    /// A server has accepted only after the handshake is complete.
    accepted: bool,
    /// The connection has ended already.
    over: bool,
}

impl Bench<'_> {
    /// The real socket has received exactly these bytes, whatever was sent.
    pub(crate) fn received(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.accept()?;
        self.socket.expect(bytes.as_ref())
    }

    /// The real socket sends these bytes, and we take them.
    pub(crate) fn answer(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.accept()?;
        self.socket.say_send(bytes.as_ref())?;
        self.socket.answer()?;
        self.raw.expect(bytes.as_ref())
    }

    /// We reset the connection; `received` bytes of our stream have come without a gap.
    pub(crate) fn reset(&mut self, received: usize) -> Result<()> {
        self.accept()?;
        self.over = true;
        self.raw.reset(received)
    }

    fn accept(&mut self) -> Result<()> {
        if !self.accepted {
            self.socket.ask("accept")?;
            self.accepted = true;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if self.over {
            return self.socket.ask("close").map(drop);
        }
        self.raw.finish()?;
        self.socket.expect_end()?;
        self.socket.ask("close")?;
        self.raw.expect_finish()
    }
}
