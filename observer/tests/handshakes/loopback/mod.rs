//! Conversations over loopback, both ends real sockets in pods of their own.
//!
//! Every piece that one end sends is received by the other before the next is sent: each is a
//! segment of its own, in the order of the script.

pub(crate) mod hostile;
pub(crate) mod messages;
pub(crate) mod plain;
pub(crate) mod upgrades;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    books::{Books, Spoken},
    support::{
        daemon::Daemon,
        peer::Peer,
        pod::{Pod, check},
        scenarios::Failures,
    },
};

/// A conversation, and what it must be counted as.
pub(crate) struct Scenario {
    name: &'static str,
    script: fn(&mut Talk) -> Result<()>,
    deferred: bool,
    spoken: Spoken,
}

impl Scenario {
    /// A conversation in these protocols, one after the other; none stands for plain TCP.
    pub(crate) fn new(
        name: &'static str,
        protocols: &'static [&'static str],
        script: fn(&mut Talk) -> Result<()>,
    ) -> Self {
        let spoken = Spoken { protocols, messages: (0, 0), errors: 0 };
        Self { name, script, deferred: false, spoken }
    }

    /// With so many WebSocket messages from client to server, and back.
    pub(crate) fn messages(mut self, to_server: u64, to_client: u64) -> Self {
        self.spoken.messages = (to_server, to_client);
        self
    }

    /// With so many frames that break the protocol.
    pub(crate) fn errors(mut self, errors: u64) -> Self {
        self.spoken.errors = errors;
        self
    }

    /// With the first data in the segment that completes the TCP handshake.
    pub(crate) fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    fn run(&self, daemon: &Daemon, address: IpAddr) -> Result<()> {
        let (client_pod, server_pod) = (Pod::new(), Pod::new());
        let mut server = Peer::start(&server_pod.cgroup, None);
        let mut client = Peer::start(&client_pod.cgroup, None);
        let address = server.listen((address, 0).into(), self.deferred)?;
        client.ask(&format!("connect {address}"))?;
        let mut talk = Talk { client, server, accepted: false };
        (self.script)(&mut talk)?;
        talk.accept()?;

        let (port, spoken) = (address.port(), self.spoken);
        let client = Books { pod: &client_pod, role: "client", port, spoken };
        let server = Books { pod: &server_pod, role: "server", port, spoken };
        check(daemon, &[(&client_pod, client.open()), (&server_pod, server.open())])?;
        talk.close()?;
        check(daemon, &[(&client_pod, client.over()), (&server_pod, server.over())])
    }
}

/// Runs all scenarios, over IPv4 and over IPv6.
pub(crate) fn run(daemon: &Daemon, scenarios: &[Scenario], failures: &mut Failures) {
    for scenario in scenarios {
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let name = format!("{} ({address})", scenario.name);
            failures.run(daemon, &name, || scenario.run(daemon, address));
        }
    }
}

/// Two connected peers.
pub(crate) struct Talk {
    client: Peer,
    server: Peer,
    /// A deferred handshake is complete only after the first data, so accepting waits until then.
    accepted: bool,
}

impl Talk {
    /// The client sends one segment.
    pub(crate) fn client(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.client.say_send(bytes.as_ref())?;
        self.accept()?;
        self.server.expect(bytes.as_ref())?;
        self.client.answer().map(drop)
    }

    /// The server sends one segment.
    pub(crate) fn server(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.accept()?;
        self.server.say_send(bytes.as_ref())?;
        self.client.expect(bytes.as_ref())?;
        self.server.answer().map(drop)
    }

    /// The client sends a segment for each byte.
    pub(crate) fn client_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        bytes.as_ref().chunks(1).try_for_each(|byte| self.client(byte))
    }

    /// The server sends a segment for each byte.
    pub(crate) fn server_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        bytes.as_ref().chunks(1).try_for_each(|byte| self.server(byte))
    }

    /// The client asks for WebSocket and gets it.
    pub(crate) fn upgrade(&mut self) -> Result<()> {
        self.client(crate::bytes::UPGRADE)?;
        self.server(crate::bytes::SWITCHING)
    }

    fn accept(&mut self) -> Result<()> {
        if !self.accepted {
            self.server.ask("accept")?;
            self.accepted = true;
        }
        Ok(())
    }

    /// Ends it in good order, the client first.
    fn close(&mut self) -> Result<()> {
        self.client.ask("shutdown")?;
        self.server.expect_end()?;
        self.server.ask("close")?;
        self.client.expect_end()?;
        self.client.ask("close").map(drop)
    }
}
