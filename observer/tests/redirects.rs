//! Connections that are redirected on their way, inside a pod and outside: which of them are internal is not changed by it.

#[path = "users/pods.rs"]
mod pods;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{net::SocketAddr, process::Command};

use pods::{ALL, ANY, LONG, PATIENCE, Pod, drive, relayed};
use support::{
    daemon::Daemon,
    lock::SystemLock,
    netns::{Netns, NetnsPair, ip},
    workload::{Driver, Hidden, Protocol, Relay, Server},
};

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
