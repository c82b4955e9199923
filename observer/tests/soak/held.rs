//! Groups of long connections, and the ways they end.

use std::net::SocketAddr;

use fastrand::Rng;

use crate::{
    accounts::{Account, Closed},
    support::{
        netns::Netns,
        pod::Pod,
        workload::{Drive, Driver, DriverBooks, Protocol, Server},
    },
};

/// Where a group's two ends are.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Both in a namespace, on its loopback.
    Loopback(&'a Netns),
    /// At the ends of a cable, server first.
    Cable(&'a Netns, &'a Netns),
}

/// How a group ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// As the protocol has it.
    Close,
    /// The client resets.
    Reset,
    /// The client is killed.
    KillClient,
    /// The server is killed, and the client, which does not look, after it.
    KillBoth,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Close, Self::Reset, Self::KillClient, Self::KillBoth];

    pub(crate) fn any(random: &mut Rng) -> Self {
        Self::ALL[random.usize(..Self::ALL.len())]
    }
}

/// A server and its client, with connections between them; each end is a pod.
pub(crate) struct Held {
    protocol: Protocol,
    driver: Driver,
    server: Server,
    /// As it last told.
    books: DriverBooks,
    short: u64,
    adopted: bool,
    /// Of the adopted.
    recognised: bool,
    /// Messages to the server, and back, that passed before they could be counted.
    unseen: [u64; 2],
    /// The server's and the client's.
    netns: [String; 2],
    // Below the programs: they end before their cgroups are removed.
    pods: [Pod; 2],
}

impl Held {
    /// Starts a group; it is up when [`Self::up`] returns.
    pub(crate) fn start(protocol: Protocol, place: Place, short: u64, long: u64) -> Self {
        let pods = [Pod::new(), Pod::new()];
        let (address, server_in, client_in): (SocketAddr, _, _) = match place {
            Place::Loopback(netns) => (([127, 0, 0, 1], 0).into(), netns, netns),
            Place::Cable(server, client) => ((server.ipv6(), 0).into(), server, client),
        };
        let server = Server::start(protocol, address, &pods[0].cgroup, Some(server_in));
        let drive = Drive { short, long, ..Drive::new(protocol, server.addr) };
        let driver = Driver::start(&drive, &pods[1].cgroup, Some(client_in));
        Self {
            protocol,
            driver,
            server,
            books: DriverBooks::default(),
            short,
            adopted: false,
            recognised: false,
            unseen: [0; 2],
            netns: [server_in, client_in].map(|netns| netns.name().to_owned()),
            pods,
        }
    }

    /// Waits until all long connections are there and all short ones over.
    pub(crate) fn up(&mut self) {
        self.books = self.driver.ready();
    }

    /// One more message on each.
    pub(crate) fn talk(&mut self) {
        self.books = self.driver.talk();
    }

    /// So many more messages on each, many at once. Returns how many messages passed, both ways.
    pub(crate) fn flood(&mut self, messages: u64) -> u64 {
        let before = self.books.messages_in + self.books.messages_out;
        self.books = self.driver.flood(messages);
        self.books.messages_in + self.books.messages_out - before
    }

    /// Connections that are open.
    pub(crate) fn active(&self) -> u64 {
        self.books.active
    }

    /// The cgroup of the client is removed while the client, moved elsewhere, keeps its connections.
    pub(crate) fn orphan(&mut self) {
        let elsewhere = Pod::new();
        elsewhere.cgroup.take_in(self.driver.id());
        let Pod { cgroup, name } = std::mem::replace(&mut self.pods[1], elsewhere);
        drop(cgroup);
        // The connections are still those of the pod that is gone.
        self.pods[1].name = name;
    }

    /// What must be shown now.
    pub(crate) fn accounts(&self) -> [Account; 2] {
        let [one, other] = self.reasons(Way::Close, self.short);
        self.accounts_with(one, other)
    }

    /// The daemon was started after the connections were opened, and has not seen those that are over.
    pub(crate) fn adopt(&mut self) {
        self.adopted = true;
        self.short = 0;
        self.unseen = [self.books.messages_out, self.books.messages_in];
    }

    /// What was adopted speaks twice, and is recognised by that.
    pub(crate) fn recognise(&mut self) {
        self.talk();
        self.talk();
        self.recognised = true;
        self.unseen = [self.books.messages_out, self.books.messages_in];
    }

    fn accounts_with(&self, server: Closed, client: Closed) -> [Account; 2] {
        let taken_for: &[_] = match self.protocol {
            _ if self.adopted && !self.recognised => &[],
            Protocol::Ws if self.adopted => &["websocket"],
            Protocol::Ws => &["http1", "websocket"],
            Protocol::Http1 => &["http1"],
            Protocol::Grpc => &["http2", "grpc"],
            Protocol::Tcp => &[],
        };
        let messages = match self.protocol {
            Protocol::Ws => {
                [self.books.messages_out - self.unseen[0], self.books.messages_in - self.unseen[1]]
            }
            _ => [0; 2],
        };
        let [server_in, client_in] = &self.netns;
        let account = |pod: &Pod, role, netns: [&String; 2], closed, messages| Account {
            pod: pod.name.clone(),
            role,
            netns: netns.map(String::clone),
            taken_for,
            opened: if self.adopted { self.books.active } else { self.books.opened },
            adopted: self.adopted,
            closed,
            messages,
            bytes: None,
        };
        [
            account(&self.pods[0], "server", [server_in, client_in], server, messages),
            account(&self.pods[1], "client", [client_in, server_in], client, [0; 2]),
        ]
    }

    /// The reasons at server and client when so many end in that way.
    fn reasons(&self, way: Way, count: u64) -> [Closed; 2] {
        let [server, client] = match (way, self.protocol) {
            (Way::Reset, _) => ["reset_peer", "reset_local"],
            // With GOAWAY both ends close, whoever is first.
            (_, Protocol::Grpc) => return [Closed::Anyhow(count), Closed::Anyhow(count)],
            // RFC 6455 has the server close first.
            (Way::Close, Protocol::Ws) | (Way::KillBoth, _) => ["local", "peer"],
            (Way::Close | Way::KillClient, _) => ["peer", "local"],
        };
        [Closed::all(server, count), Closed::all(client, count)]
    }

    /// Ends all; returns what must be shown then, and the cgroups.
    pub(crate) fn end(self, way: Way) -> ([Account; 2], [Pod; 2]) {
        let active = self.books.active;
        let [server_short, client_short] = self.reasons(Way::Close, self.short);
        let [server_long, client_long] = self.reasons(way, active);
        let accounts =
            self.accounts_with(server_short.and(server_long), client_short.and(client_long));
        let Self { driver, server, books, pods, .. } = self;
        match way {
            Way::Close | Way::Reset => {
                let last = if matches!(way, Way::Close) { driver.close() } else { driver.reset() };
                assert_eq!(last.closed, books.opened, "{last:?}");
                assert_eq!(server.stop().accepted, books.opened, "the workload's own books differ");
            }
            Way::KillClient => {
                driver.kill();
                assert_eq!(server.stop().accepted, books.opened, "the workload's own books differ");
            }
            Way::KillBoth => {
                server.kill();
                driver.kill();
            }
        }
        (accounts, pods)
    }
}
