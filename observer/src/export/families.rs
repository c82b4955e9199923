//! Every exported family: name, type, help, labels. `docs` of the metrics are checked against this file by a test.

use std::{borrow::Cow, collections::HashSet, fmt, sync::LazyLock};

use observer_common::{
    cell::{IDLE_BOUNDS, LIFETIME_USED, RTT_BUCKETS},
    protocol::{Failure, Protocol, Reason, ResetCause, Role, Timeout},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::MetricType,
    registry::Registry,
};

use super::kubernetes;
use crate::{
    aggregate::Series,
    bpf::ProbeState,
    collect::Snapshot,
    model::{Counts, Histogram},
};

/// What this binary is, for `observer_build_info`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// Name of the node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
}

/// Encodes a snapshot as `OpenMetrics` text, every name with `prefix` before it.
///
/// # Errors
/// Never in practice: writing to a `String` does not fail.
pub fn encode(snapshot: Snapshot, build: BuildInfo, prefix: &str) -> Result<String, fmt::Error> {
    let mut registry = match prefix.strip_suffix('_') {
        Some(prefix) => Registry::with_prefix(prefix),
        None => Registry::default(),
    };
    registry.register_collector(Box::new(Families { snapshot, build }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Families {
    snapshot: Snapshot,
    build: BuildInfo,
}

pub(super) type Labels = Vec<(&'static str, String)>;
/// Labels beyond a series' own, and a value.
pub(super) type More = (Vec<(&'static str, &'static str)>, u64);

/// The four families that carry the users' own names, for one protocol.
struct UserFamilies {
    protocol: Protocol,
    active: (&'static str, &'static str),
    total: (&'static str, &'static str),
    errors: (&'static str, &'static str),
}

const USER_FAMILIES: [UserFamilies; 2] = [
    UserFamilies {
        protocol: Protocol::WebSocket,
        active: (
            "websocket_connections_active",
            "WebSocket connections that the replica's servers hold now.",
        ),
        total: (
            "websocket_connections",
            "Connections that became WebSocket on the replica's servers.",
        ),
        errors: (
            "websocket_errors",
            "WebSocket connections of the replica's servers that ended without an orderly close, and frames that break the protocol, by cause.",
        ),
    },
    UserFamilies {
        protocol: Protocol::Grpc,
        active: (
            "grpc_connections_active",
            "gRPC connections that the replica's servers hold now.",
        ),
        total: ("grpc_connections", "Connections recognised as gRPC on the replica's servers."),
        errors: (
            "grpc_errors",
            "gRPC connections of the replica's servers that ended without an orderly close, by cause.",
        ),
    },
];

/// What an idle replica has counted.
static ZERO: LazyLock<Counts> = LazyLock::new(Counts::default);

/// Endings that are errors of a long-lived connection.
const ERROR_REASONS: [Reason; 5] =
    [Reason::ResetLocal, Reason::ResetPeer, Reason::Timeout, Reason::Aborted, Reason::Unknown];

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for families in &USER_FAMILIES {
            self.user_families(&mut encoder, families)?;
        }
        self.messages(&mut encoder)?;
        self.connections(&mut encoder)?;
        kubernetes::encode(&mut encoder, self.snapshot.kubernetes.as_ref(), &self.build.node)?;
        self.own(&mut encoder)
    }
}

impl Families {
    /// Per replica: the counts of its server sockets that speak `protocol`, all ports and containers together. A pod that
    /// runs and never had any has zeros: an autoscaler takes a missing value for one that is not to be changed.
    fn per_replica(&self, protocol: Protocol) -> Vec<(Labels, Cow<'_, Counts>)> {
        let mut replicas: Vec<(Labels, Cow<'_, Counts>)> = Vec::new();
        let servers = self
            .snapshot
            .series
            .iter()
            .filter(|s| s.key.role == Role::Server && s.key.protocol == protocol);
        for series in servers {
            let identity = &series.key.identity;
            let labels =
                vec![("namespace", identity.namespace.clone()), ("pod", identity.pod.clone())];
            // Series are sorted: those of one replica stand together.
            match replicas.last_mut() {
                Some((last, counts)) if *last == labels => counts.to_mut().add(&series.counts),
                _ => replicas.push((labels, Cow::Borrowed(&series.counts))),
            }
        }
        let pods = self.snapshot.kubernetes.iter().flat_map(|known| &known.pods);
        let counted: HashSet<Labels> = replicas.iter().map(|(labels, _)| labels.clone()).collect();
        let idle = pods
            .filter(|pod| pod.running)
            .map(|pod| {
                vec![("namespace", pod.workload.namespace.clone()), ("pod", pod.pod.clone())]
            })
            .filter(|labels| !counted.contains(labels));
        replicas.extend(idle.map(|labels| (labels, Cow::Borrowed(&*ZERO))));
        replicas.sort_by(|(a, _), (b, _)| a.cmp(b));
        replicas
    }

    fn user_families(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        families: &UserFamilies,
    ) -> Result<(), fmt::Error> {
        let replicas = self.per_replica(families.protocol);
        let mut gauge = encoder.encode_descriptor(
            families.active.0,
            families.active.1,
            None,
            MetricType::Gauge,
        )?;
        for (labels, counts) in &replicas {
            gauge.encode_family(labels)?.encode_gauge(&counts.active)?;
        }
        let mut total = encoder.encode_descriptor(
            families.total.0,
            families.total.1,
            None,
            MetricType::Counter,
        )?;
        for (labels, counts) in &replicas {
            counter(&mut total, labels, counts.entered)?;
        }
        let mut errors = encoder.encode_descriptor(
            families.errors.0,
            families.errors.1,
            None,
            MetricType::Counter,
        )?;
        for (labels, counts) in &replicas {
            for reason in ERROR_REASONS {
                counter(
                    &mut errors,
                    &with(labels, "cause", reason.label()),
                    counts.closed[reason as usize],
                )?;
            }
            if families.protocol == Protocol::WebSocket {
                counter(&mut errors, &with(labels, "cause", "invalid_frame"), counts.errors)?;
            }
        }
        Ok(())
    }

    fn messages(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "websocket_messages",
            "Text and binary messages on the replica's server connections, by direction as the server sees it.",
            None,
            MetricType::Counter,
        )?;
        for (labels, counts) in self.per_replica(Protocol::WebSocket) {
            for (direction, count) in ["received", "sent"].into_iter().zip(counts.messages) {
                counter(&mut metric, &with(&labels, "direction", direction), count)?;
            }
        }
        Ok(())
    }

    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = &self.snapshot.series;
        let mut metric = encoder.encode_descriptor(
            "tcp_connections_active",
            "Connections open now, by the protocol they speak now.",
            None,
            MetricType::Gauge,
        )?;
        for series in all {
            metric.encode_family(&labels(series, true))?.encode_gauge(&series.counts.active)?;
        }
        let mut metric = encoder.encode_descriptor(
            "tcp_connections_opened",
            "Connections that were established. Each is counted once, when its protocol is not known yet.",
            None,
            MetricType::Counter,
        )?;
        for series in all.iter().filter(|s| s.key.protocol == Protocol::Tcp) {
            counter(&mut metric, &labels(series, false), series.counts.opened)?;
        }
        let mut metric = encoder.encode_descriptor(
            "tcp_connections_identified",
            "Connections found to speak a protocol. One that changes, from HTTP/1 to WebSocket, counts for both.",
            None,
            MetricType::Counter,
        )?;
        for series in all.iter().filter(|s| s.key.protocol != Protocol::Tcp) {
            counter(&mut metric, &labels(series, true), series.counts.entered)?;
        }
        let mut metric = encoder.encode_descriptor(
            "tcp_connections_closed",
            "Connections that ended, by the protocol they spoke last and by how they ended.",
            None,
            MetricType::Counter,
        )?;
        for series in all {
            let labels = labels(series, true);
            for &reason in Reason::ALL {
                let count = series.counts.closed[reason as usize];
                // Orderly ends are always shown, so that a rate starts at zero; the others when they occur.
                if count != 0 || matches!(reason, Reason::Local | Reason::Peer) {
                    counter(&mut metric, &with(&labels, "reason", reason.label()), count)?;
                }
            }
        }
        self.times(encoder)?;
        self.troubles(encoder)
    }

    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = &self.snapshot.series;
        let mut metric = encoder.encode_descriptor(
            "tcp_connection_duration_seconds",
            "Lifetimes of connections that ended, from the established handshake to the end of the socket.",
            None,
            MetricType::Histogram,
        )?;
        for series in all {
            histogram(&mut metric, &labels(series, true), &series.counts.lifetime, lifetime_bound)?;
        }
        let mut metric = encoder.encode_descriptor(
            "tcp_connection_idle_seconds",
            "Time since the last payload in either direction when a connection ended, by how it ended.",
            None,
            MetricType::Histogram,
        )?;
        for series in all {
            let labels = labels(series, true);
            for &reason in Reason::ALL {
                let idle = &series.counts.idle[reason as usize];
                if idle.count() != 0 {
                    histogram(
                        &mut metric,
                        &with(&labels, "reason", reason.label()),
                        idle,
                        idle_bound,
                    )?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "tcp_round_trip_seconds",
            "Smoothed round-trip times as the kernel estimates them, sampled at most once a second per connection.",
            None,
            MetricType::Histogram,
        )?;
        for series in all.iter().filter(|s| s.counts.rtt.count() != 0) {
            histogram(&mut metric, &labels(series, true), &series.counts.rtt, rtt_bound)?;
        }
        Ok(())
    }

    fn troubles(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.counters(
            encoder,
            "tcp_payload_bytes",
            "Payload bytes of connections, retransmissions counted once.",
            |counts| {
                ["received", "sent"]
                    .into_iter()
                    .zip(counts.bytes)
                    .map(|(d, n)| (vec![("direction", d)], n))
                    .collect()
            },
        )?;
        self.counters(
            encoder,
            "tcp_retransmits",
            "Segments with payload that were sent again.",
            |counts| vec![(Vec::new(), counts.retransmits)],
        )?;
        self.counters(
            encoder,
            "tcp_resets",
            "Resets by direction, and why this node sent them.",
            |counts| {
                let sent = ResetCause::ALL.iter().zip(counts.resets_sent);
                std::iter::once((
                    vec![("direction", "received"), ("cause", "")],
                    counts.resets_received,
                ))
                .chain(
                    sent.map(|(cause, n)| {
                        (vec![("direction", "sent"), ("cause", cause.label())], n)
                    }),
                )
                .filter(|(_, n)| *n != 0)
                .collect()
            },
        )?;
        self.counters(
            encoder,
            "tcp_timeouts",
            "Connections, or attempts to connect, that ran out of time.",
            |counts| some(Timeout::ALL.iter().map(|kind| kind.label()), "kind", counts.timeouts),
        )?;
        self.counters(
            encoder,
            "tcp_connect_failures",
            "Attempts to connect that failed, by reason.",
            |counts| {
                some(Failure::ALL.iter().map(|failure| failure.label()), "reason", counts.failures)
            },
        )?;
        self.counters(
            encoder,
            "tcp_idle_closes",
            "Closes by the peer and resets after 5 s or more without payload, less 50 ms for timers that fire early.",
            |counts| vec![(Vec::new(), counts.idle_closes)],
        )
    }

    /// A family of counters: `each` gives the labels beyond a series' own, with the values.
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        each: impl Fn(&Counts) -> Vec<More>,
    ) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for series in &self.snapshot.series {
            let base = labels(series, true);
            for (more, value) in each(&series.counts) {
                let labels = more
                    .iter()
                    .fold(base.clone(), |labels, (name, value)| with(&labels, name, value));
                counter(&mut metric, &labels, value)?;
            }
        }
        Ok(())
    }

    fn own(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = &self.snapshot;
        let info = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", option_env!("OBSERVER_GIT_REVISION").unwrap_or("").to_owned()),
            ("rustc", option_env!("OBSERVER_RUSTC_VERSION").unwrap_or("").to_owned()),
            ("abi", observer_common::ABI_VERSION.to_string()),
            ("kernel", self.build.kernel.clone()),
            ("node", self.build.node.clone()),
        ];
        let mut metric = encoder.encode_descriptor(
            "observer_build",
            "What runs here; the value is always 1.",
            None,
            MetricType::Info,
        )?;
        metric.encode_info(&info)?;
        let mut metric = encoder.encode_descriptor(
            "observer_lost",
            "What was lost, by kind; see the metric reference for what each kind makes incomplete.",
            None,
            MetricType::Counter,
        )?;
        for (loss, count) in &snapshot.losses {
            counter(&mut metric, &[("kind", loss.label())], *count)?;
        }
        counter(&mut metric, &[("kind", "undecodable_cell")], snapshot.undecodable)?;
        let mut metric = encoder.encode_descriptor(
            "observer_probe_active",
            "1 for a kernel program that is attached, 0 for one that this kernel does not allow.",
            None,
            MetricType::Gauge,
        )?;
        for (probe, state) in &snapshot.probes {
            let active = u64::from(*state == ProbeState::Active);
            metric
                .encode_family(&[("program", probe.program), ("hook", probe.hook.name())])?
                .encode_gauge(&(active as i64))?;
        }
        let mut metric = encoder.encode_descriptor(
            "observer_probe_skips",
            "Runs of a kernel program that the kernel skipped because it was already running on the processor.",
            None,
            MetricType::Counter,
        )?;
        for (probe, misses) in &snapshot.misses {
            counter(&mut metric, &[("program", probe.program)], *misses)?;
        }
        for (name, help, value) in [
            (
                "observer_cells_used",
                "Cells of the kernel's table that are in use.",
                snapshot.cells.0,
            ),
            ("observer_cells_capacity", "Cells of the kernel's table.", snapshot.cells.1),
            (
                "observer_cgroups_skipped",
                "Cgroup directories that the last walk did not read.",
                snapshot.cgroups_skipped,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&(value as i64))?;
        }
        Ok(())
    }
}

/// The upper bound of a lifetime bucket in seconds; `None` for the last.
fn lifetime_bound(bucket: usize) -> Option<f64> {
    (bucket + 1 < LIFETIME_USED).then(|| 2_f64.powi(bucket as i32 - 10))
}

/// The upper bound of an idle bucket in seconds; `None` for the last.
fn idle_bound(bucket: usize) -> Option<f64> {
    IDLE_BOUNDS.get(bucket).map(|&seconds| f64::from(seconds))
}

/// The upper bound of a round-trip time bucket in seconds; `None` for the last.
fn rtt_bound(bucket: usize) -> Option<f64> {
    (bucket + 1 < RTT_BUCKETS).then(|| 16e-6 * 2_f64.powi(bucket as i32))
}

fn histogram<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    histogram: &Histogram<N>,
    bound: impl Fn(usize) -> Option<f64>,
) -> Result<(), fmt::Error> {
    let buckets: Vec<(f64, u64)> = histogram
        .buckets
        .iter()
        .enumerate()
        .map(|(i, count)| (bound(i).unwrap_or(f64::INFINITY), *count))
        .collect();
    metric.encode_family(labels)?.encode_histogram::<[(&str, &str); 0]>(
        histogram.sum_ns as f64 / 1e9,
        histogram.count(),
        &buckets,
        None,
    )
}

/// The labels of a connection family.
fn labels(series: &Series, protocol: bool) -> Labels {
    let key = &series.key;
    let mut labels = vec![
        ("namespace", key.identity.namespace.clone()),
        ("pod", key.identity.pod.clone()),
        ("container", key.identity.container.clone()),
        ("role", key.role.label().to_owned()),
        ("port", key.port.to_string()),
    ];
    if protocol {
        labels.push(("protocol", key.protocol.label().to_owned()));
    }
    labels
}

/// The values that are not 0, each with its name under `label`.
pub(super) fn some<const N: usize>(
    names: impl Iterator<Item = &'static str>,
    label: &'static str,
    values: [u64; N],
) -> Vec<More> {
    names
        .zip(values)
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| (vec![(label, name)], value))
        .collect()
}

pub(super) fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

pub(super) fn counter(
    metric: &mut MetricEncoder<'_>,
    labels: &impl prometheus_client::encoding::EncodeLabelSet,
    value: u64,
) -> Result<(), fmt::Error> {
    metric.encode_family(labels)?.encode_counter::<[(&str, &str); 0], u64, f64>(&value, None)
}
