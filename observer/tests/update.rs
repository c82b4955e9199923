//! Another build with the same ABI: its programs take the place of the old ones under the traffic, and nothing is counted
//! twice or missed, whoever has begun to count it.
//!
//! The other build is `--simulate-build`: where the programs read a segment themselves, it leaves it to parsers.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use support::{
    bpffs::Bpffs,
    churn::Churn,
    daemon::{Daemon, executable, ready_address},
    http,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{CLASSIC, Expected, Metrics},
    pod::Pod,
    poll::poll,
    process::{Process, run_to_end},
    scale::{is_deep, is_slow, scaled},
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_mins(1);
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
/// The other build.
const OTHER: &[&str] = &["--simulate-build", "2"];
/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_millis(100);
/// What may not be lost.
const LOSSES: [&str; 5] = ["table_full", "unattributed", "gap", "misplaced_end", "unseen_end"];

/// How often each build replaces the other.
fn times() -> u32 {
    if is_deep() { 10 } else { 2 }
}

/// Connections of each protocol that are held over all updates.
fn held() -> u64 {
    if is_deep() { 2500 } else { scaled(500) }
}

/// Of the steps of an update those are tried that are so many apart: a start takes seconds beside the load.
fn stride() -> usize {
    if is_deep() { 1 } else { 4 }
}

/// Connections a second that the load is to reach at least, over all updates.
fn least() -> f64 {
    if is_slow() { 0.0 } else { 2000.0 }
}

/// Connections between two pods: a server, and what is to be known of it.
struct Ends {
    protocol: Protocol,
    server: Server,
    server_pod: Pod,
    client_pod: Arc<Pod>,
}

impl Ends {
    fn new(protocol: Protocol) -> Self {
        let (server_pod, client_pod) = (Pod::new(), Arc::new(Pod::new()));
        let server = Server::start(protocol, ANY_PORT.into(), &server_pod.cgroup, None);
        Self { protocol, server, server_pod, client_pod }
    }

    fn drive(&self) -> Drive {
        Drive::new(self.protocol, self.server.addr)
    }

    fn pods(&self) -> [(&str, &str); 2] {
        [(&self.server_pod.name, "server"), (&self.client_pod.name, "client")]
    }

    /// The gauges that tell of connections of its protocol.
    fn gauges(&self, active: u64) -> Vec<Expected> {
        let own = match self.protocol {
            Protocol::Ws => Some("websocket_connections_active"),
            Protocol::Grpc => Some("grpc_connections_active"),
            Protocol::Http1 | Protocol::Tcp => None,
        };
        let active = |pod, name| Expected::sum(name, &[("pod", pod)], active);
        let [(server, _), (client, _)] = self.pods();
        let tcp = [server, client].map(|pod| active(pod, "tcp_connections_active"));
        own.map(|name| active(server, name)).into_iter().chain(tcp).collect()
    }

    /// All that is to be exact.
    fn exactly(&mut self, opened: u64, active: u64) -> Vec<Expected> {
        let mut expected = self.gauges(active);
        for (pod, role) in self.pods() {
            let end = [("pod", pod), ("role", role)];
            expected.extend([
                Expected::sum("tcp_connections_opened_total", &[("pod", pod)], opened),
                Expected::sum("tcp_connections_opened_total", &end, opened),
                Expected::sum("tcp_connections_adopted_total", &end, 0),
                Expected::sum("tcp_connections_closed_total", &end, opened - active),
                Expected::sum("tcp_connection_idle_seconds_count", &end, opened - active),
            ]);
        }
        if self.protocol == Protocol::Ws {
            let books = self.server.books();
            let messages = [("received", books.messages_in), ("sent", books.messages_out)];
            expected.extend(messages.map(|(direction, sum)| {
                let labels = [("pod", self.server_pod.name.as_str()), ("direction", direction)];
                Expected::sum("websocket_messages_total", &labels, sum)
            }));
        }
        expected
    }

    /// What has left one end has reached the other.
    fn same_bytes(&self, metrics: &Metrics) {
        let [(server, _), (client, _)] = self.pods();
        let bytes = |pod, direction| {
            metrics.sum("tcp_payload_bytes_total", &[("pod", pod), ("direction", direction)])
        };
        for (from, to) in [(server, client), (client, server)] {
            let (sent, received) = (bytes(from, "sent"), bytes(to, "received"));
            assert!(
                sent > 0.0 && (sent - received).abs() < 0.5,
                "{sent} sent, {received} received"
            );
        }
    }
}

/// Connections that come and go.
struct Coming {
    ends: Ends,
    churn: Churn,
}

impl Coming {
    fn start(protocol: Protocol) -> Self {
        let ends = Ends::new(protocol);
        let (drive, pod) =
            (Drive { short: scaled(4000), ..ends.drive() }, Arc::clone(&ends.client_pod));
        Self { ends, churn: Churn::start(move || Driver::start(&drive, &pod.cgroup, None)) }
    }

    /// How many have been opened, as a scrape tells.
    fn opened(&self, metrics: &Metrics) -> f64 {
        metrics.sum("tcp_connections_opened_total", &[("pod", &self.ends.server_pod.name)])
    }
}

/// Connections that are held, and talk when they are asked to.
struct Talking {
    ends: Ends,
    ask: Sender<()>,
    thread: JoinHandle<Driver>,
}

impl Talking {
    fn start(protocol: Protocol) -> Self {
        let ends = Ends::new(protocol);
        let drive = Drive { long: held(), ..ends.drive() };
        let mut driver = Driver::start(&drive, &ends.client_pod.cgroup, None);
        driver.ready();
        let (ask, asked) = mpsc::channel();
        let thread = thread::spawn(move || {
            for () in asked {
                driver.talk();
            }
            driver
        });
        Self { ends, ask, thread }
    }

    /// One more message on each, while others do something else.
    fn talk(&self) {
        self.ask.send(()).expect("they are there");
    }

    fn be_quiet(self) -> (Ends, Driver) {
        drop(self.ask);
        (self.ends, self.thread.join().expect("every message is answered"))
    }
}

/// Scrapes whatever daemon there is, and holds that against what must be at any time.
struct Watch {
    daemon: Arc<Mutex<Option<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    /// Comes to the number of scrapes, and what was wrong.
    thread: JoinHandle<(u32, Vec<String>)>,
}

impl Watch {
    fn start(expected: Vec<Expected>) -> Self {
        let daemon = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let (at, stopped) = (Arc::clone(&daemon), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (mut scrapes, mut wrong) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) && wrong.len() < 5 {
                let began = Instant::now();
                let now = || *at.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(address) = now() {
                    let answer = http::get(address, "/metrics", Some(CLASSIC));
                    // What a daemon was about to say when it was ended may be cut off anywhere.
                    if now() == Some(address) {
                        match answer {
                            Ok(answer) => {
                                let metrics = Metrics::parse(&answer.body).expect("a scrape");
                                let amiss =
                                    expected.iter().filter_map(|sum| sum.mismatch(&metrics));
                                wrong.extend(amiss);
                                scrapes += 1;
                            }
                            Err(error) => wrong.push(format!("{error:#}")),
                        }
                    }
                }
                thread::sleep(INTERVAL.saturating_sub(began.elapsed()));
            }
            (scrapes, wrong)
        });
        Self { daemon, stop, thread }
    }

    fn follow(&self, daemon: Option<&Daemon>) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = daemon.map(Daemon::address);
    }

    /// The number of scrapes, all of which were right.
    fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let (scrapes, wrong) = self.thread.join().expect("it watches to the end");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        scrapes
    }
}

/// What observer has in the kernel.
struct Kernel {
    before: BpfSnapshot,
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
}

impl Kernel {
    fn look(before: &BpfSnapshot) -> Self {
        let (before, now) = (before.clone(), BpfSnapshot::take());
        let new = |kind| &now.ids(kind) - &before.ids(kind);
        Self { links: new("link"), programs: new("prog"), before }
    }

    /// Waits until there are the same links, and no program of before but those that are attached to tracepoints.
    fn updated(&mut self) {
        let all = self.programs.len();
        let mut now = Self::look(&self.before);
        let old_ones_are_gone = poll(PATIENCE, || {
            now = Self::look(&self.before);
            let old = (&now.programs & &self.programs).len();
            // Three hooks are of cgroups.
            (now.programs.len() == all && old == now.links.len() - 3).then_some(())
        });
        assert!(old_ones_are_gone.is_some(), "{:?}, before {:?}", now.programs, self.programs);
        assert_eq!(now.links, self.links, "nothing was detached or attached");
        *self = now;
    }
}

fn start(bpffs: &Bpffs, more: &[&str]) -> Daemon {
    Daemon::start(&[&["--pin", bpffs.pins()], more].concat())
}

fn origin(daemon: &Daemon, origin: &str) {
    let value = daemon.scrape().value("observer_kernel_side_info", &[("origin", origin)]);
    assert!((value - 1.0).abs() < f64::EPSILON);
}

/// Waits until some hundred connections have come that this daemon has not seen coming.
fn in_the_midst(daemon: &Daemon, churn: &[Coming]) {
    let opened = |metrics: &Metrics| churn.iter().map(|coming| coming.opened(metrics)).sum::<f64>();
    let seen = opened(&daemon.scrape());
    daemon.wait_until(PATIENCE, |metrics| opened(metrics) > seen + scaled(500) as f64);
}

fn nothing_lost() -> Vec<Expected> {
    LOSSES.map(|kind| Expected::sum("observer_lost_total", &[("kind", kind)], 0)).into()
}

/// The builds that are pinned.
fn builds(bpffs: &Bpffs) -> usize {
    let sides = fs::read_dir(bpffs.pins()).expect("the pins").flatten();
    let builds =
        sides.map(|side| fs::read_dir(side.path().join("builds")).expect("builds").count());
    builds.sum()
}

fn detach(bpffs: &Bpffs) {
    let mut command = Command::new(executable());
    command.args(["detach", "--pin", bpffs.pins()]).stdin(Stdio::null());
    let detached = run_to_end(&mut command, PATIENCE);
    assert!(detached.status.success(), "{detached:?}");
    assert!(bpffs.is_clean(), "detached, and something is left");
}

#[test]
fn two_builds_take_turns_under_load() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let mut daemon = start(&bpffs, &[]);
    let mut kernel = Kernel::look(&before);
    let talking = [Protocol::Ws, Protocol::Grpc].map(Talking::start);
    let gauges = talking.iter().flat_map(|talking| talking.ends.gauges(held()));
    let gauges: Vec<_> = gauges.collect();
    daemon.wait_for(PATIENCE, &gauges);
    let watch = Watch::start(gauges);
    watch.follow(Some(&daemon));

    let began = Instant::now();
    let churn = [Protocol::Tcp, Protocol::Http1, Protocol::Ws].map(Coming::start);
    for turn in 0..2 * times() {
        in_the_midst(&daemon, &churn);
        talking.iter().for_each(Talking::talk);
        watch.follow(None);
        if turn % 4 < 2 {
            daemon.kill();
        } else {
            daemon.stop();
        }
        daemon = start(&bpffs, if turn % 2 == 0 { OTHER } else { &[] });
        watch.follow(Some(&daemon));
        origin(&daemon, "updated");
        kernel.updated();
        assert_eq!(builds(&bpffs), 1);
    }
    in_the_midst(&daemon, &churn);
    let (mut expected, mut all, mut ends) = (nothing_lost(), 0, Vec::new());
    for Coming { ends: mut of, churn } in churn {
        let opened = churn.finish();
        all += opened;
        expected.extend(of.exactly(opened, 0));
        ends.push(of);
    }
    let rate = all as f64 / began.elapsed().as_secs_f64();
    let mut drivers = Vec::new();
    for (mut of, driver) in talking.map(Talking::be_quiet) {
        expected.extend(of.exactly(held(), held()));
        ends.push(of);
        drivers.push(driver);
    }
    let metrics = daemon.wait_for(PATIENCE, &expected);
    for ends in &ends {
        ends.same_bytes(&metrics);
    }
    let scrapes = watch.finish();
    println!("{all} connections: {rate:.0} a second; {scrapes} scrapes, each with {} held", held());

    for driver in drivers {
        driver.close();
    }
    let over = ends.iter().flat_map(|ends| ends.gauges(0)).collect::<Vec<_>>();
    daemon.wait_for(PATIENCE, &over);
    // The same build once more: nothing is loaded.
    daemon.stop();
    let daemon = start(&bpffs, &[]);
    origin(&daemon, "taken_over");
    daemon.stop();
    detach(&bpffs);
    before.assert_same();
    assert!(rate >= least(), "the load itself: {rate:.0} connections a second");
}

/// Whatever of an update is done, the next start goes on from there, with either build.
#[test]
fn killed_at_each_step_of_an_update() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let mut daemon = start(&bpffs, &[]);
    let mut kernel = Kernel::look(&before);
    let churn = [Coming::start(Protocol::Ws)];
    let (mut ours, mut on): (&[&str], _) = (&[], false);
    for step in (1..).step_by(stride()) {
        in_the_midst(&daemon, &churn);
        daemon.stop();
        let other = if ours.is_empty() { OTHER } else { &[] };
        if survives(&bpffs, other, step) {
            // There are no more steps.
            assert!(step > 8, "a hook is a step, and there are more: {step}");
            break;
        }
        // On to the new build, or back to the old one.
        on = !on;
        if on {
            ours = other;
        }
        daemon = start(&bpffs, ours);
        kernel.updated();
        assert_eq!(builds(&bpffs), 1);
    }
    daemon = start(&bpffs, ours);
    kernel.updated();
    let [Coming { mut ends, churn }] = churn;
    let mut expected = ends.exactly(churn.finish(), 0);
    expected.extend(nothing_lost());
    let metrics = daemon.wait_for(PATIENCE, &expected);
    ends.same_bytes(&metrics);

    // Nor does what is half done keep `detach` from removing all of it.
    daemon.stop();
    assert!(!survives(&bpffs, if ours.is_empty() { OTHER } else { &[] }, 5));
    assert_eq!(builds(&bpffs), 2);
    detach(&bpffs);
    before.assert_same();
}

/// Whether a daemon of this build gets through its update, of which it is to die at this step; it is stopped then.
fn survives(bpffs: &Bpffs, build: &[&str], step: u32) -> bool {
    let mut command = Command::new(executable());
    command
        .args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--pin", bpffs.pins()])
        .args(["--simulate-death", &step.to_string()])
        .args(build)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = Process::new(command.spawn().expect("it starts"), "the daemon");
    let mut log = BufReader::new(process.take_stderr()).lines().map_while(Result::ok);
    let is_ready = log.any(|line| ready_address(&line).is_some());
    if is_ready {
        process.signal(Signal::SIGTERM);
    }
    assert_eq!(process.wait(PATIENCE).code().is_some(), is_ready);
    is_ready
}

/// The programs of a build are replaced where they are damaged, and what they have counted stays.
#[test]
fn a_damaged_build_is_replaced_by_itself() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    start(&bpffs, &[]).stop();
    let mut ends = Ends::new(Protocol::Ws);
    let drive = Drive { short: 10, ..ends.drive() };
    let mut driver = Driver::start(&drive, &ends.client_pod.cgroup, None);
    driver.ready();
    let opened = driver.finish().opened;
    let side = fs::read_dir(bpffs.pins()).expect("the pins").flatten().next().expect("one");
    let build = fs::read_dir(side.path().join("builds")).expect("builds").flatten().next();
    let map = build.expect("one").path().join("maps/RECORDS");
    fs::remove_file(map).expect("a pinned map");
    let daemon = start(&bpffs, &[]);
    origin(&daemon, "updated");
    daemon.wait_for(PATIENCE, &ends.exactly(opened, 0));
    assert_eq!(builds(&bpffs), 1);
    daemon.stop();
    detach(&bpffs);
    before.assert_same();
}

/// Another size of the table is no reason to forget what is counted.
#[test]
fn the_table_keeps_its_size() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let daemon = start(&bpffs, &["--cells", "2000"]);
    let size = |daemon: &Daemon| daemon.scrape().value("observer_cells_capacity", &[]) as u32;
    let capacity = size(&daemon);
    let mut ends = Ends::new(Protocol::Ws);
    let drive = Drive { long: 10, ..ends.drive() };
    let mut driver = Driver::start(&drive, &ends.client_pod.cgroup, None);
    driver.ready();
    daemon.kill();
    for (build, came) in [(&[][..], "taken_over"), (OTHER, "updated")] {
        let daemon = start(&bpffs, &[&["--cells", "4000"], build].concat());
        origin(&daemon, came);
        let log = daemon.log();
        assert!(log.contains("the table stays as large as it is"), "{log}");
        assert_eq!(size(&daemon), capacity);
        driver.talk();
        daemon.wait_for(PATIENCE, &ends.exactly(10, 10));
        daemon.stop();
    }
    driver.close();
    detach(&bpffs);
    before.assert_same();
}
