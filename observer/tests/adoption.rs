//! Connections that were open before the daemon started: all are found, in every namespace and cgroup, and each ends once.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use support::{
    daemon::{Daemon, executable},
    lock::SystemLock,
    metrics::Expected,
    netns::{Netns, NetnsPair},
    pod::Pod,
    scale::{patience, scaled},
    workload::{Drive, Driver, Protocol, Server},
};

/// Pairs of namespaces, each with a cable, a server's pod and a client's: 20 namespaces, 20 cgroups.
const PAIRS: usize = 10;
/// From being ready to having all that was there.
const PROMPT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections of each pair: 2,000 in all, with two ends each.
fn connections() -> u64 {
    scaled(200)
}

/// What has become of the connections.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// They have not spoken since the start.
    Silent,
    /// Each has spoken twice.
    Open,
    Closed,
    Reset,
}

/// A server and the connections that a client holds to it, over the cable of a pair.
struct Held {
    // Dropped in this order: processes before what they are in.
    /// Until it has ended.
    driver: Option<Driver>,
    server: Server,
    protocol: Protocol,
    server_pod: Pod,
    client_pod: Pod,
    namespaces: NetnsPair,
}

impl Held {
    fn new(number: usize) -> Self {
        let namespaces = NetnsPair::new();
        let (server_pod, client_pod) = (Pod::new(), Pod::new());
        let protocol = Protocol::ALL[number % Protocol::ALL.len()];
        let v6 = number.is_multiple_of(2);
        let address = |netns: &Netns| if v6 { netns.ipv6() } else { netns.ipv4() };
        let listen = (address(&namespaces.a), 0).into();
        let server = Server::start(protocol, listen, &server_pod.cgroup, Some(&namespaces.a));
        let drive = Drive { long: connections(), ..Drive::new(protocol, server.addr) };
        let driver = Driver::start(&drive, &client_pod.cgroup, Some(&namespaces.b));
        let driver = Some(driver);
        Self { driver, server, protocol, server_pod, client_pod, namespaces }
    }

    /// What the connections are found to speak; plain records are nothing that is recognised.
    fn speaks(&self) -> Option<&'static str> {
        match self.protocol {
            Protocol::Ws => Some("websocket"),
            Protocol::Http1 => Some("http1"),
            Protocol::Grpc => Some("grpc"),
            Protocol::Tcp => None,
        }
    }

    /// What both ends are to have where nobody could look for them: what each has told by speaking twice.
    fn expected_of_speakers(&self, state: State) -> Vec<Expected> {
        let all = connections();
        let port = self.server.addr.port().to_string();
        let left = if state == State::Open { all } else { 0 };
        let protocol = self.speaks().unwrap_or("tcp");
        let mut expected = Vec::new();
        // Nobody listens on a client's port: only what it speaks tells that it is one.
        let client = if self.speaks().is_some() { "client" } else { "unknown" };
        let client_port = if self.speaks().is_some() { port.as_str() } else { "0" };
        for (pod, role, port, found_as, found_at) in [
            (&self.server_pod, "server", port.as_str(), "server", port.as_str()),
            (&self.client_pod, client, client_port, "unknown", "0"),
        ] {
            let pod = [("pod", pod.name.as_str())];
            let end = [pod[0], ("role", role), ("port", port), ("protocol", protocol)];
            let found = [pod[0], ("role", found_as), ("port", found_at)];
            let recognised = if self.speaks().is_some() { all } else { 0 };
            let sum = |name, labels: &[_], sum| Expected::sum(name, labels, sum);
            let silent = state == State::Silent;
            let met = if silent { 0 } else { all };
            expected.extend([
                sum("tcp_connections_adopted_total", &pod, met),
                sum("tcp_connections_adopted_total", &found, met),
                sum("tcp_connections_opened_total", &pod, 0),
                sum("tcp_connections_recognised_total", &end, if silent { 0 } else { recognised }),
                sum("tcp_connections_unrecognised", &pod, left - left.min(recognised)),
                sum("tcp_connections_active", &pod, left),
                sum("tcp_connections_active", &end, left),
                sum("tcp_connections_closed_total", &pod, met - left),
            ]);
        }
        expected
    }

    /// What both ends are to have.
    fn expected(&self, state: State) -> Vec<Expected> {
        let all = connections();
        let left = if matches!(state, State::Silent | State::Open) { all } else { 0 };
        let found = if state == State::Silent { None } else { self.speaks() };
        let recognised = if found.is_some() { all } else { 0 };
        let port = self.server.addr.port().to_string();
        let mut expected = Vec::new();
        for (pod, role, reset) in [
            (&self.server_pod, "server", "reset_peer"),
            (&self.client_pod, "client", "reset_local"),
        ] {
            let pod = [("pod", pod.name.as_str())];
            let end = [
                pod[0],
                ("role", role),
                ("port", port.as_str()),
                ("protocol", found.unwrap_or("tcp")),
            ];
            let protocol = [pod[0], end[1], end[3]];
            let sum = |name, labels: &[_], sum| Expected::sum(name, labels, sum);
            expected.extend([
                sum("tcp_connections_adopted_total", &pod, all),
                sum("tcp_connections_adopted_total", &end[..3], all),
                sum("tcp_connections_opened_total", &pod, 0),
                // What is found to be gRPC is found to be HTTP/2 as well.
                sum("tcp_connections_identified_total", &end, recognised),
                sum("tcp_connections_recognised_total", &end, recognised),
                sum("tcp_connections_recognised_total", &pod, recognised),
                sum("tcp_connections_unrecognised", &pod, left - left.min(recognised)),
                sum("tcp_connections_active", &pod, left),
                sum("tcp_connections_active", &end, left),
                sum("tcp_connections_closed_total", &pod, all - left),
                sum("tcp_adopted_connection_duration_seconds_count", &protocol, all - left),
                sum("tcp_connection_duration_seconds_count", &pod, 0),
            ]);
            // Who ends an orderly one first depends on the protocol.
            let resets = if state == State::Reset { all } else { 0 };
            let ended = [pod[0], ("reason", reset)];
            expected.push(sum("tcp_connections_closed_total", &ended, resets));
            expected.push(sum("tcp_connection_idle_seconds_count", &pod, all - left));
        }
        expected
    }
}

#[test]
fn what_was_open_before_the_start_is_counted() {
    let _lock = SystemLock::acquire();
    let mut all: Vec<_> = (0..PAIRS).map(Held::new).collect();
    for held in &mut all {
        held.driver.as_mut().expect("it has not ended").ready();
    }
    let mut daemon = Daemon::start(&[]);
    let expected = |all: &[Held], state| -> Vec<_> {
        all.iter().flat_map(|held| held.expected(state)).collect()
    };
    let ready = Instant::now();
    daemon.wait_for(PROMPT, &expected(&all, State::Silent));
    assert!(ready.elapsed() < patience(2 * PROMPT), "{:?} from ready", ready.elapsed());

    // Once each has spoken twice they are recognised.
    let talk = |all: &mut [Held]| {
        for held in all {
            let driver = held.driver.as_mut().expect("it has not ended");
            driver.talk();
            driver.talk();
        }
    };
    talk(&mut all);
    daemon.wait_for(PATIENCE, &expected(&all, State::Open));

    // Another start finds the same ones again.
    daemon.stop();
    daemon = Daemon::start(&[]);
    daemon.wait_for(PATIENCE, &expected(&all, State::Silent));
    talk(&mut all);
    daemon.wait_for(PATIENCE, &expected(&all, State::Open));

    for number in 0..PAIRS {
        let driver = all[number].driver.take().expect("it ends once");
        let over = if number.is_multiple_of(3) {
            driver.reset();
            State::Reset
        } else {
            driver.close();
            State::Closed
        };
        let rest = all[number + 1..].iter().flat_map(|held| held.expected(State::Open));
        let expected: Vec<_> = all[number].expected(over).into_iter().chain(rest).collect();
        daemon.wait_for(PATIENCE, &expected);
    }

    // Whoever connects now is seen from the start, at the same servers.
    let held = &all[0];
    let drive = Drive { short: 10, ..Drive::new(held.protocol, held.server.addr) };
    let mut driver = Driver::start(&drive, &held.client_pod.cgroup, Some(&held.namespaces.b));
    driver.ready();
    assert_eq!(driver.finish().opened, 10);
    let server = [("pod", held.server_pod.name.as_str())];
    daemon.wait_for(
        PATIENCE,
        &[
            Expected::sum("tcp_connections_opened_total", &server, 10),
            Expected::sum("tcp_connections_adopted_total", &server, connections()),
            Expected::sum("tcp_connections_active", &server, 0),
        ],
    );
    daemon.stop();
}

#[test]
fn whatever_speaks_is_adopted_by_three_capabilities() {
    let _lock = SystemLock::acquire();
    let mut all: Vec<_> = (0..4).map(Held::new).collect();
    for held in &mut all {
        held.driver.as_mut().expect("it has not ended").ready();
    }
    // Those of the base manifest: no other namespace can be entered.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-all,+bpf,+perfmon,+net_admin").arg(executable());
    command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--detail", "full"]);
    let daemon = Daemon::spawn(&mut command);
    let expected = |all: &[Held], state| -> Vec<_> {
        all.iter().flat_map(|held| held.expected_of_speakers(state)).collect()
    };
    daemon.wait_for(PATIENCE, &expected(&all, State::Silent));
    for held in &mut all {
        let driver = held.driver.as_mut().expect("it has not ended");
        driver.talk();
        driver.talk();
    }
    daemon.wait_for(PATIENCE, &expected(&all, State::Open));
    for number in 0..all.len() {
        all[number].driver.take().expect("it ends once").close();
        let closed = all[number].expected_of_speakers(State::Closed);
        let rest = expected(&all[number + 1..], State::Open);
        daemon.wait_for(PATIENCE, &closed.into_iter().chain(rest).collect::<Vec<_>>());
    }
    daemon.stop();
}
