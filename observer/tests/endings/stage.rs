//! A real client and a real server, each in a pod of its own.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::{
    books::{Books, check},
    support::{daemon::Daemon, netns::Netns, peer::Peer, pod::Pod},
};

/// What each side says to the other in [`Stage::greet`].
const GREETING: &[u8] = b"hello";
/// Its length.
pub(crate) const GREETED: u64 = GREETING.len() as u64;
/// Bytes of [`Stage::exchange`]: not a whole number of segments.
pub(crate) const MUCH: [u64; 2] = [5_000_001, 3_000_003];

/// The two, with one connection or several.
pub(crate) struct Stage<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    address: SocketAddr,
    // Below the peers: they end before their cgroups are removed.
    client_pod: Pod,
    server_pod: Pod,
}

impl<'a> Stage<'a> {
    /// The server listens at `address`; the namespaces are the client's and the server's.
    pub(crate) fn new(
        daemon: &'a Daemon,
        address: IpAddr,
        namespaces: Option<[&Netns; 2]>,
    ) -> Result<Self> {
        let (client_pod, server_pod) = (Pod::new(), Pod::new());
        let client = Peer::start(&client_pod.cgroup, namespaces.map(|[client, _]| client));
        let mut server = Peer::start(&server_pod.cgroup, namespaces.map(|[_, server]| server));
        let address = server.listen((address, 0).into(), false)?;
        Ok(Self { daemon, client, server, address, client_pod, server_pod })
    }

    /// The server's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One connection, in place of the one before.
    pub(crate) fn connect(&mut self) -> Result<()> {
        self.client.ask(&format!("connect {}", self.address))?;
        self.server.ask("accept").map(drop)
    }

    /// Each side says five bytes to the other.
    pub(crate) fn greet(&mut self) -> Result<()> {
        self.client.say_send(GREETING)?;
        self.client.answer()?;
        self.server.expect(GREETING)?;
        self.server.say_send(GREETING)?;
        self.server.answer()?;
        self.client.expect(GREETING)
    }

    /// The side sends the first number of [`MUCH`] bytes, the other the second, both at once.
    pub(crate) fn exchange(&mut self, side: Side) -> Result<()> {
        let [sent, received] = MUCH;
        let [one, other] = self.sides(side);
        one.say(&format!("exchange {sent} {received}"))?;
        other.say(&format!("exchange {received} {sent}"))?;
        for (peer, came) in [(one, received), (other, sent)] {
            ensure!(peer.answer()? == came.to_string(), "the transfer itself failed");
        }
        Ok(())
    }

    /// Both sides, the `first` one first.
    pub(crate) fn sides(&mut self, first: Side) -> [&mut Peer; 2] {
        match first {
            Side::Client => [&mut self.client, &mut self.server],
            Side::Server => [&mut self.server, &mut self.client],
        }
    }

    /// The books of one side, with that many connections opened and nothing else.
    pub(crate) fn books(&self, side: Side, opened: u64) -> Books {
        Books::new(side.role(), self.address.port()).opened(opened)
    }

    /// The `first` side's books are the first ones, the other's the second.
    pub(crate) fn check(&self, first: Side, books: [Books; 2]) -> Result<()> {
        let pods = match first {
            Side::Client => [&self.client_pod, &self.server_pod],
            Side::Server => [&self.server_pod, &self.client_pod],
        };
        let [one, other] = books;
        check(self.daemon, &[(pods[0], one), (pods[1], other)])
    }
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    /// Either may be the one that does it.
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// The other one.
    pub(crate) fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }

    fn role(self) -> &'static str {
        if self == Self::Client { "client" } else { "server" }
    }
}

/// The peer must find that its connection, or its attempt, has failed with this error.
pub(crate) fn expect_error(peer: &mut Peer, command: &str, error: &str) -> Result<()> {
    let found = peer.ask(command).err().with_context(|| format!("`{command}` did not fail"))?;
    let found = format!("{found:#}");
    ensure!(found.contains(error), "`{command}` was to fail with `{error}`: {found}");
    Ok(())
}
