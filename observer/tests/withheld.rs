//! No number of users rather than one that may be too small: each reason, how it begins and how it ends.

#[expect(dead_code, reason = "each test file uses its part of the API server")]
#[path = "kubernetes/api.rs"]
mod api;
#[expect(dead_code, reason = "each test file uses its part of the API server's pods")]
#[path = "kubernetes/objects.rs"]
mod objects;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;
#[path = "kubernetes/tls.rs"]
mod tls;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use api::{ApiServer, NODE};
use objects::Object;
use support::{
    daemon::Daemon,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    peer::Peer,
    pod::Pod,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(20);
const NAMESPACE: &str = "shop";
/// The start of a TLS record with a `ClientHello`.
const HELLO: &str = "16030100c8010000c40303";
/// A request of HTTP/1.1.
const REQUEST: &str = "474554202f20485454502f312e310d0a486f73743a20780d0a0d0a";

/// An API server that is there, and a daemon that gets names from it.
fn start(api: &ApiServer, more: &[&str]) -> Daemon {
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    Daemon::start(&[&["--node-name", NODE, "--kube", kubeconfig], more].concat())
}

/// A pod that the API server knows by this name.
fn named(api: &ApiServer, name: &str) -> Pod {
    let pod = Pod::new();
    api.apply(&Object::new(&pod.name, NAMESPACE, name));
    pod
}

/// What a scrape says of a pod: the reason that its users are withheld, and their number. There is one of both for each of
/// the two protocols, and never both or neither.
fn told(metrics: &Metrics, name: &str) -> Option<(Option<String>, Option<u64>)> {
    let pod = [("namespace", NAMESPACE), ("pod", name)];
    if metrics.select("workload_pod_info", &pod).is_empty() {
        // It has no name yet.
        return None;
    }
    let withheld = metrics.select("observer_pod_withheld", &pod);
    let reason = withheld.first().map(|sample| sample.labels["reason"].clone());
    let [websocket, grpc] = ["websocket", "grpc"].map(|protocol| {
        let series = metrics.select(&format!("{protocol}_connections_active"), &pod);
        series.first().map(|sample| sample.value as u64)
    });
    assert!(withheld.len() <= 1, "{withheld:?}");
    assert_eq!(reason.is_some(), websocket.is_none(), "{reason:?} and {websocket:?}");
    assert_eq!(reason.is_some(), grpc.is_none(), "{reason:?} and {grpc:?}");
    Some((reason, websocket))
}

/// Waits until a pod is withheld for this reason, or until so many users are told.
fn wait_for(daemon: &Daemon, name: &str, wanted: Result<u64, &str>) -> Metrics {
    daemon.wait_until(PATIENCE, |metrics| match (told(metrics, name), wanted) {
        (Some((Some(reason), _)), Err(wanted)) => reason == wanted,
        (Some((None, users)), Ok(wanted)) => users == Some(wanted),
        _ => false,
    })
}

fn unread(name: &str, count: u64) -> Expected {
    let pod = [("namespace", NAMESPACE), ("pod", name)];
    Expected::sum("observer_pod_unread_connections", &pod, count)
}

#[test]
fn a_pod_that_nobody_has_looked_at_settles() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let _old = named(&api, "old");
    // As where the observer may not enter the namespaces of others.
    let daemon = start(&api, &["--simulate-lacking", "iter/tcp", "--settling", "5s"]);
    wait_for(&daemon, "old", Err("settling"));
    // One that is younger than the programs has zeros from its first scrape on.
    let _young = named(&api, "young");
    daemon.wait_until(PATIENCE, |metrics| {
        let young = told(metrics, "young");
        assert!(young.as_ref().is_none_or(|young| *young == (None, Some(0))), "{young:?}");
        young.is_some()
    });
    wait_for(&daemon, "old", Ok(0));
    daemon.stop();
}

#[test]
fn what_was_looked_for_and_not_there_is_known_at_once() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let _old = named(&api, "old");
    let daemon = start(&api, &["--settling", "1h"]);
    wait_for(&daemon, "old", Ok(0));
    daemon.stop();
}

#[test]
fn what_is_found_has_to_be_recognised_first() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let (pod, clients) = (named(&api, "old"), Pod::new());
    let server = Server::start(Protocol::Ws, (Ipv4Addr::LOCALHOST, 0).into(), &pod.cgroup, None);
    let drive = Drive { long: 4, ..Drive::new(Protocol::Ws, server.addr) };
    let mut driver = Driver::start(&drive, &clients.cgroup, None);
    driver.ready();
    let daemon = start(&api, &["--settling", "5s"]);
    let metrics = wait_for(&daemon, "old", Err("incomplete"));
    assert!(unread("old", 4).mismatch(&metrics).is_none(), "{metrics:?}");
    // They are silent: after the settling time only the guard tells of them.
    wait_for(&daemon, "old", Ok(0));
    daemon.wait_for(PATIENCE, &[unread("old", 4)]);
    drop(driver);
    daemon.stop();
}

/// A server, and a client of it, as a pair of peers.
struct Pair {
    server: Peer,
    client: Peer,
}

impl Pair {
    fn start(pod: &Pod, clients: &Pod) -> Self {
        Self { server: Peer::start(&pod.cgroup, None), client: Peer::start(&clients.cgroup, None) }
    }

    /// Listens on a port of its own; returns it.
    fn listen(&mut self) -> Result<u16> {
        Ok(self.server.listen((Ipv4Addr::LOCALHOST, 0).into(), false)?.port())
    }

    /// Connects and sends these bytes, in place of the connection before.
    fn say(&mut self, port: u16, bytes: &str) -> Result<()> {
        self.client.ask(&format!("connect 127.0.0.1:{port}"))?;
        self.server.ask("accept")?;
        self.client.ask(&format!("send {bytes}"))?;
        self.server.ask(&format!("receive {}", bytes.len() / 2)).map(drop)
    }
}

#[test]
fn a_pod_that_only_has_what_cannot_be_read_is_blind() -> Result<()> {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let daemon = start(&api, &[]);
    let (pod, clients) = (named(&api, "opaque"), Pod::new());
    let mut pair = Pair::start(&pod, &clients);
    wait_for(&daemon, "opaque", Ok(0));
    let port = pair.listen()?;
    pair.say(port, HELLO)?;
    let metrics = wait_for(&daemon, "opaque", Err("blind"));
    assert!(unread("opaque", 1).mismatch(&metrics).is_none(), "{metrics:?}");
    // The first that can be read tells that the pod's can, for good.
    pair.say(port, REQUEST)?;
    wait_for(&daemon, "opaque", Ok(0));
    pair.say(port, HELLO)?;
    let metrics = daemon.wait_for(PATIENCE, &[unread("opaque", 1)]);
    assert_eq!(told(&metrics, "opaque"), Some((None, Some(0))));
    daemon.stop();
    Ok(())
}

#[test]
fn ports_that_are_named_do_not_count() -> Result<()> {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let pods = ["by-option", "by-annotation", "by-neither"].map(|name| (name, Pod::new()));
    let clients = Pod::new();
    let mut pairs = pods.each_ref().map(|(_, pod)| Pair::start(pod, &clients));
    let mut ports = Vec::new();
    for pair in &mut pairs {
        ports.push(pair.listen()?);
    }
    let daemon = start(&api, &["--readable", &format!("1,{}", ports[0])]);
    for ((name, pod), port) in pods.iter().zip(&ports) {
        let readable = (*name == "by-annotation").then(|| format!("2, {port}"));
        api.apply(&Object { readable, ..Object::new(&pod.name, NAMESPACE, name) });
    }
    for (pair, port) in pairs.iter_mut().zip(&ports) {
        pair.say(*port, HELLO)?;
    }
    let metrics = wait_for(&daemon, "by-neither", Err("blind"));
    for (name, _) in &pods[..2] {
        let tls = [("pod", *name), ("protocol", "tls"), ("role", "server")];
        let found = Expected::sum("tcp_connections_identified_total", &tls, 1);
        assert!(found.mismatch(&metrics).is_none(), "{name}: {metrics:?}");
        assert_eq!(told(&metrics, name), Some((None, Some(0))), "{name}");
    }
    daemon.stop();
    Ok(())
}
