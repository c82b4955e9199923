//! What is over is shown to every reader, whatever others have read meanwhile.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use support::{
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    pod::Pod,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long the daemon shows what is over, here.
const SHOWN: Duration = Duration::from_secs(5);

/// Sends a request, reads so many bytes of the answer and goes; unread bytes make that a reset.
fn break_off(daemon: &Daemon, request: &str, bytes: usize) {
    let mut stream = TcpStream::connect(daemon.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.write_all(request.as_bytes()).expect("it listens");
    stream.read_exact(&mut vec![0; bytes]).expect("it answers");
}

/// How many connections of the pod have ended, if it is shown.
fn closed(metrics: &Metrics, pod: &str) -> Option<u64> {
    let of_pod = metrics.select("tcp_connections_closed_total", &[("pod", pod)]);
    (!of_pod.is_empty()).then(|| of_pod.iter().map(|sample| sample.value as u64).sum())
}

#[test]
fn every_reader_sees_the_last_counts_of_a_pod() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let shown = format!("{}s", SHOWN.as_secs());
    let daemon = Daemon::start(&["--show-ended", &shown]);
    let (pod, clients) = (Pod::new(), Pod::new());
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    let drive = Drive { short: 20, long: 3, ..Drive::new(Protocol::Ws, server.addr) };
    let mut driver = Driver::start(&drive, &clients.cgroup, None);
    driver.ready();
    let name = pod.name.clone();
    let open = [("pod", name.as_str())];
    daemon.wait_for(PATIENCE, &[Expected::sum("tcp_connections_active", &open, 3)]);

    // The last counts come with the end, which nobody has read before.
    driver.close();
    server.stop();
    drop(pod);
    let ended = Instant::now();
    let mut reads = [0_u32; 2];
    let gone = loop {
        break_off(&daemon, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 1);
        break_off(&daemon, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 15);
        let seen = [(); 2].map(|()| closed(&daemon.scrape(), &name));
        if seen[1].is_none() {
            break ended.elapsed();
        }
        for (reads, seen) in reads.iter_mut().zip(seen) {
            // The first of them may be the last to see it.
            assert!(seen.is_none_or(|closed| closed == 23), "{seen:?}");
            *reads += u32::from(seen.is_some());
        }
        assert!(ended.elapsed() < PATIENCE, "it is shown for ever");
    };
    assert!(gone >= SHOWN, "{gone:?}");
    assert!(reads.into_iter().all(|reads| reads > 1), "{reads:?}");
    daemon.stop();
    before.assert_same();
}
