//! Pods for the test: cgroups as the kubelet makes them, real servers and clients in them, and what is expected.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    objects::Object,
    support::{
        cgroup::TestCgroup,
        daemon::Daemon,
        metrics::{Expected, Metrics},
        workload::{Drive, Driver, Protocol, Server},
    },
};

/// How long the daemon may take to know: ticks, pauses after errors, a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A number that nothing else in this test has.
fn number() -> u32 {
    static NUMBERS: AtomicU32 = AtomicU32::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// A UID as the API server makes them.
pub(crate) fn uid() -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), number())
}

/// A container's id. Its first digits tell it from all others.
pub(crate) fn container() -> String {
    format!("{:08x}{:056x}", number(), std::process::id())
}

/// The first digits of a container's id, as they are shown.
pub(crate) fn short(id: &str) -> &str {
    &id[..12]
}

/// A container with a WebSocket server and a client of it, which is in a container of another pod.
pub(crate) struct Running {
    pub(crate) id: String,
    server: Server,
    driver: Option<Driver>,
    /// How many connections were opened in all.
    pub(crate) opened: u64,
    /// How many are open.
    pub(crate) active: u64,
    /// Dropped last, after the processes in them.
    cgroups: [TestCgroup; 2],
}

impl Running {
    /// Starts both and opens connections: short ones that are over, long ones that stay.
    pub(crate) fn start(uid: &str, client: &str, short: u64, long: u64) -> Self {
        let id = container();
        let cgroups = [TestCgroup::pod(uid, &id), TestCgroup::pod(client, &container())];
        let server =
            Server::start(Protocol::Ws, (Ipv4Addr::LOCALHOST, 0).into(), &cgroups[0], None);
        let drive = Drive { short, long, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &cgroups[1], None);
        assert_eq!(driver.ready().opened, short + long);
        Self { id, server, driver: Some(driver), opened: short + long, active: long, cgroups }
    }

    /// Opens as many more short connections.
    pub(crate) fn more(&mut self, short: u64) {
        let drive = Drive { short, ..Drive::new(Protocol::Ws, self.server.addr) };
        drive_once(&drive, &self.cgroups[1]);
        self.opened += short;
    }

    /// Ends the client's long connections, then the server. Then the cgroups go.
    pub(crate) fn stop(mut self) {
        if let Some(driver) = self.driver.take() {
            assert_eq!(driver.close().active, 0);
        }
        assert_eq!(self.server.stop().accepted, self.opened);
    }
}

/// Opens the short connections, and ends.
pub(crate) fn drive_once(drive: &Drive, cgroup: &TestCgroup) {
    let mut driver = Driver::start(drive, cgroup, None);
    assert_eq!(driver.ready().closed, drive.short);
    assert_eq!(driver.finish().opened, drive.short);
}

/// What the server pod of `namespace` and `name` must show, in its users' families and in all.
pub(crate) fn counts(namespace: &str, name: &str, opened: u64, active: u64) -> Vec<Expected> {
    let pod = [("namespace", namespace), ("pod", name)];
    let tcp = [("namespace", namespace), ("pod", name), ("role", "server")];
    vec![
        Expected::sum("websocket_connections_active", &pod, active),
        Expected::sum("websocket_connections_total", &pod, opened),
        Expected::sum("tcp_connections_active", &tcp, active),
        Expected::sum("tcp_connections_opened_total", &tcp, opened),
        Expected::sum("tcp_connections_closed_total", &tcp, opened - active),
        Expected::sum("tcp_connection_duration_seconds_count", &tcp, opened - active),
    ]
}

/// What the workload of a server pod must show.
pub(crate) fn totals(kind: &str, name: &str, opened: u64, active: u64) -> Vec<Expected> {
    let of =
        [("namespace", "shop"), ("workload_kind", kind), ("workload", name), ("role", "server")];
    vec![
        Expected::sum("workload_tcp_connections_opened_total", &of, opened),
        Expected::sum("workload_tcp_connections_closed_total", &of, opened - active),
    ]
}

/// That nothing has these labels.
pub(crate) fn absent(metrics: &Metrics, labels: &[(&str, &str)]) {
    let of = |(key, value): &(&str, &str), labels: &std::collections::BTreeMap<String, String>| {
        labels.get(*key).is_some_and(|found| found == value)
    };
    let found: Vec<_> = metrics
        .samples
        .iter()
        .filter(|s| labels.iter().all(|label| of(label, &s.labels)))
        .collect();
    assert!(found.is_empty(), "{labels:?} is still there: {:#?}", &found[..found.len().min(5)]);
}

/// Waits until the daemon's names are those of the API server, `named` of them.
pub(crate) fn current(daemon: &Daemon, pods: u64) -> Metrics {
    daemon.wait_for(
        PATIENCE,
        &[
            Expected::sum("observer_kube_watch_active", &[], 1),
            Expected::sum("observer_kube_pods", &[], pods),
        ],
    )
}

/// A pod of a `StatefulSet`, such as `web-0` of `web`.
pub(crate) fn stateful(uid: &str, name: &str, set: &'static str) -> Object {
    Object::new(uid, "shop", name).owned_by("StatefulSet", set)
}
