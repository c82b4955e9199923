//! Short connections at full speed, by the example `storm`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    accounts::{Account, Closed},
    support::{netns::Netns, pod::Pod, poll::poll, program::Program},
};

const STORM: &str = "storm";
const PATIENCE: Duration = Duration::from_mins(1);

/// What one end counted.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Books {
    pub(crate) opened: u64,
    closed: BTreeMap<String, u64>,
    failures: u64,
}

/// A server and its client at work, each in a pod of its own.
pub(crate) struct Storm {
    client: Program,
    server: Program,
    since: Instant,
    /// Where both are.
    netns: String,
    // Below the programs: they end before their cgroups are removed.
    pods: [Pod; 2],
}

/// What is left of a storm: the cgroups, for as long as they are wanted.
pub(crate) struct Calm {
    /// The server's and the client's.
    pub(crate) accounts: [Account; 2],
    pub(crate) pods: [Pod; 2],
    /// Connections, and how long it took.
    pub(crate) connections: u64,
    pub(crate) took: Duration,
}

impl Storm {
    /// Starts both inside of a namespace.
    pub(crate) fn start(netns: &Netns, seed: u64) -> Self {
        #[derive(Deserialize)]
        struct Ready {
            ready: SocketAddr,
        }
        let pods = [Pod::new(), Pod::new()];
        let args = ["serve", "--listen", "0.0.0.0:0"].map(str::to_owned);
        let server = Program::start(STORM, &args, &pods[0].cgroup, Some(netns));
        let Ready { ready } = server.line();
        let [connect, seed] = [format!("127.0.0.1:{}", ready.port()), seed.to_string()];
        let args = ["drive", "--connect", &connect, "--seed", &seed].map(str::to_owned);
        let client = Program::start(STORM, &args, &pods[1].cgroup, Some(netns));
        Self { client, server, since: Instant::now(), netns: netns.name().to_owned(), pods }
    }

    /// Waits until it is in full swing.
    pub(crate) fn wait(&mut self) {
        poll(PATIENCE, || (books(&mut self.server).opened > 1_000).then_some(()))
            .expect("the storm breaks out");
    }

    /// Lets both end.
    pub(crate) fn end(mut self) -> Calm {
        let client = last_books(&mut self.client);
        let took = self.since.elapsed();
        let server = last_books(&mut self.server);
        let exactly = |books: &Books| Closed::As(books.closed.clone());
        let (one, other) = (exactly(&server), exactly(&client));
        assert_eq!((client.failures, server.failures), (0, 0), "the storm itself went wrong");
        assert_eq!(server.opened, client.opened, "the storm's own books differ");
        self.calm(server.opened, [one, other], took)
    }

    /// Kills the client in the midst of it. Whatever it had opened the server has accepted.
    pub(crate) fn kill_client(mut self) -> Calm {
        self.client.kill();
        let took = self.since.elapsed();
        let opened = last_books(&mut self.server).opened;
        self.calm(opened, [Closed::Anyhow(opened), Closed::Anyhow(opened)], took)
    }

    /// Kills the server in the midst of it. Its kernel has accepted whatever the client has opened: no handshake is under
    /// way at that moment, since one that meets the listener's end is over for the client only.
    pub(crate) fn kill_server(mut self) -> Calm {
        self.client.say("hold");
        let _: Books = self.client.line();
        poll(PATIENCE, || (!self.server.is_connecting()).then_some(())).expect("handshakes end");
        self.server.kill();
        self.client.say("go on");
        let took = self.since.elapsed();
        let opened = last_books(&mut self.client).opened;
        self.calm(opened, [Closed::Anyhow(opened), Closed::Anyhow(opened)], took)
    }

    fn calm(self, opened: u64, closed: [Closed; 2], took: Duration) -> Calm {
        let [server, client] = closed;
        let account = |pod: &Pod, role, closed| Account {
            pod: pod.name.clone(),
            role,
            netns: [(); 2].map(|()| self.netns.clone()),
            taken_for: &[],
            opened,
            adopted: false,
            closed,
            messages: [0; 2],
            bytes: None,
        };
        let accounts =
            [account(&self.pods[0], "server", server), account(&self.pods[1], "client", client)];
        Calm { accounts, pods: self.pods, connections: opened, took }
    }
}

fn books(program: &mut Program) -> Books {
    program.say("books");
    program.line()
}

/// Ends the program.
fn last_books(program: &mut Program) -> Books {
    program.hang_up();
    let books = program.line();
    program.end();
    books
}
