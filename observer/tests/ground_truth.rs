//! The numbers that observer exports equal what the workload itself counted: every protocol, on loopback and between
//! network namespaces, over IPv4 and IPv6, per cgroup and role, with no tolerance.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{net::SocketAddr, time::Duration};

use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::Expected,
    netns::{Netns, NetnsPair},
    scale::scaled,
    workload::{Drive, Driver, DriverBooks, Protocol, Server, ServerBooks},
};

/// Short connections of each of the 16 combinations: 10,240 in all.
fn short() -> u64 {
    scaled(640)
}

/// Long connections of each: 512 in all.
fn long() -> u64 {
    scaled(32)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Where a server and its client are.
#[derive(Clone, Copy, Debug)]
enum Path {
    Loopback4,
    Loopback6,
    Veth4,
    Veth6,
}

impl Path {
    const ALL: [Self; 4] = [Self::Loopback4, Self::Loopback6, Self::Veth4, Self::Veth6];

    fn listen(self, pair: &NetnsPair) -> SocketAddr {
        match self {
            Self::Loopback4 => ([127, 0, 0, 1], 0).into(),
            Self::Loopback6 => ([0, 0, 0, 0, 0, 0, 0, 1], 0).into(),
            Self::Veth4 => (pair.a.ipv4(), 0).into(),
            Self::Veth6 => (pair.a.ipv6(), 0).into(),
        }
    }

    fn namespaces(self, pair: &NetnsPair) -> (Option<&Netns>, Option<&Netns>) {
        match self {
            Self::Loopback4 | Self::Loopback6 => (None, None),
            Self::Veth4 | Self::Veth6 => (Some(&pair.a), Some(&pair.b)),
        }
    }
}

/// One end in its own pod.
struct Pod {
    uid: String,
    cgroup: TestCgroup,
}

impl Pod {
    fn new(number: usize) -> Self {
        let uid = format!("{number:08x}-0000-4000-8000-{:012x}", std::process::id());
        let cgroup = TestCgroup::pod(&uid, &format!("{number:064x}"));
        Self { uid, cgroup }
    }
}

/// A server, its client, and their pods; the processes end before their cgroups are removed.
struct Combination {
    protocol: Protocol,
    driver: Driver,
    server: Server,
    client_pod: Pod,
    server_pod: Pod,
}

fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Ws => "websocket",
        Protocol::Http1 => "http1",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    }
}

/// What both ends must show: `opened` in all, `active` now, the others closed, all of one protocol and role.
fn expected(pod: &Pod, role: &str, protocol: Protocol, opened: u64, active: u64) -> Vec<Expected> {
    let other = if role == "server" { "client" } else { "server" };
    let all = [("pod", pod.uid.as_str()), ("role", role)];
    let mine = [("pod", pod.uid.as_str()), ("role", role), ("protocol", label(protocol))];
    vec![
        Expected::sum("tcp_connections_opened_total", &all, opened),
        Expected::sum("tcp_connections_active", &all, active),
        Expected::sum("tcp_connections_active", &mine, active),
        Expected::sum("tcp_connections_closed_total", &all, opened - active),
        Expected::sum("tcp_connections_closed_total", &mine, opened - active),
        Expected::sum("tcp_connection_duration_seconds_count", &mine, opened - active),
        Expected::sum(
            "tcp_connections_opened_total",
            &[("pod", pod.uid.as_str()), ("role", other)],
            0,
        ),
    ]
}

/// The users' own families count the server's side of their protocol, and nothing else.
fn users(
    pod: &Pod,
    protocol: Protocol,
    opened: u64,
    active: u64,
    books: &ServerBooks,
) -> Vec<Expected> {
    let pod = [("pod", pod.uid.as_str())];
    let is = |p: Protocol, count: u64| if p == protocol { count } else { 0 };
    vec![
        Expected::sum("websocket_connections_active", &pod, is(Protocol::Ws, active)),
        Expected::sum("websocket_connections_total", &pod, is(Protocol::Ws, opened)),
        Expected::sum(
            "websocket_messages_total",
            &[pod[0], ("direction", "received")],
            is(Protocol::Ws, books.messages_in),
        ),
        Expected::sum(
            "websocket_messages_total",
            &[pod[0], ("direction", "sent")],
            is(Protocol::Ws, books.messages_out),
        ),
        Expected::sum("websocket_errors_total", &pod, 0),
        Expected::sum("grpc_connections_active", &pod, is(Protocol::Grpc, active)),
        Expected::sum("grpc_connections_total", &pod, is(Protocol::Grpc, opened)),
        Expected::sum("grpc_errors_total", &pod, 0),
    ]
}

impl Combination {
    fn start(number: usize, protocol: Protocol, path: Path, pair: &NetnsPair) -> Self {
        let (server_pod, client_pod) = (Pod::new(2 * number), Pod::new(2 * number + 1));
        let (server_namespace, client_namespace) = path.namespaces(pair);
        let server =
            Server::start(protocol, path.listen(pair), &server_pod.cgroup, server_namespace);
        let mut drive = Drive::new(protocol, server.addr);
        drive.short = short();
        drive.long = long();
        drive.concurrency = 16;
        drive.messages = 3;
        let driver = Driver::start(&drive, &client_pod.cgroup, client_namespace);
        Self { protocol, driver, server, client_pod, server_pod }
    }

    fn expected(&self, client: &DriverBooks, server: &ServerBooks) -> Vec<Expected> {
        assert_eq!(
            (client.opened, client.failures),
            (short() + long(), 0),
            "the workload failed: {client:?}"
        );
        assert_eq!(server.accepted, client.opened, "the workload's own books differ");
        let Self { protocol, client_pod, server_pod, .. } = self;
        let mut expected = expected(client_pod, "client", *protocol, client.opened, client.active);
        expected.extend(self::expected(
            server_pod,
            "server",
            *protocol,
            server.accepted,
            client.active,
        ));
        expected.extend(users(server_pod, *protocol, server.accepted, client.active, server));
        expected
    }
}

#[test]
fn every_count_equals_the_workloads_own() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let pair = NetnsPair::new();
    let daemon = Daemon::start(&[]);

    let mut number = 0;
    let mut combinations = Vec::new();
    for path in Path::ALL {
        for protocol in Protocol::ALL {
            combinations.push(Combination::start(number, protocol, path, &pair));
            number += 1;
        }
    }

    let mut open = Vec::new();
    for combination in &mut combinations {
        let client = combination.driver.ready();
        let server = combination.server.books();
        assert_eq!(client.active, long());
        open.extend(combination.expected(&client, &server));
    }
    daemon.wait_for(PATIENCE, &open);

    let mut pods = Vec::new();
    let mut closed = Vec::new();
    for combination in combinations {
        let Combination { protocol, driver, server, client_pod, server_pod } = combination;
        let client = driver.close();
        let server = server.stop();
        assert_eq!((client.active, client.failures), (0, 0), "the workload failed: {client:?}");
        assert_eq!((server.accepted, server.closed), (client.opened, client.opened));
        closed.extend(expected(&client_pod, "client", protocol, client.opened, 0));
        closed.extend(expected(&server_pod, "server", protocol, client.opened, 0));
        closed.extend(users(&server_pod, protocol, client.opened, 0, &server));
        pods.push((client_pod, server_pod));
    }
    let metrics = daemon.wait_for(PATIENCE, &closed);
    for kind in [
        "ring_full",
        "table_full",
        "storage_refused",
        "unattributed",
        "gap",
        "malformed",
        "misplaced_end",
        "unseen_end",
        "miscounted",
    ] {
        assert_eq!(
            Expected::sum("observer_lost_total", &[("kind", kind)], 0).mismatch(&metrics),
            None
        );
    }

    drop(pods);
    daemon.stop();
    before.assert_same();
}
