//! Killed under load and started again: the kernel forgets all of the killed one, and the next one
//! counts what opens after it exactly, whatever was open before.
//!
//! Connections from before a start are adopted: they are active until they end, and upset nothing.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use support::{
    cgroup::{ROOT, TestCgroup},
    churn::Churn,
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    poll::poll,
    scale::scaled,
    workload::{Drive, Driver, DriverBooks, Protocol, Server},
};

/// Three, or one on a slow machine.
fn rounds() -> u32 {
    scaled(3) as u32
}

const PATIENCE: Duration = Duration::from_mins(1);
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// Connections that are held over the kill, of each protocol.
fn held_open() -> u64 {
    scaled(25)
}

/// Connections that come and go, at a time, before, during and after it.
fn churning() -> u64 {
    scaled(500)
}

/// Connections of the loads that are counted: short ones and long ones.
fn loads() -> (u64, u64) {
    (scaled(200), scaled(20))
}

/// What an end is to have, of connections that are all of one protocol.
#[derive(Clone, Copy)]
struct Counts {
    opened: u64,
    /// Of the opened.
    active: u64,
    adopted: u64,
    /// Of the adopted.
    left: u64,
    /// Whether they have spoken since then.
    recognised: bool,
}

impl Counts {
    const NONE: Self = Self { opened: 0, active: 0, adopted: 0, left: 0, recognised: false };

    /// The loads that are counted, with the long connections up.
    fn up() -> Self {
        let (short, long) = loads();
        Self { opened: short + long, active: long, ..Self::NONE }
    }

    /// The same, when all is over.
    fn over() -> Self {
        Self { active: 0, ..Self::up() }
    }

    /// The same beside connections from before the start, of which so many are open.
    fn beside(self, left: u64) -> Self {
        Self { adopted: held_open(), left, recognised: true, ..self }
    }
}

/// A pod in which a server or a client runs.
struct Pod {
    uid: String,
    cgroup: TestCgroup,
    role: &'static str,
    protocol: Protocol,
}

impl Pod {
    fn new(number: u32, role: &'static str, protocol: Protocol) -> Self {
        let uid = format!("4e57a470-0000-4000-8000-{number:012}");
        let cgroup = TestCgroup::pod(&uid, &format!("4e57a47{number:057}"));
        Self { uid, cgroup, role, protocol }
    }

    /// What is to be exported of the pod.
    fn expected(&self, counts: Counts) -> Vec<Expected> {
        let Counts { opened, active, adopted, left, recognised } = counts;
        // What its connections are taken for, one after the other.
        let path: &[_] = match self.protocol {
            Protocol::Ws => &["http1", "websocket"],
            Protocol::Http1 => &["http1"],
            Protocol::Grpc => &["http2", "grpc"],
            Protocol::Tcp => &[],
        };
        let last = path.last().copied().unwrap_or("tcp");
        let pod = [("pod", self.uid.as_str())];
        let end = [pod[0], ("role", self.role)];
        let now = [pod[0], ("role", self.role), ("protocol", last)];
        let tcp = [pod[0], ("role", self.role), ("protocol", "tcp")];
        let closed = opened - active;
        let gone = adopted - left;
        // What was adopted is not known to be more than TCP until it has spoken, and then not to have been HTTP/1 before.
        let (same, known) = (u64::from(last == "tcp"), u64::from(recognised || last == "tcp"));
        let found = if recognised { adopted } else { 0 };
        let again = |protocol| protocol != "http1" || last == "http1";
        let identified = "tcp_connections_identified_total";
        let mut expected = vec![
            // The other role has nothing, or the pod would have more than the end.
            Expected::sum("tcp_connections_opened_total", &pod, opened),
            Expected::sum("tcp_connections_opened_total", &end, opened),
            Expected::sum(
                identified,
                &end,
                opened * path.len() as u64
                    + found * path.iter().filter(|protocol| again(**protocol)).count() as u64,
            ),
            Expected::sum("tcp_connections_adopted_total", &end, adopted),
            Expected::sum("tcp_connections_active", &end, active + left),
            Expected::sum("tcp_connections_active", &now, active + known * left),
            Expected::sum(
                "tcp_connections_active",
                &tcp,
                same * active + if known == same { left } else { 0 },
            ),
            Expected::sum("tcp_connections_closed_total", &end, closed + gone),
            Expected::sum("tcp_connections_closed_total", &now, closed + known * gone),
            Expected::sum("tcp_adopted_connection_duration_seconds_count", &end, gone),
            Expected::sum("tcp_connection_duration_seconds_count", &end, closed),
        ];
        for protocol in path {
            let met = [pod[0], ("role", self.role), ("protocol", *protocol)];
            let found = if again(*protocol) { found } else { 0 };
            expected.push(Expected::sum(identified, &met, opened + found));
        }
        for protocol in ["websocket", "grpc"] {
            let counts = self.role == "server" && last == protocol;
            let (opened, active) = if counts {
                (opened + found, active + if recognised { left } else { 0 })
            } else {
                (0, 0)
            };
            expected.push(Expected::sum(&format!("{protocol}_connections_total"), &pod, opened));
            expected.push(Expected::sum(&format!("{protocol}_connections_active"), &pod, active));
        }
        expected
    }
}

/// A driver in a pod of its own.
struct Client {
    /// Until it has ended.
    driver: Option<Driver>,
    pod: Pod,
}

impl Client {
    fn start(number: u32, server: &Server, protocol: Protocol, short: u64, long: u64) -> Self {
        let pod = Pod::new(number, "client", protocol);
        let drive = Drive { short, long, ..Drive::new(protocol, server.addr) };
        let driver = Some(Driver::start(&drive, &pod.cgroup, None));
        Self { driver, pod }
    }

    fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().expect("it has not ended")
    }

    fn end(&mut self, how: impl FnOnce(Driver) -> DriverBooks) {
        let books = how(self.driver.take().expect("it ends once"));
        assert_eq!(books.opened, books.closed, "{books:?}");
    }
}

/// A server in a pod of its own, and a client.
struct Load {
    client: Client,
    server: Server,
    pod: Pod,
}

impl Load {
    /// Takes two numbers of pods, `number` and the next one.
    fn start(number: u32, protocol: Protocol, short: u64, long: u64) -> Self {
        let pod = Pod::new(number, "server", protocol);
        let server = Server::start(protocol, ANY_PORT.into(), &pod.cgroup, None);
        let client = Client::start(number + 1, &server, protocol, short, long);
        Self { client, server, pod }
    }

    /// One of each protocol.
    fn of_each(numbers: u32, short: u64, long: u64) -> Vec<Self> {
        let start = |(protocol, number)| Self::start(number, protocol, short, long);
        Protocol::ALL.into_iter().zip((numbers..).step_by(2)).map(start).collect()
    }

    /// The server's and the client's.
    fn pods(&self) -> [&Pod; 2] {
        [&self.pod, &self.client.pod]
    }

    /// Waits until both ends of all are exactly so.
    fn all_have(loads: &[Self], daemon: &Daemon, counts: Counts) {
        let pods = loads.iter().flat_map(Self::pods);
        let expected: Vec<_> = pods.flat_map(|pod| pod.expected(counts)).collect();
        daemon.wait_for(PATIENCE, &expected);
    }
}

/// Connections that come and go between two pods.
struct Coming {
    churn: Churn,
    _server: Server,
    pods: [Arc<Pod>; 2],
}

impl Coming {
    /// Takes two numbers of pods, `number` and the next one.
    fn start(number: u32, protocol: Protocol) -> Self {
        let pods = [(number, "server"), (number + 1, "client")]
            .map(|(number, role)| Arc::new(Pod::new(number, role, protocol)));
        let server = Server::start(protocol, ANY_PORT.into(), &pods[0].cgroup, None);
        let drive = Drive { short: churning(), ..Drive::new(protocol, server.addr) };
        let pod = Arc::clone(&pods[1]);
        let churn = Churn::start(move || Driver::start(&drive, &pod.cgroup, None));
        Self { churn, _server: server, pods }
    }

    /// Lets the connections end, and returns how many there were.
    fn finish(self) -> ([Arc<Pod>; 2], u64) {
        let opened = self.churn.finish();
        (self.pods, opened)
    }
}

#[test]
fn killed_under_load_and_started_again() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let surroundings_before = surroundings();
    let mut daemon = Daemon::start(&[]);
    for round in 1..=rounds() {
        daemon = kill_and_restart(daemon, 100 * round, &before);
    }
    daemon.stop();
    before.assert_same();
    let after = surroundings();
    let left: Vec<_> = after.difference(&surroundings_before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Kills the daemon under load, starts another and takes it through a load of its own. Takes a
/// hundred numbers of pods.
fn kill_and_restart(daemon: Daemon, numbers: u32, before: &BpfSnapshot) -> Daemon {
    let mut held = Load::of_each(numbers, 0, held_open());
    for load in &mut held {
        load.client.driver().ready();
    }
    let up = Counts { opened: held_open(), active: held_open(), ..Counts::NONE };
    Load::all_have(&held, &daemon, up);
    let churn = [(Protocol::Ws, numbers + 20), (Protocol::Tcp, numbers + 22)]
        .map(|(protocol, number)| Coming::start(number, protocol));
    wait_for_churn(&daemon, &churn);
    daemon.kill();
    before.assert_same();

    let daemon = Daemon::start(&[]);
    assert_plausible(&daemon.scrape());
    let adopted = Counts::NONE.beside(held_open());
    Load::all_have(&held, &daemon, Counts { recognised: false, ..adopted });
    for load in &mut held {
        load.client.driver().talk();
        load.client.driver().talk();
    }
    Load::all_have(&held, &daemon, adopted);
    count_exactly(&daemon, numbers + 30, &mut held);

    // Which of the churn opened after the start nobody knows. What opened has closed.
    for (pods, opened) in churn.map(Coming::finish) {
        for pod in pods {
            is_over(&daemon, &pod, opened);
        }
    }
    assert_plausible(&daemon.scrape());
    daemon
}

/// New connections to new servers, and to those that have listened since before the kill, beside
/// the connections from before.
fn count_exactly(daemon: &Daemon, numbers: u32, held: &mut [Load]) {
    let (short, long) = loads();
    let mut fresh = Load::of_each(numbers, short, long);
    let visit = |(load, number): (&Load, u32)| {
        Client::start(number, &load.server, load.pod.protocol, short, long)
    };
    let mut visitors: Vec<_> = held.iter().zip(numbers + 20..).map(visit).collect();
    let all_have = |fresh: &[Load], held: &[Load], visitors: &[Client], counts: Counts, left| {
        assert_plausible(&daemon.scrape());
        let visitors = visitors.iter().map(|visitor| &visitor.pod);
        let new = fresh.iter().flat_map(Load::pods).chain(visitors);
        let mut expected: Vec<_> = new.flat_map(|pod| pod.expected(counts)).collect();
        for load in held {
            expected.extend(load.pod.expected(counts.beside(left)));
            expected.extend(load.client.pod.expected(Counts::NONE.beside(left)));
        }
        // In one scrape: beside the churn each takes its time.
        daemon.wait_for(PATIENCE, &expected);
    };
    for client in fresh.iter_mut().map(|load| &mut load.client).chain(&mut visitors) {
        client.driver().ready();
    }
    all_have(&fresh, held, &visitors, Counts::up(), held_open());

    // The connections from before end, orderly and not.
    for (number, load) in held.iter_mut().enumerate() {
        load.client.end(if number % 2 == 0 { Driver::close } else { Driver::reset });
    }
    all_have(&fresh, held, &visitors, Counts::up(), 0);

    for client in fresh.iter_mut().map(|load| &mut load.client).chain(&mut visitors) {
        client.end(Driver::close);
    }
    all_have(&fresh, held, &visitors, Counts::over(), 0);
}

/// Waits until the daemon is in the midst of it.
fn wait_for_churn(daemon: &Daemon, churn: &[Coming]) {
    daemon.wait_until(PATIENCE, |metrics| {
        assert_plausible(metrics);
        let closed = |pod: &Pod| metrics.sum("tcp_connections_closed_total", &[("pod", &pod.uid)]);
        churn.iter().flat_map(|churn| &churn.pods).all(|pod| closed(pod) > 100.0)
    });
}

/// Waits until all that was opened, which is less than `most`, has closed.
fn is_over(daemon: &Daemon, pod: &Pod, most: u64) {
    let mut sums = [0.0; 7];
    poll(PATIENCE, || {
        let metrics = daemon.scrape();
        sums = [
            "tcp_connections_opened_total",
            "tcp_connections_closed_total",
            "tcp_connection_duration_seconds_count",
            "tcp_connections_active",
            "websocket_connections_active",
            "tcp_connections_adopted_total",
            "tcp_adopted_connection_duration_seconds_count",
        ]
        .map(|name| metrics.sum(name, &[("pod", &pod.uid)]));
        let [opened, closed, timed, active, websocket, adopted, watched] = sums;
        let over =
            [opened + adopted - closed, opened - timed, adopted - watched, active, websocket];
        over.iter().all(|rest| rest.abs() < 0.5).then_some(())
    })
    .unwrap_or_else(|| {
        panic!("opened, closed, timed, active, WebSocket, adopted, watched: {sums:?} {}", pod.uid)
    });
    assert!(sums[0] > 0.0 && sums[0] < most as f64, "{} of {most} after the start", sums[0]);
}

/// No connection that nobody saw opening may be taken off a gauge when it closes.
fn assert_plausible(metrics: &Metrics) {
    for sample in &metrics.samples {
        let value = sample.value;
        assert!((0.0..1e15).contains(&value), "{sample} is, or has run, below zero: {value}");
    }
}

/// The cgroups of pods and the named network namespaces.
fn surroundings() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(&ROOT.join("kubepods.slice"), &mut found);
    walk(Path::new("/run/netns"), &mut found);
    found
}

fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    // What is not there, or goes while we look, has not stayed.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
            found.insert(entry.path());
        } else if directory.starts_with("/run") {
            found.insert(entry.path());
        }
    }
}
