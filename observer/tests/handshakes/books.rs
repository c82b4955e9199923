//! What a scenario must look like in the metrics, at each of its ends.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    metrics::{Expected, Metrics},
    poll::poll,
};

/// How long the books may take: the kernel ends a connection a moment after its last segment.
const SETTLE: Duration = Duration::from_secs(3);

/// All protocols that a connection can be found to speak.
const PROTOCOLS: [&str; 6] = ["tls", "http1", "http2", "grpc", "websocket", "upgrade"];

/// A cgroup shaped like a pod's container, for one end of one scenario.
pub(crate) struct Pod {
    /// Its cgroup.
    pub(crate) cgroup: TestCgroup,
    /// The value of the label `pod`.
    pub(crate) name: String,
}

impl Pod {
    /// A pod that no other scenario has had: its books start at zero.
    pub(crate) fn new() -> Self {
        static PODS: AtomicU32 = AtomicU32::new(1);
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:08x}-0000-4000-8000-{number:012x}", process::id());
        let container = format!("{:056x}{number:08x}", process::id());
        Self { cgroup: TestCgroup::pod(&name, &container), name }
    }
}

/// What the connections of a scenario speak, and say.
#[derive(Clone, Copy)]
pub(crate) struct Spoken {
    /// The protocols that each connection is found to speak, in order; none for plain TCP.
    pub(crate) protocols: &'static [&'static str],
    /// WebSocket messages from client to server, and back.
    pub(crate) messages: (u64, u64),
    /// WebSocket frames that break the protocol.
    pub(crate) errors: u64,
}

/// The expected books of one end.
pub(crate) struct Books<'a> {
    pub(crate) pod: &'a Pod,
    /// `server` or `client`.
    pub(crate) role: &'static str,
    /// The server's port.
    pub(crate) port: u16,
    pub(crate) spoken: Spoken,
}

impl Books<'_> {
    /// While the connection is open.
    pub(crate) fn open(&self) -> Vec<Expected> {
        let mut expected = self.always();
        expected.push(self.sum("tcp_connections_active", &[("protocol", self.last())], 1));
        expected.push(self.sum("tcp_connections_active", &[], 1));
        expected.push(self.sum("tcp_connections_closed_total", &[], 0));
        expected
    }

    /// When it is over.
    pub(crate) fn over(&self) -> Vec<Expected> {
        let mut expected = self.always();
        expected.push(self.sum("tcp_connections_closed_total", &[("protocol", self.last())], 1));
        expected.push(self.sum("tcp_connections_closed_total", &[], 1));
        expected.push(self.sum("tcp_connections_active", &[], 0));
        expected.push(self.sum("tcp_connection_duration_seconds_count", &[], 1));
        expected
    }

    /// What must hold both before and after the end.
    fn always(&self) -> Vec<Expected> {
        let port = self.port.to_string();
        let here = [("role", self.role), ("port", &port)];
        let mut expected = vec![
            self.sum("tcp_connections_opened_total", &here, 1),
            self.sum("tcp_connections_opened_total", &[], 1),
        ];
        let spoken = &self.spoken;
        for protocol in PROTOCOLS {
            let count = u64::from(spoken.protocols.contains(&protocol));
            let labels = [here[0], here[1], ("protocol", protocol)];
            expected.push(self.sum("tcp_connections_identified_total", &labels, count));
        }
        // The users' families are the servers' alone.
        let serves = u64::from(self.role == "server");
        for (family, protocol) in [("websocket", "websocket"), ("grpc", "grpc")] {
            let count = serves * u64::from(spoken.protocols.contains(&protocol));
            expected.push(self.sum(&format!("{family}_connections_total"), &[], count));
        }
        for (direction, count) in [("received", spoken.messages.0), ("sent", spoken.messages.1)] {
            let labels = [("direction", direction)];
            expected.push(self.sum("websocket_messages_total", &labels, serves * count));
        }
        let labels = [("cause", "invalid_frame")];
        expected.push(self.sum("websocket_errors_total", &labels, serves * spoken.errors));
        expected
    }

    fn last(&self) -> &'static str {
        self.spoken.protocols.last().copied().unwrap_or("tcp")
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)], sum: u64) -> Expected {
        let mut all = vec![("pod", self.pod.name.as_str())];
        all.extend(labels);
        Expected::sum(name, &all, sum)
    }
}

/// Waits until all of that holds at all ends; says what does not.
pub(crate) fn check(daemon: &Daemon, expected: &[(&Pod, Vec<Expected>)]) -> Result<()> {
    let mut mismatches = Vec::new();
    let settled = poll(SETTLE, || {
        let metrics = daemon.scrape();
        mismatches.clear();
        for (pod, sums) in expected {
            // Of hundreds of pods only this one's series belong into a message.
            let own = only(&metrics, pod);
            mismatches.extend(sums.iter().filter_map(|sum| sum.mismatch(&own)));
        }
        mismatches.is_empty().then_some(())
    });
    if settled.is_none() {
        bail!("{}", mismatches.join(""));
    }
    Ok(())
}

fn only(metrics: &Metrics, pod: &Pod) -> Metrics {
    let mut own = metrics.clone();
    own.samples.retain(|sample| sample.labels.get("pod") == Some(&pod.name));
    own
}

/// What the daemon says it has lost, as text.
pub(crate) fn losses(metrics: &Metrics) -> Metrics {
    let mut losses = metrics.clone();
    losses.samples.retain(|sample| sample.name == "observer_lost_total");
    losses
}

/// The scenarios that failed, each with what it expected and got.
#[derive(Default)]
pub(crate) struct Failures {
    ran: usize,
    failed: Vec<String>,
}

impl Failures {
    /// Runs one scenario and notes how it went, with what was lost meanwhile if it went wrong.
    pub(crate) fn run(
        &mut self,
        daemon: &Daemon,
        name: &str,
        scenario: impl FnOnce() -> Result<()>,
    ) {
        self.ran += 1;
        let before = losses(&daemon.scrape());
        if let Err(error) = scenario() {
            let lost = losses(&daemon.scrape()).diff(&before);
            let lost = if lost.is_empty() { String::new() } else { format!("lost:\n{lost}") };
            self.failed.push(format!("## {name}\n{error:#}\n{lost}"));
        }
    }

    /// Fails the test if a scenario has failed.
    pub(crate) fn report(self) {
        let Self { ran, failed } = self;
        assert!(
            failed.is_empty(),
            "{} of {ran} scenarios failed:\n{}",
            failed.len(),
            failed.join("\n")
        );
    }
}
