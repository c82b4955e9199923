//! A pod that speaks to very many ports costs at most its budget, and nobody else anything; what it no longer uses is freed
//! without a count being lost.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{collections::BTreeSet, time::Duration};

use observer_common::wire::slot::CELLS_PER_CGROUP;
use support::{
    cgroup::ROOT,
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    peer::Peer,
    pod::Pod,
};

/// Ports on which nobody listens: as many as four pods could have cells for.
const CLOSED: std::ops::Range<u16> = 600..856;
/// Ports that are spoken to once: more than a pod keeps cells for while they are idle.
const SPOKEN: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);

fn labels_of(metrics: &Metrics, family: &str, pod: &Pod) -> BTreeSet<String> {
    let samples = metrics.select(family, &[("pod", &pod.name)]);
    samples.iter().map(|sample| sample.labels["port"].clone()).collect()
}

/// Speaks once to a server on a fresh port; the port.
fn speak(client: &mut Peer, server: &mut Peer) -> anyhow::Result<u16> {
    let address = server.listen(([127, 0, 0, 1], 0).into(), false)?;
    client.ask(&format!("connect {address}"))?;
    server.ask("accept")?;
    client.ask("close")?;
    server.expect_end()?;
    server.ask("close")?;
    Ok(address.port())
}

#[test]
fn a_scanner_costs_its_budget_and_nobody_else() -> anyhow::Result<()> {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let (scanner, client, server) = (Pod::new(), Pod::new(), Pod::new());
    // Only pods: what else runs on the machine opens connections when it likes, and has cells for them.
    let pods = ROOT.join("kubepods.slice");
    // An age long enough for all that is looked at before it.
    let daemon = Daemon::start(&["--cell-age", "5s", "--cgroup-root", &pods.to_string_lossy()]);
    let used = |metrics: &Metrics| metrics.value("observer_cells_used", &[]);
    let bare = used(&daemon.scrape());

    let mut scan = Peer::start(&scanner.cgroup, None);
    let attempts = CLOSED.len() as u64;
    for port in CLOSED {
        assert!(scan.ask(&format!("connect 127.0.0.1:{port}")).is_err(), "somebody listens there");
    }
    let failed = |sum| Expected::sum("tcp_connect_failures_total", &[("pod", &scanner.name)], sum);
    let metrics = daemon.wait_for(PATIENCE, &[failed(attempts)]);
    let ports = labels_of(&metrics, "tcp_connect_failures_total", &scanner);
    assert_eq!(ports.len(), CELLS_PER_CGROUP as usize + 1, "and port 0: {ports:?}");
    let cost = used(&metrics) - bare;
    assert!((cost - f64::from(CELLS_PER_CGROUP + 1)).abs() < 0.5, "{cost} slots");

    // Who comes later has all of its ports.
    let (mut near, mut far) =
        (Peer::start(&client.cgroup, None), Peer::start(&server.cgroup, None));
    let spoken =
        (0..SPOKEN).map(|_| speak(&mut near, &mut far)).collect::<anyhow::Result<Vec<_>>>()?;
    let ports: BTreeSet<String> = spoken.iter().map(u16::to_string).collect();
    let ends = [(&client, "client"), (&server, "server")];
    let totals = |count| {
        ends.map(|(pod, role)| {
            let labels = [("pod", pod.name.as_str()), ("role", role), ("protocol", "tcp")];
            Expected::sum("tcp_connection_duration_seconds_count", &labels, count)
        })
    };
    let metrics = daemon.wait_for(PATIENCE, &totals(SPOKEN));
    for (pod, _) in ends {
        assert_eq!(labels_of(&metrics, "tcp_connections_opened_total", pod), ports);
    }

    // What is idle goes; what it has counted stays in what has no port.
    let metrics = daemon.wait_until(PATIENCE, |metrics| {
        assert!(
            totals(SPOKEN).iter().all(|sum| sum.mismatch(metrics).is_none()),
            "a count is lost"
        );
        ends.iter()
            .all(|(pod, _)| labels_of(metrics, "tcp_connections_opened_total", pod).is_empty())
            && labels_of(metrics, "tcp_connect_failures_total", &scanner).len() == 1
    });
    assert_eq!(metrics.sum("tcp_connections_active", &[("pod", &client.name)]) as u64, 0);
    let rest = |metrics: &Metrics| used(metrics) - bare;
    daemon.wait_until(PATIENCE, |metrics| rest(metrics) < 2.0);

    // A port that is used again begins anew, and its pod has its budget again.
    let port = speak(&mut near, &mut far)?.to_string();
    let metrics = daemon.wait_for(PATIENCE, &totals(SPOKEN + 1));
    for (pod, _) in ends {
        let labels = [("pod", pod.name.as_str()), ("port", port.as_str())];
        assert_eq!(metrics.sum("tcp_connections_opened_total", &labels) as u64, 1);
    }
    for port in CLOSED.take(CELLS_PER_CGROUP as usize) {
        assert!(scan.ask(&format!("connect 127.0.0.1:{port}")).is_err(), "somebody listens there");
    }
    daemon.wait_until(PATIENCE, |metrics| {
        let ports = labels_of(metrics, "tcp_connect_failures_total", &scanner);
        ports.len() == CELLS_PER_CGROUP as usize + 1
    });
    drop((scan, near, far));
    daemon.stop();
    before.assert_same();
    Ok(())
}
