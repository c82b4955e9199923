//! A table that is too small: what finds no cell of its own is counted in the overflow cells, the sums stay exact, and a
//! counter says so.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::time::Duration;

use observer_common::wire::slot::RESERVED_SLOTS;
use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::Expected,
    poll::poll,
    workload::{Drive, Driver, Protocol, Server},
};

const SHORT: u64 = 300;
const LONG: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A server and its client, each in a cgroup of its own; the processes end before their cgroups are removed.
struct Pair {
    driver: Driver,
    server: Server,
    _cgroups: [TestCgroup; 2],
}

fn start(number: usize) -> Pair {
    let cgroups =
        ["server", "client"].map(|end| TestCgroup::new(&format!("overflow-{number}-{end}")));
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &cgroups[0], None);
    let mut drive = Drive::new(Protocol::Ws, server.addr);
    drive.short = SHORT;
    drive.long = LONG;
    let driver = Driver::start(&drive, &cgroups[1], None);
    Pair { driver, server, _cgroups: cgroups }
}

#[test]
fn a_full_table_loses_no_count() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    // The slots for overflow and eight of use, for four servers, four clients and the scrapes.
    let slots = (RESERVED_SLOTS + 8).to_string();
    let daemon = Daemon::start(&["--cells", &slots]);
    let mut pairs: Vec<Pair> = (0..4).map(start).collect();
    for pair in &mut pairs {
        assert_eq!(
            (pair.driver.ready().opened, pair.server.books().accepted),
            (SHORT + LONG, SHORT + LONG)
        );
    }
    let all = 4 * (SHORT + LONG);
    let at = |role, active: u64| {
        let labels = [("role", role), ("protocol", "websocket")];
        [
            Expected::sum("tcp_connections_identified_total", &labels, all),
            Expected::sum("tcp_connections_active", &labels, active),
            Expected::sum("tcp_connections_closed_total", &labels, all - active),
        ]
    };
    daemon.wait_for(PATIENCE, &[at("server", 4 * LONG), at("client", 4 * LONG)].concat());
    for pair in pairs {
        assert_eq!(pair.driver.close().failures, 0);
        assert_eq!(pair.server.stop().closed, SHORT + LONG);
    }
    let metrics = daemon.wait_for(PATIENCE, &[at("server", 0), at("client", 0)].concat());
    assert!(
        metrics.sum("observer_lost_total", &[("kind", "table_full")]) > 0.0,
        "the overflow was not counted"
    );
    assert!(
        metrics.sum("tcp_connections_opened_total", &[("pod", "overflow")]) > 0.0,
        "nothing is labelled overflow"
    );
    for family in ["tcp_connections_active", "websocket_connections_active"] {
        for sample in metrics.select(family, &[]) {
            assert!(sample.value >= 0.0, "{sample} is negative");
        }
    }
    poll(PATIENCE, || daemon.log().contains("nearly full").then_some(())).expect("the log warns");
    daemon.stop();
    before.assert_same();
}
