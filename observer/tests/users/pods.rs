//! Pods of several containers, and what is to be told of them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::support::{
    cgroup::TestCgroup,
    metrics::{Expected, Metrics},
    workload::{Drive, Protocol},
};

pub(crate) const SHORT: u64 = 20;
pub(crate) const LONG: u64 = 10;
pub(crate) const ALL: u64 = SHORT + LONG;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A pod of several containers.
pub(crate) struct Pod {
    pub(crate) uid: String,
}

impl Pod {
    pub(crate) fn new() -> Self {
        static PODS: AtomicU32 = AtomicU32::new(1);
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        Self { uid: format!("05e45000-{:04x}-4000-8000-{number:012}", process::id() & 0xffff) }
    }

    /// A container of it; those of different numbers have different short ids.
    pub(crate) fn container(&self, number: u8) -> TestCgroup {
        TestCgroup::pod(&self.uid, &number.to_string().repeat(64))
    }

    /// That so many connections were opened with these labels, and no other.
    pub(crate) fn opened(&self, role: &str, path: &str, count: u64) -> Expected {
        let labels = [("pod", self.uid.as_str()), ("role", role), ("path", path)];
        Expected::sum("tcp_connections_opened_total", &labels, count)
    }

    /// That so many have been its users' connections, and so many are.
    pub(crate) fn users(&self, protocol: Protocol, all: u64, now: u64) -> Vec<Expected> {
        let name = match protocol {
            Protocol::Grpc => "grpc",
            _ => "websocket",
        };
        let pod = [("pod", self.uid.as_str())];
        vec![
            Expected::sum(&format!("{name}_connections_total"), &pod, all),
            Expected::sum(&format!("{name}_connections_active"), &pod, now),
        ]
    }

    /// That so many WebSocket messages went each way, and none broke the protocol.
    pub(crate) fn messages(&self, count: u64) -> Vec<Expected> {
        let of = |direction| [("pod", self.uid.as_str()), ("direction", direction)];
        vec![
            Expected::sum("websocket_messages_total", &of("received"), count),
            Expected::sum("websocket_messages_total", &of("sent"), count),
            Expected::sum("websocket_errors_total", &[("pod", &self.uid)], 0),
        ]
    }
}

/// Some connections that come and go, and some that stay.
pub(crate) fn drive(protocol: Protocol, connect: SocketAddr) -> Drive {
    Drive { short: SHORT, long: LONG, ..Drive::new(protocol, connect) }
}

/// The connections that a pod relays, if it is told.
pub(crate) fn relayed(metrics: &Metrics, pod: &Pod) -> Option<f64> {
    let series = metrics.select("websocket_connections_relayed", &[("pod", &pod.uid)]);
    assert!(series.len() <= 1, "{series:?}");
    series.first().map(|sample| sample.value)
}
