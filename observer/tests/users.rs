//! Users are counted once, however many hops they have in a pod; and what a hop is, is told by `path`.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    netns::{Netns, NetnsPair, ip},
    workload::{Drive, Driver, Hidden, Protocol, Relay, Server},
};

const SHORT: u64 = 20;
const LONG: u64 = 10;
const ALL: u64 = SHORT + LONG;
const PATIENCE: Duration = Duration::from_secs(20);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A pod of several containers.
struct Pod {
    uid: String,
}

impl Pod {
    fn new() -> Self {
        static PODS: AtomicU32 = AtomicU32::new(1);
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        Self { uid: format!("05e45000-{:04x}-4000-8000-{number:012}", process::id() & 0xffff) }
    }

    /// A container of it; those of different numbers have different short ids.
    fn container(&self, number: u8) -> TestCgroup {
        TestCgroup::pod(&self.uid, &number.to_string().repeat(64))
    }

    /// That so many connections were opened with these labels, and no other.
    fn opened(&self, role: &str, path: &str, count: u64) -> Expected {
        let labels = [("pod", self.uid.as_str()), ("role", role), ("path", path)];
        Expected::sum("tcp_connections_opened_total", &labels, count)
    }

    /// That so many have been its users' connections, and so many are.
    fn users(&self, protocol: Protocol, all: u64, now: u64) -> Vec<Expected> {
        let name = match protocol {
            Protocol::Grpc => "grpc",
            _ => "websocket",
        };
        let pod = [("pod", self.uid.as_str())];
        vec![
            Expected::sum(&format!("{name}_connections_total"), &pod, all),
            Expected::sum(&format!("{name}_connections_active"), &pod, now),
        ]
    }

    /// That so many WebSocket messages went each way, and none broke the protocol.
    fn messages(&self, count: u64) -> Vec<Expected> {
        let of = |direction| [("pod", self.uid.as_str()), ("direction", direction)];
        vec![
            Expected::sum("websocket_messages_total", &of("received"), count),
            Expected::sum("websocket_messages_total", &of("sent"), count),
            Expected::sum("websocket_errors_total", &[("pod", &self.uid)], 0),
        ]
    }
}

fn drive(protocol: Protocol, connect: SocketAddr) -> Drive {
    Drive { short: SHORT, long: LONG, ..Drive::new(protocol, connect) }
}

/// A server and a relay before it, in two containers of a pod; and a client of the relay in another pod.
struct Sidecar {
    pod: Pod,
    clients: Pod,
    server: Server,
    relay: Relay,
    driver: Driver,
    _cgroups: [TestCgroup; 3],
}

impl Sidecar {
    fn start(protocol: Protocol, inside: Option<&Netns>, outside: Option<&Netns>) -> Self {
        let (pod, clients) = (Pod::new(), Pod::new());
        let cgroups = [pod.container(1), pod.container(2), clients.container(1)];
        let server = Server::start(protocol, ANY, &cgroups[1], inside);
        let listen = inside.map_or(ANY, |inside| SocketAddr::new(inside.ipv4(), 0));
        let relay = Relay::start(listen, server.addr, Hidden::Neither, &cgroups[0], inside);
        let mut driver = Driver::start(&drive(protocol, relay.addr), &cgroups[2], outside);
        driver.ready();
        Self { pod, clients, server, relay, driver, _cgroups: cgroups }
    }

    fn expected(&self, protocol: Protocol, now: u64) -> Vec<Expected> {
        let hops = [
            self.clients.opened("client", "external", ALL),
            self.clients.opened("client", "internal", 0),
            self.pod.opened("server", "external", ALL),
            self.pod.opened("client", "internal", ALL),
            self.pod.opened("server", "internal", ALL),
            self.pod.opened("client", "external", 0),
        ];
        let messages = match protocol {
            Protocol::Ws => self.pod.messages(ALL),
            _ => Vec::new(),
        };
        [hops.to_vec(), self.pod.users(protocol, ALL, now), messages].concat()
    }

    /// All is as it should be, with connections open and after their end.
    fn check(self, daemon: &Daemon, protocol: Protocol) {
        let metrics = daemon.wait_for(PATIENCE, &self.expected(protocol, LONG));
        assert!(relayed(&metrics, &self.pod).is_none(), "nothing goes to other pods");
        let after = self.expected(protocol, 0);
        self.driver.close();
        daemon.wait_for(PATIENCE, &after);
        drop((self.relay, self.server));
    }
}

/// The connections that a pod relays, if it is told.
fn relayed(metrics: &Metrics, pod: &Pod) -> Option<f64> {
    let series = metrics.select("websocket_connections_relayed", &[("pod", &pod.uid)]);
    assert!(series.len() <= 1, "{series:?}");
    series.first().map(|sample| sample.value)
}

#[test]
fn a_relay_beside_the_server_makes_no_user_more() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    for protocol in [Protocol::Ws, Protocol::Grpc] {
        // In the node's namespace, by pods that the daemon cannot have met yet; and in one of its own.
        Sidecar::start(protocol, None, None).check(&daemon, protocol);
        let namespaces = NetnsPair::new();
        let own = Sidecar::start(protocol, Some(&namespaces.a), Some(&namespaces.b));
        own.check(&daemon, protocol);
    }
    daemon.stop();
}

#[test]
fn pods_that_the_daemon_has_met_are_told_apart_likewise() {
    let _lock = SystemLock::acquire();
    let (pod, clients) = (Pod::new(), Pod::new());
    let cgroups = [pod.container(1), pod.container(2), clients.container(1)];
    let daemon = Daemon::start(&[]);
    let server = Server::start(Protocol::Ws, ANY, &cgroups[1], None);
    let relay = Relay::start(ANY, server.addr, Hidden::Neither, &cgroups[0], None);
    let mut driver = Driver::start(&drive(Protocol::Ws, relay.addr), &cgroups[2], None);
    driver.ready();
    let sidecar = Sidecar { pod, clients, server, relay, driver, _cgroups: cgroups };
    sidecar.check(&daemon, Protocol::Ws);
    daemon.stop();
}

/// What two relays say to each other nobody can read, as between sidecars that speak TLS.
#[test]
fn users_behind_a_relay_that_ends_tls_are_seen_inside() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let (pod, clients) = (Pod::new(), Pod::new());
    let cgroups = [pod.container(1), pod.container(2), clients.container(1), clients.container(2)];
    let server = Server::start(Protocol::Ws, ANY, &cgroups[1], None);
    let inbound = Relay::start(ANY, server.addr, Hidden::Clients, &cgroups[0], None);
    let outbound = Relay::start(ANY, inbound.addr, Hidden::Server, &cgroups[2], None);
    let mut driver = Driver::start(&drive(Protocol::Ws, outbound.addr), &cgroups[3], None);
    driver.ready();
    let opaque = [("pod", pod.uid.as_str()), ("path", "external"), ("protocol", "tcp")];
    let expected = |now| {
        let hops = vec![
            Expected::sum("tcp_connections_active", &opaque, now),
            pod.opened("server", "external", ALL),
            pod.opened("server", "internal", ALL),
            clients.opened("client", "internal", ALL),
            clients.opened("client", "external", ALL),
        ];
        // The other pod has no users, though a relay of its own.
        [
            hops,
            pod.users(Protocol::Ws, ALL, now),
            pod.messages(ALL),
            clients.users(Protocol::Ws, 0, 0),
        ]
        .concat()
    };
    daemon.wait_for(PATIENCE, &expected(LONG));
    driver.close();
    daemon.wait_for(PATIENCE, &expected(0));
    daemon.stop();
}

/// Runs a program in a namespace.
fn run(netns: &Netns, command: &str) {
    let mut words = command.split(' ');
    let mut program = Command::new(words.next().expect("a program"));
    let output = netns.enter(program.args(words)).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {complaint}");
}

/// A sidecar that takes what comes and what goes, as service meshes redirect it.
#[test]
fn a_redirect_changes_nothing() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let namespaces = NetnsPair::new();
    let (inside, outside) = (&namespaces.a, &namespaces.b);
    let (pod, clients, servers) = (Pod::new(), Pod::new(), Pod::new());
    let cgroups = [pod.container(1), pod.container(2), clients.container(1), servers.container(1)];
    let [sidecar, app, client, elsewhere] = &cgroups;
    let any = |netns: &Netns| SocketAddr::new(netns.ipv4(), 0);

    // In: to port 80 of the pod, and through the sidecar to the server.
    let server = Server::start(Protocol::Ws, ANY, app, Some(inside));
    let inbound = Relay::start(any(inside), server.addr, Hidden::Neither, sidecar, Some(inside));
    let port = inbound.addr.port();
    run(
        inside,
        &format!("iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports {port}"),
    );
    let entrance = SocketAddr::new(inside.ipv4(), 80);
    let mut users = Driver::start(&drive(Protocol::Ws, entrance), client, Some(outside));
    users.ready();
    let expected = |now, out: u64| {
        let hops = vec![
            clients.opened("client", "external", ALL),
            pod.opened("server", "external", ALL),
            pod.opened("client", "internal", ALL + out),
            pod.opened("server", "internal", ALL + out),
            pod.opened("client", "external", out),
        ];
        [hops, pod.users(Protocol::Ws, ALL, now), pod.messages(ALL)].concat()
    };
    daemon.wait_for(PATIENCE, &expected(LONG, 0));

    // Out: the app connects to port 81 of another pod, and the sidecar to where that is.
    let other = Server::start(Protocol::Ws, any(outside), elsewhere, Some(outside));
    let outbound = Relay::start(ANY, other.addr, Hidden::Neither, sidecar, Some(inside));
    let port = outbound.addr.port();
    run(
        inside,
        &format!("iptables -t nat -A OUTPUT -p tcp --dport 81 -j REDIRECT --to-ports {port}"),
    );
    let exit = SocketAddr::new(outside.ipv4(), 81);
    let mut calls = Driver::start(&drive(Protocol::Ws, exit), app, Some(inside));
    calls.ready();
    let metrics = daemon.wait_for(
        PATIENCE,
        &[expected(LONG, ALL), servers.users(Protocol::Ws, ALL, LONG)].concat(),
    );
    // It cannot be told whether what the sidecar opens are its users' connections or the app's own.
    assert_eq!(relayed(&metrics, &pod), Some(LONG as f64));
    users.close();
    calls.close();
    daemon.wait_for(PATIENCE, &expected(0, ALL));
    drop((server, other, inbound, outbound));
    daemon.stop();
}

/// A pod that reaches itself through a Service leaves its namespace and comes back.
#[test]
fn a_hairpin_is_external() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let namespaces = NetnsPair::new();
    let (own, router) = (&namespaces.a, &namespaces.b);
    let pod = Pod::new();
    let cgroups = [pod.container(1), pod.container(2)];
    let server =
        Server::start(Protocol::Ws, SocketAddr::new(own.ipv4(), 0), &cgroups[0], Some(own));
    router.set("ipv4/ip_forward", "1");
    router.set("ipv4/conf/all/send_redirects", "0");
    router.set("ipv4/conf/veth0/send_redirects", "0");
    run(
        router,
        &format!(
            "iptables -t nat -A PREROUTING -d 198.51.100.1 -p tcp --dport 80 -j DNAT --to-destination {}",
            server.addr
        ),
    );
    run(router, "iptables -t nat -A POSTROUTING -j MASQUERADE");
    ip(&format!("-n {} route add 198.51.100.0/24 via {}", own.name(), router.ipv4()));
    let service = SocketAddr::from(([198, 51, 100, 1], 80));
    let mut driver = Driver::start(&drive(Protocol::Ws, service), &cgroups[1], Some(own));
    driver.ready();
    let hops = vec![
        pod.opened("client", "external", ALL),
        pod.opened("server", "external", ALL),
        pod.opened("client", "internal", 0),
        pod.opened("server", "internal", 0),
    ];
    daemon.wait_for(
        PATIENCE,
        &[hops, pod.users(Protocol::Ws, ALL, LONG), pod.messages(ALL)].concat(),
    );
    driver.close();
    daemon.stop();
}

#[test]
fn ten_through_an_ingress_and_two_direct_are_twelve() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let [ingress, servers, clients] = [(); 3].map(|()| Pod::new());
    let cgroups = [ingress.container(1), servers.container(1), clients.container(1)];
    let server = Server::start(Protocol::Ws, ANY, &cgroups[1], None);
    let relay = Relay::start(ANY, server.addr, Hidden::Neither, &cgroups[0], None);
    let hold = |long, connect| {
        let drive = Drive { long, ..Drive::new(Protocol::Ws, connect) };
        let mut driver = Driver::start(&drive, &cgroups[2], None);
        driver.ready();
        driver
    };
    let (through, direct) = (hold(10, relay.addr), hold(2, server.addr));
    let expected = [ingress.users(Protocol::Ws, 10, 10), servers.users(Protocol::Ws, 12, 12)];
    let metrics = daemon.wait_for(PATIENCE, &expected.concat());
    assert_eq!((relayed(&metrics, &ingress), relayed(&metrics, &servers)), (Some(10.0), None));
    let all = metrics.sum("websocket_connections_active", &[])
        - metrics.sum("websocket_connections_relayed", &[]);
    assert_eq!(all.to_string(), "12", "users");
    through.close();
    direct.close();
    let expected = [ingress.users(Protocol::Ws, 10, 0), servers.users(Protocol::Ws, 12, 0)];
    let metrics = daemon.wait_for(PATIENCE, &expected.concat());
    assert_eq!(relayed(&metrics, &ingress), Some(0.0), "it stays, as a zero");
    daemon.stop();
}
