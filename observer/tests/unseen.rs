//! Ends that no hook tells: found by looking which sockets still have a state.
//!
//! The hooks are taken away while no daemon runs, by removing what pins them; what then ends is told by nobody.
//!
//! A machine's own kernel may refuse iterators over maps, as some virtual machines' do. There the observer has to say so,
//! and that is what is tested. `xtask/lab/expected.txt` knows no such excuse for the lab's kernels.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{sync::Arc, time::Duration};

use support::{
    bpffs::Bpffs,
    churn::Churn,
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::Expected,
    pod::Pod,
    poll::poll,
    scale::scaled,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_mins(2);
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
/// Whatever tells the end of a connection.
const HOOKS: [&str; 3] = ["sock_ops", "inet_sock_set_state", "tcp_destroy_sock"];

/// Connections that are held, between two pods.
struct Held {
    /// As a label.
    protocol: &'static str,
    count: u64,
    driver: Driver,
    // Above the pod of its own: it ends before the cgroup is removed.
    _server: Server,
    client_pod: Pod,
    server_pod: Pod,
}

impl Held {
    fn start(protocol: Protocol, count: u64) -> Self {
        let (client_pod, server_pod) = (Pod::new(), Pod::new());
        let server = Server::start(protocol, ANY_PORT.into(), &server_pod.cgroup, None);
        let drive = Drive { long: count, ..Drive::new(protocol, server.addr) };
        let mut driver = Driver::start(&drive, &client_pod.cgroup, None);
        driver.ready();
        let protocol = if protocol == Protocol::Ws { "websocket" } else { "tcp" };
        Self { protocol, count, driver, _server: server, client_pod, server_pod }
    }

    /// What must be shown when `unseen` of them have ended, all of them unseen.
    fn expected(&self, unseen: u64) -> Vec<Expected> {
        let ends = [(&self.client_pod, "client"), (&self.server_pod, "server")];
        ends.into_iter()
            .flat_map(|(pod, role)| {
                let pod = [("pod", pod.name.as_str())];
                let end = [pod[0], ("role", role), ("protocol", self.protocol)];
                let unknown = [pod[0], ("role", role), ("reason", "unknown")];
                [
                    Expected::sum("tcp_connections_opened_total", &pod, self.count),
                    Expected::sum("tcp_connections_active", &pod, self.count - unseen),
                    Expected::sum("tcp_connections_active", &end, self.count - unseen),
                    Expected::sum("tcp_connections_closed_total", &pod, unseen),
                    Expected::sum("tcp_connections_closed_total", &unknown, unseen),
                    // How long they lived nobody knows.
                    Expected::sum("tcp_connection_duration_seconds_count", &pod, 0),
                    Expected::sum("tcp_connection_idle_seconds_count", &pod, 0),
                ]
            })
            .collect()
    }
}

fn lost(unseen: u64) -> Expected {
    Expected::sum("observer_lost_total", &[("kind", "unseen_end")], unseen)
}

/// Whether this kernel refuses the iterator; the daemon then has said so, and shows no reconciliations.
fn is_refused(daemon: &Daemon) -> bool {
    let metrics = daemon.scrape();
    let active = metrics.sum("observer_probe_active", &[("program", "count_state")]) != 0.0;
    let counters = metrics.select("observer_reconciliations_total", &[]);
    assert_eq!(counters.len(), usize::from(active), "shown if and only if they take place");
    if !active {
        let log = daemon.log();
        assert!(log.contains("the kernel refused program count_state"), "it says so: {log}");
        println!("this kernel refuses the iterator");
    }
    !active
}

#[test]
fn ends_that_no_hook_tells_are_found() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let bpffs = Bpffs::new();
    let start = || Daemon::start(&["--pin", bpffs.pins(), "--reconcile-every", "1s"]);
    let daemon = start();
    if is_refused(&daemon) {
        return;
    }
    let counts = [scaled(300), scaled(200), scaled(1000)];
    let [websocket, tcp, staying] = [
        Held::start(Protocol::Ws, counts[0]),
        Held::start(Protocol::Tcp, counts[1]),
        Held::start(Protocol::Tcp, counts[2]),
    ];
    let all = [&websocket, &tcp, &staying].map(|held| held.expected(0)).concat();
    daemon.wait_for(PATIENCE, &all);
    daemon.kill();

    let links = BpfSnapshot::take().links();
    bpffs.detach(&HOOKS);
    // The kernel takes them away later: first their ids, then the programs, those of cgroups under the lock of the tree.
    let gone = || (BpfSnapshot::take().links() + HOOKS.len() == links).then_some(());
    poll(PATIENCE, gone).expect("the hooks go");
    drop(Pod::new());
    let mut expected = [websocket.expected(counts[0]), tcp.expected(counts[1])].concat();
    expected.extend(staying.expected(0));
    let pods = [websocket, tcp].map(|Held { driver, client_pod, server_pod, .. }| {
        driver.close();
        [client_pod, server_pod]
    });
    let daemon = start();
    expected.push(lost(2 * (counts[0] + counts[1])));
    daemon.wait_for(PATIENCE, &expected);
    let log = daemon.log();
    assert!(log.contains("without any hook telling"), "it says so: {log}");

    // Those that have been found are not found again when it looks for more.
    let expected = [staying.expected(counts[2]), vec![lost(2 * counts.iter().sum::<u64>())]];
    let Held { driver, client_pod, server_pod, .. } = staying;
    driver.close();
    daemon.wait_for(PATIENCE, &expected.concat());
    daemon.stop();
    drop((pods, client_pod, server_pod));

    drop(bpffs);
    before.assert_same();
}

/// Nothing is missing where all hooks tell, however often it is looked while connections come, move and go.
#[test]
fn what_hooks_tell_is_never_taken_for_unseen() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&["--reconcile-every", "200ms"]);
    if is_refused(&daemon) {
        return;
    }
    let held = Held::start(Protocol::Ws, scaled(2000));
    let servers = [Protocol::Tcp, Protocol::Http1, Protocol::Ws].map(|protocol| {
        let pod = Pod::new();
        (protocol, Server::start(protocol, ANY_PORT.into(), &pod.cgroup, None), pod)
    });
    let client = Arc::new(Pod::new());
    let churn = servers.iter().map(|(protocol, server, _)| {
        let drive = Drive { short: scaled(2000), ..Drive::new(*protocol, server.addr) };
        let pod = Arc::clone(&client);
        Churn::start(move || Driver::start(&drive, &pod.cgroup, None))
    });
    let churn: Vec<_> = churn.collect();
    // After each it rests a hundred times as long as it took: two seconds here.
    let reconciliations = scaled(15).max(3) as f64;
    daemon.wait_until(PATIENCE, |metrics| {
        metrics.value("observer_reconciliations_total", &[]) > reconciliations
    });
    let opened: u64 = churn.into_iter().map(Churn::finish).sum();
    let client_pod = [("pod", client.name.as_str())];
    let mut expected = held.expected(0);
    expected.extend([
        Expected::sum("tcp_connections_opened_total", &client_pod, opened),
        Expected::sum("tcp_connections_closed_total", &client_pod, opened),
        Expected::sum("tcp_connections_active", &client_pod, 0),
        lost(0),
    ]);
    daemon.wait_for(PATIENCE, &expected);
    daemon.stop();
}
