//! Users are counted once, however many hops they have in a pod; and what a hop is, is told by `path`.

#[path = "users/pods.rs"]
mod pods;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::net::SocketAddr;

use pods::{ALL, ANY, LONG, PATIENCE, Pod, drive, relayed};
use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    lock::SystemLock,
    metrics::Expected,
    netns::{Netns, NetnsPair},
    workload::{Drive, Driver, Hidden, Protocol, Relay, Server},
};

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
