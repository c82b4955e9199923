//! Every exported family: name, type, help, labels. The README's reference is checked against this table by a test.

use std::sync::LazyLock;

use observer_common::{
    cell::{IDLE_BOUNDS, IDLE_USED, LIFETIME_USED, RTT_BUCKETS},
    protocol::{Failure, Protocol, Reason, ResetCause, Timeout},
};

use super::{
    kubernetes::Total,
    pages::Part,
    process::Reading,
    text::{Kind, Label, Text},
};
use crate::{
    bpf::{Origin, ProbeState},
    collect::Snapshot,
    model::Counts,
};

/// A family: what stands above its samples, and how they are made.
pub(super) struct Family {
    /// Without prefix, and without the suffix of its type.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) samples: Samples,
}

/// What has samples in a family, and which.
pub(super) enum Samples {
    /// Each series, by role, port and protocol.
    Series(fn(&mut Text, &Row)),
    /// Each replica, with the counts of its servers that speak the protocol, all ports and containers together.
    Replicas(Protocol, fn(&mut Text, &Row)),
    /// Each pod that the API server has named, by its labels.
    Pods(fn(&mut Text, &str)),
    /// Each workload, by role and protocol.
    Totals(fn(&mut Text, &Total)),
    /// The daemon.
    Own(fn(&mut Text, &Own)),
}

impl Samples {
    /// Whether the part of a scrape has them.
    pub(super) const fn belong_to(&self, part: Part) -> bool {
        match part {
            Part::All => true,
            Part::Workloads => !matches!(self, Self::Own(_)),
            Part::Own => matches!(self, Self::Own(_)),
        }
    }
}

/// Counts, and the labels of whom they are for.
#[derive(Debug)]
pub(super) struct Row {
    /// As they stand between the braces; the protocol, if there is one, is the last.
    pub(super) labels: String,
    pub(super) protocol: Protocol,
    pub(super) counts: Counts,
}

impl Row {
    /// The labels but for the protocol.
    fn without_protocol(&self) -> &str {
        self.labels.rsplit_once(",protocol=").map_or(&self.labels, |(labels, _)| labels)
    }
}

/// What the daemon says of itself.
#[derive(Debug)]
pub(super) struct Own {
    /// The labels of `observer_build_info`.
    pub(super) build: String,
    /// How it came to its kernel side.
    pub(super) origin: Origin,
    /// What it costs, if `/proc` can be read.
    pub(super) process: Option<Reading>,
    /// What a scrape shows beside the series.
    pub(super) snapshot: Snapshot,
}

/// Endings that are errors of a long-lived connection.
const ERROR_REASONS: [Reason; 5] =
    [Reason::ResetLocal, Reason::ResetPeer, Reason::Timeout, Reason::Aborted, Reason::Unknown];
/// In the order of the counts by direction.
pub(super) const DIRECTIONS: [&str; 2] = ["received", "sent"];

/// Every family but those of [`super::kubernetes`] and [`super::process`], in the order of the text.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "websocket_connections_active",
        kind: Kind::Gauge,
        help: "WebSocket connections that the replica's servers hold now.",
        samples: Samples::Replicas(Protocol::WebSocket, active),
    },
    Family {
        name: "websocket_connections",
        kind: Kind::Counter,
        help: "Connections that became WebSocket on the replica's servers.",
        samples: Samples::Replicas(Protocol::WebSocket, entered),
    },
    Family {
        name: "websocket_errors",
        kind: Kind::Counter,
        help: "WebSocket connections of the replica's servers that ended without an orderly close, and frames that break the protocol, by cause.",
        samples: Samples::Replicas(Protocol::WebSocket, |text, row| {
            errors(text, row);
            text.sample(&row.labels, &[("cause", "invalid_frame")], row.counts.errors);
        }),
    },
    Family {
        name: "grpc_connections_active",
        kind: Kind::Gauge,
        help: "gRPC connections that the replica's servers hold now.",
        samples: Samples::Replicas(Protocol::Grpc, active),
    },
    Family {
        name: "grpc_connections",
        kind: Kind::Counter,
        help: "Connections recognised as gRPC on the replica's servers.",
        samples: Samples::Replicas(Protocol::Grpc, entered),
    },
    Family {
        name: "grpc_errors",
        kind: Kind::Counter,
        help: "gRPC connections of the replica's servers that ended without an orderly close, by cause.",
        samples: Samples::Replicas(Protocol::Grpc, errors),
    },
    Family {
        name: "websocket_messages",
        kind: Kind::Counter,
        help: "Text and binary messages on the replica's server connections, by direction as the server sees it.",
        samples: Samples::Replicas(Protocol::WebSocket, |text, row| {
            all(text, row, "direction", DIRECTIONS, row.counts.messages);
        }),
    },
    Family {
        name: "tcp_connections_active",
        kind: Kind::Gauge,
        help: "Connections open now, by the protocol they speak now.",
        samples: Samples::Series(active),
    },
    Family {
        name: "tcp_connections_opened",
        kind: Kind::Counter,
        help: "Connections that were established. Each is counted once, when its protocol is not known yet.",
        samples: Samples::Series(|text, row| {
            if row.protocol == Protocol::Tcp {
                text.sample(row.without_protocol(), &[], row.counts.opened);
            }
        }),
    },
    Family {
        name: "tcp_connections_adopted",
        kind: Kind::Counter,
        help: "Connections that were open before observer started and were found then. They are not among the opened.",
        samples: Samples::Series(|text, row| {
            if row.counts.adopted != 0 {
                text.sample(row.without_protocol(), &[], row.counts.adopted);
            }
        }),
    },
    Family {
        name: "tcp_connections_identified",
        kind: Kind::Counter,
        help: "Connections found to speak a protocol. One that changes, from HTTP/1 to WebSocket, counts for both.",
        samples: Samples::Series(|text, row| {
            if row.protocol != Protocol::Tcp {
                entered(text, row);
            }
        }),
    },
    Family {
        name: "tcp_connections_closed",
        kind: Kind::Counter,
        help: "Connections that ended, by the protocol they spoke last and by how they ended.",
        samples: Samples::Series(|text, row| {
            for &reason in Reason::ALL {
                let count = row.counts.closed[reason as usize];
                // Orderly ends are always shown, so that a rate starts at zero; the others when they occur.
                if count != 0 || matches!(reason, Reason::Local | Reason::Peer) {
                    text.sample(&row.labels, &[("reason", reason.label())], count);
                }
            }
        }),
    },
    Family {
        name: "tcp_connection_duration_seconds",
        kind: Kind::Histogram,
        help: "Lifetimes of connections that ended, from the established handshake to the end of the socket.",
        samples: Samples::Series(|text, row| {
            text.histogram(&row.labels, &[], &row.counts.lifetime, &LIFETIME_LES);
        }),
    },
    Family {
        name: "tcp_adopted_connection_duration_seconds",
        kind: Kind::Histogram,
        help: "Times from adoption to the end, of adopted connections that ended: how long they lived at least.",
        samples: Samples::Series(|text, row| {
            text.histogram(&row.labels, &[], &row.counts.adopted_lifetime, &LIFETIME_LES);
        }),
    },
    Family {
        name: "tcp_connection_idle_seconds",
        kind: Kind::Histogram,
        help: "Time since the last payload in either direction when a connection ended, by how it ended.",
        samples: Samples::Series(|text, row| {
            for &reason in Reason::ALL {
                let idle = &row.counts.idle[reason as usize];
                text.histogram(&row.labels, &[("reason", reason.label())], idle, &IDLE_LES);
            }
        }),
    },
    Family {
        name: "tcp_round_trip_seconds",
        kind: Kind::Histogram,
        help: "Smoothed round-trip times as the kernel estimates them, sampled at most once a second per connection.",
        samples: Samples::Series(|text, row| {
            text.histogram(&row.labels, &[], &row.counts.rtt, &RTT_LES);
        }),
    },
    Family {
        name: "tcp_payload_bytes",
        kind: Kind::Counter,
        help: "Payload bytes of connections, retransmissions counted once.",
        samples: Samples::Series(|text, row| {
            all(text, row, "direction", DIRECTIONS, row.counts.bytes);
        }),
    },
    Family {
        name: "tcp_retransmits",
        kind: Kind::Counter,
        help: "Segments with payload that were sent again.",
        samples: Samples::Series(|text, row| {
            text.sample(&row.labels, &[], row.counts.retransmits);
        }),
    },
    Family {
        name: "tcp_resets",
        kind: Kind::Counter,
        help: "Resets by direction, and why this node sent them.",
        samples: Samples::Series(|text, row| {
            let sent = ResetCause::ALL.iter().map(|cause| ("sent", cause.label()));
            let causes = [("received", "")].into_iter().chain(sent);
            let counts = [row.counts.resets_received].into_iter().chain(row.counts.resets_sent);
            for ((direction, cause), count) in causes.zip(counts).filter(|(_, count)| *count != 0) {
                text.sample(&row.labels, &[("direction", direction), ("cause", cause)], count);
            }
        }),
    },
    Family {
        name: "tcp_timeouts",
        kind: Kind::Counter,
        help: "Connections, or attempts to connect, that ran out of time.",
        samples: Samples::Series(|text, row| {
            some(text, row, "kind", Timeout::ALL.iter().map(|t| t.label()), row.counts.timeouts);
        }),
    },
    Family {
        name: "tcp_connect_failures",
        kind: Kind::Counter,
        help: "Attempts to connect that failed, by reason.",
        samples: Samples::Series(|text, row| {
            some(text, row, "reason", Failure::ALL.iter().map(|f| f.label()), row.counts.failures);
        }),
    },
    Family {
        name: "tcp_idle_closes",
        kind: Kind::Counter,
        help: "Closes by the peer and resets after 5 s or more without payload, less 50 ms for timers that fire early.",
        samples: Samples::Series(|text, row| {
            text.sample(&row.labels, &[], row.counts.idle_closes);
        }),
    },
    Family {
        name: "observer_build",
        kind: Kind::Info,
        help: "What runs here; the value is always 1.",
        samples: Samples::Own(|text, own| text.sample(&own.build, &[], 1_u64)),
    },
    Family {
        name: "observer_kernel_side",
        kind: Kind::Info,
        help: "Whether the kernel side was created at the start, taken over, or replaced for an incompatible one.",
        samples: Samples::Own(|text, own| {
            text.sample("", &[("origin", own.origin.label())], 1_u64);
        }),
    },
    Family {
        name: "observer_lost",
        kind: Kind::Counter,
        help: "What was lost, by kind; see the metric reference for what each kind makes incomplete.",
        samples: Samples::Own(|text, own| {
            for (loss, count) in &own.snapshot.losses {
                text.sample("", &[("kind", loss.label())], *count);
            }
            text.sample("", &[("kind", "undecodable_cell")], own.snapshot.undecodable);
        }),
    },
    Family {
        name: "observer_probe_active",
        kind: Kind::Gauge,
        help: "1 for a kernel program that is attached, 0 for one that this kernel does not allow.",
        samples: Samples::Own(|text, own| {
            for (probe, state) in &own.snapshot.probes {
                let labels = [("program", probe.program), ("hook", probe.hook.name())];
                text.sample("", &labels, u64::from(*state == ProbeState::Active));
            }
        }),
    },
    Family {
        name: "observer_probe_skips",
        kind: Kind::Counter,
        help: "Runs of a kernel program that the kernel skipped because it was already running on the processor.",
        samples: Samples::Own(|text, own| {
            for (probe, misses) in &own.snapshot.misses {
                text.sample("", &[("program", probe.program)], *misses);
            }
        }),
    },
    Family {
        name: "observer_cells_used",
        kind: Kind::Gauge,
        help: "Cells of the kernel's table that are in use.",
        samples: Samples::Own(|text, own| text.sample("", &[], own.snapshot.cells.0)),
    },
    Family {
        name: "observer_cells_capacity",
        kind: Kind::Gauge,
        help: "Cells of the kernel's table.",
        samples: Samples::Own(|text, own| text.sample("", &[], own.snapshot.cells.1)),
    },
    Family {
        name: "observer_cgroups_skipped",
        kind: Kind::Gauge,
        help: "Cgroup directories that the last walk did not read.",
        samples: Samples::Own(|text, own| text.sample("", &[], own.snapshot.cgroups_skipped)),
    },
    Family {
        name: "observer_censuses",
        kind: Kind::Counter,
        help: "Censuses of the sockets: looks for connections that have ended without any hook telling.",
        samples: Samples::Own(|text, own| {
            if let Some((count, _)) = own.snapshot.censuses {
                text.sample("", &[], count);
            }
        }),
    },
    Family {
        name: "observer_census_seconds",
        kind: Kind::Counter,
        help: "Time that the censuses took.",
        samples: Samples::Own(|text, own| {
            if let Some((_, took)) = own.snapshot.censuses {
                text.number(took.as_secs_f64());
            }
        }),
    },
];

fn active(text: &mut Text, row: &Row) {
    text.sample(&row.labels, &[], row.counts.active);
}

fn entered(text: &mut Text, row: &Row) {
    text.sample(&row.labels, &[], row.counts.entered);
}

fn errors(text: &mut Text, row: &Row) {
    for reason in ERROR_REASONS {
        let count = row.counts.closed[reason as usize];
        text.sample(&row.labels, &[("cause", reason.label())], count);
    }
}

/// A sample for each value, with its name as the label `label`.
fn all<const N: usize>(
    text: &mut Text,
    row: &Row,
    label: &str,
    names: [&'static str; N],
    values: [u64; N],
) {
    for (name, value) in names.into_iter().zip(values) {
        text.sample(&row.labels, &[(label, name)], value);
    }
}

/// As [`all`], for the values that are not 0.
fn some<const N: usize>(
    text: &mut Text,
    row: &Row,
    label: &str,
    names: impl Iterator<Item = &'static str>,
    values: [u64; N],
) {
    for (name, value) in names.zip(values).filter(|(_, value)| *value != 0) {
        let more: [Label<'_>; 1] = [(label, name)];
        text.sample(&row.labels, &more, value);
    }
}

/// Upper bounds of the lifetime buckets in seconds, as text.
static LIFETIME_LES: LazyLock<[String; LIFETIME_USED]> =
    LazyLock::new(|| les(|bucket| 2_f64.powi(bucket as i32 - 10)));
/// Upper bounds of the idle buckets in seconds, as text.
static IDLE_LES: LazyLock<[String; IDLE_USED]> =
    LazyLock::new(|| les(|bucket| f64::from(IDLE_BOUNDS[bucket])));
/// Upper bounds of the round-trip time buckets in seconds, as text.
static RTT_LES: LazyLock<[String; RTT_BUCKETS]> =
    LazyLock::new(|| les(|bucket| 16e-6 * 2_f64.powi(bucket as i32)));

/// The bounds of `N` buckets; the last has none.
fn les<const N: usize>(bound: impl Fn(usize) -> f64) -> [String; N] {
    std::array::from_fn(
        |bucket| {
            if bucket + 1 == N { "+Inf".to_owned() } else { decimal(bound(bucket)) }
        },
    )
}

/// A number as `OpenMetrics` wants it: with a point, and no exponent.
fn decimal(number: f64) -> String {
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_decimal() {
        assert_eq!((&*LIFETIME_LES[0], &*LIFETIME_LES[10]), ("0.0009765625", "1.0"));
        assert_eq!((&*LIFETIME_LES[27], &*LIFETIME_LES[28]), ("131072.0", "+Inf"));
        assert_eq!((&*IDLE_LES[7], &*IDLE_LES[27]), ("59.0", "+Inf"));
        assert_eq!((&*RTT_LES[0], &*RTT_LES[1], &*RTT_LES[19]), ("0.000016", "0.000032", "+Inf"));
    }
}
