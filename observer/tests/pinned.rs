//! `--pin`: what the kernel counts outlives the daemon, whatever ends it, and is exact all the while.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use support::{
    bpffs::Bpffs,
    churn::Churn,
    daemon::{Daemon, executable},
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::Expected,
    pod::Pod,
    poll::poll,
    process::run_to_end,
    scale::{is_slow, scaled},
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_mins(1);
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// How often the daemon is killed.
fn kills() -> u32 {
    if is_slow() { 3 } else { 10 }
}

/// Connections held over all kills.
fn held() -> u64 {
    scaled(5000)
}

/// Connections of one turn of the churn.
fn churning() -> u64 {
    scaled(4000)
}

/// A server in a pod.
struct Served {
    server: Server,
    pod: Pod,
}

impl Served {
    fn new(protocol: Protocol) -> Self {
        let pod = Pod::new();
        Self { server: Server::start(protocol, ANY_PORT.into(), &pod.cgroup, None), pod }
    }
}

/// Connections that come and go between two pods.
struct Coming {
    churn: Churn,
    served: Served,
    client: Arc<Pod>,
}

impl Coming {
    fn start(protocol: Protocol) -> Self {
        let served = Served::new(protocol);
        let client = Arc::new(Pod::new());
        let drive = Drive { short: churning(), ..Drive::new(protocol, served.server.addr) };
        let pod = Arc::clone(&client);
        let churn = Churn::start(move || Driver::start(&drive, &pod.cgroup, None));
        Self { churn, served, client }
    }

    /// Ends it; how many connections there were, and both pods.
    fn finish(self) -> (u64, Served, Arc<Pod>) {
        (self.churn.finish(), self.served, self.client)
    }
}

/// What a pod's ends, all of one role, are to have.
fn exactly(pod: &Pod, role: &str, opened: u64, adopted: u64, active: u64) -> Vec<Expected> {
    let pod = [("pod", pod.name.as_str())];
    let end = [pod[0], ("role", role)];
    let closed = opened + adopted - active;
    vec![
        Expected::sum("tcp_connections_opened_total", &pod, opened),
        Expected::sum("tcp_connections_opened_total", &end, opened),
        Expected::sum("tcp_connections_adopted_total", &end, adopted),
        Expected::sum("tcp_connections_closed_total", &end, closed),
        Expected::sum("tcp_connections_active", &end, active),
        Expected::sum("tcp_connection_idle_seconds_count", &end, closed),
    ]
}

fn start(bpffs: &Bpffs, more: &[&str]) -> Daemon {
    Daemon::start(&[&["--pin", bpffs.pins()], more].concat())
}

fn origin(daemon: &Daemon, origin: &str) {
    let value = daemon.scrape().value("observer_kernel_side_info", &[("origin", origin)]);
    assert!((value - 1.0).abs() < f64::EPSILON);
}

fn observer(args: &[&str]) -> Output {
    let mut command = Command::new(executable());
    run_to_end(command.args(args).stdin(Stdio::null()), PATIENCE)
}

#[test]
fn killed_under_load_and_exact() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let mut daemon = start(&bpffs, &[]);
    origin(&daemon, "created");
    let served = Served::new(Protocol::Tcp);
    let client = Pod::new();
    let drive = Drive { long: held(), ..Drive::new(Protocol::Tcp, served.server.addr) };
    let mut driver = Driver::start(&drive, &client.cgroup, None);
    driver.ready();

    let began = Instant::now();
    let churn: Vec<_> = [Protocol::Tcp, Protocol::Http1, Protocol::Ws].map(Coming::start).into();
    for _ in 0..kills() {
        // Amid connections that the daemon has not seen, and that no daemon sees.
        let seen = churned(&daemon, &churn);
        daemon.wait_until(PATIENCE, |metrics| opened(metrics, &churn) > seen + scaled(500) as f64);
        daemon.kill();
        daemon = start(&bpffs, &[]);
        origin(&daemon, "taken_over");
        assert!(churned(&daemon, &churn) > seen, "counters go on");
    }
    let mut all = 0;
    let mut expected = exactly(&served.pod, "server", held(), 0, held());
    expected.extend(exactly(&client, "client", held(), 0, held()));
    let ended: Vec<_> = churn.into_iter().map(Coming::finish).collect();
    let took = began.elapsed();
    for (opened, served, client) in &ended {
        all += opened;
        expected.extend(exactly(&served.pod, "server", *opened, 0, 0));
        expected.extend(exactly(client, "client", *opened, 0, 0));
    }
    daemon.wait_for(PATIENCE, &expected);
    let rate = all as f64 / took.as_secs_f64();
    println!("{all} connections in {took:?}: {rate:.0} a second, {} held", held());

    // A version that cannot use what is there: from then on, with what exists adopted.
    daemon.kill();
    let daemon = start(&bpffs, &["--simulate-abi", "999"]);
    origin(&daemon, "replaced");
    let mut expected = exactly(&served.pod, "server", 0, held(), held());
    expected.extend(exactly(&client, "client", 0, held(), held()));
    daemon.wait_for(PATIENCE, &expected);
    driver.close();
    let mut expected = exactly(&served.pod, "server", 0, held(), 0);
    expected.extend(exactly(&client, "client", 0, held(), 0));
    daemon.wait_for(PATIENCE, &expected);

    daemon.stop();
    let detached = observer(&["detach", "--pin", bpffs.pins()]);
    assert!(detached.status.success(), "{detached:?}");
    assert!(bpffs.is_clean(), "detached, and something is left");
    before.assert_same();
}

fn opened(metrics: &support::metrics::Metrics, churn: &[Coming]) -> f64 {
    let sum = |pod: &Pod| metrics.sum("tcp_connections_opened_total", &[("pod", &pod.name)]);
    churn.iter().map(|churn| sum(&churn.served.pod)).sum()
}

fn churned(daemon: &Daemon, churn: &[Coming]) -> f64 {
    opened(&daemon.scrape(), churn)
}

#[test]
fn one_at_a_time() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let first = start(&bpffs, &[]);

    let run = ["run", "--listen", "127.0.0.1:0", "--pin", bpffs.pins()];
    // Each is told what it can do itself: `detach` does not wait.
    for (refused, waits) in [(&run[..], true), (&["detach", "--pin", bpffs.pins()], false)] {
        let ended = observer(refused);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(5), "{said}");
        assert!(said.contains("another observer runs"), "{said}");
        assert!(said.contains("stop it first"), "{said}");
        assert_eq!(said.contains("--wait"), waits, "{said}");
    }

    // One that waits takes over when the first has ended.
    let waiting = thread::spawn({
        let pins = bpffs.pins().to_owned();
        move || Daemon::start(&["--pin", &pins, "--wait"])
    });
    assert!(poll(Duration::from_secs(2), || waiting.is_finished().then_some(())).is_none());
    let log = first.stop();
    assert!(log.contains("observer detach"), "it says what stays: {log}");
    let second = waiting.join().expect("it starts");
    origin(&second, "taken_over");
    assert!(second.log().contains("waiting for its end"), "{}", second.log());
    second.stop();

    let detached = observer(&["detach", "--pin", bpffs.pins()]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    before.assert_same();
}

#[test]
fn what_does_not_exist_cannot_be_detached() {
    let _lock = SystemLock::acquire();
    let bpffs = Bpffs::new();
    let detach = ["detach", "--pin", bpffs.pins()];
    let ended = observer(&detach);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(bpffs.pins()) && said.contains("does not exist"), "{said}");
    assert!(said.contains("--pin"), "{said}");
    let ended = observer(&[&detach[..], &["--ignore-not-found"]].concat());
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(bpffs.is_clean(), "it makes no directory");
}

/// A directory for pins is one for pins alone: whatever else is in it is not ours to remove.
#[test]
fn a_directory_with_anything_else_is_refused_and_left_alone() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let pins = Path::new(bpffs.pins());
    start(&bpffs, &[]).stop();
    let ours = || fs::read_dir(pins).expect("the pins").flatten().map(|entry| entry.file_name());
    let kept: BTreeSet<_> = ours().collect();
    assert_eq!(kept.len(), 1);
    let name = kept.first().and_then(|name| name.to_str()).expect("text").to_owned();

    // Somebody else's directory, one that only begins like ours, and a link into another's.
    let elsewhere = bpffs.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("links")).expect("a directory");
    for foreign in ["tc", "abi1-not-ours", &name.replace("abi", "xabi")] {
        fs::create_dir_all(pins.join(foreign).join("links")).expect("a directory");
        refused_and_untouched(&bpffs, foreign, &name);
        fs::remove_dir(pins.join(foreign).join("links")).expect("it is still there");
        fs::remove_dir(pins.join(foreign)).expect("it is still there");
    }
    let link = format!("abi1-{}", "0".repeat(16));
    symlink(&elsewhere, pins.join(&link)).expect("a link");
    refused_and_untouched(&bpffs, &link, &name);
    assert!(elsewhere.join("links").exists());
    fs::remove_file(pins.join(&link)).expect("it is still there");

    // What an interrupted start has left is ours.
    fs::create_dir_all(pins.join(format!("new-{name}/maps"))).expect("a directory");
    let detached = observer(&["detach", "--pin", bpffs.pins()]);
    assert!(detached.status.success(), "{detached:?}");
    assert!(bpffs.is_clean(), "detached, and something is left");
    before.assert_same();
}

fn refused_and_untouched(bpffs: &Bpffs, foreign: &str, ours: &str) {
    // Another ABI: what is there would be replaced.
    let run = ["run", "--listen", "127.0.0.1:0", "--simulate-abi", "999", "--pin", bpffs.pins()];
    for refused in [&run[..], &["detach", "--pin", bpffs.pins()]] {
        let ended = observer(refused);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{foreign}: {said}");
        for word in [bpffs.pins(), foreign, "--pin"] {
            assert!(said.contains(word), "{foreign}: {said}");
        }
        for entry in [foreign, ours] {
            assert!(Path::new(bpffs.pins()).join(entry).join("links").exists(), "{entry}");
        }
    }
}

#[test]
fn pins_need_a_bpf_file_system() {
    let directory = tempfile::tempdir().expect("a directory");
    let pins = directory.path().join("observer");
    let pins = pins.to_str().expect("text");
    let ended = observer(&["run", "--listen", "127.0.0.1:0", "--pin", pins]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("no BPF file system") && said.contains("mount -t bpf"), "{said}");
}

#[test]
fn what_is_damaged_is_replaced() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    start(&bpffs, &[]).stop();
    bpffs.remove_one_map();
    let daemon = start(&bpffs, &[]);
    origin(&daemon, "replaced");
    daemon.stop();
    let detached = observer(&["detach", "--pin", bpffs.pins()]);
    assert!(detached.status.success(), "{detached:?}");
    before.assert_same();
}
