//! Every exported family: name, type, help, labels. Most are counters of the tables in `observer-common`; what is written here
//! is what is made of several. `docs/metrics.md` is written from them.

use observer_common::{
    counters::{Counter, Level, Shape},
    label::{Reason, ResetCause},
    protocol::{BLOCKS, Protocol, websocket::counters as websocket},
    wire::slot,
};

use super::{
    encode::lock,
    family::{Family, Kind, Samples},
    out::{Bare, Label, Out},
    rows::{Own, Row},
};
use crate::bpf::ProbeState;

/// Endings that are errors of a long-lived connection.
const ERROR_REASONS: [Reason; 5] =
    [Reason::ResetLocal, Reason::ResetPeer, Reason::Timeout, Reason::Aborted, Reason::Unknown];

/// Those that are one counter of the tables.
pub(super) fn of_counters() -> impl Iterator<Item = Family> {
    let blocks = [&slot::BASE, &slot::ENDS].into_iter().chain(BLOCKS.iter().copied());
    blocks.flat_map(|block| block.counters).filter_map(|counter| {
        let family = counter.family?;
        let kind = match counter.shape {
            Shape::Count => Kind::Counter,
            Shape::Histogram(_) => Kind::Histogram,
        };
        let samples = Samples::Counter(counter, family.rows, family.zeros);
        let (name, help, level) = (family.name, family.help, family.level);
        Some(Family { name, kind, help, level, samples })
    })
}

/// Those that are made of several, or show a counter in another way.
pub(super) static DERIVED: &[Family] = &[
    Family {
        name: "websocket_connections_active",
        kind: Kind::Gauge,
        help: "WebSocket connections that the replica's users hold now, each counted once, whatever relays are in the pod.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::WebSocket, users),
    },
    Family {
        name: "websocket_connections_relayed",
        kind: Kind::Gauge,
        help: "WebSocket connections that the replica holds for its users and relays to other pods, which hold them as well.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::WebSocket, relayed),
    },
    Family {
        name: "websocket_connections",
        kind: Kind::Counter,
        help: "WebSocket connections that the replica's users have had, each counted once.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::WebSocket, entered),
    },
    Family {
        name: "websocket_errors",
        kind: Kind::Counter,
        help: "WebSocket connections of the replica's users that ended without an orderly close, and frames that break the protocol, by cause.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::WebSocket, |out, row| {
            errors(out, row);
            if !row.is_idle {
                let invalid = row.counts.one(&websocket::INVALID_FRAMES);
                out.sample(row, &[("cause", "invalid_frame")], row.since(), invalid);
            }
        }),
    },
    Family {
        name: "grpc_connections_active",
        kind: Kind::Gauge,
        help: "gRPC connections that the replica's users hold now, each counted once, whatever relays are in the pod.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::Grpc, users),
    },
    Family {
        name: "grpc_connections_relayed",
        kind: Kind::Gauge,
        help: "gRPC connections that the replica holds for its users and relays to other pods, which hold them as well.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::Grpc, relayed),
    },
    Family {
        name: "grpc_connections",
        kind: Kind::Counter,
        help: "gRPC connections that the replica's users have had, each counted once.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::Grpc, entered),
    },
    Family {
        name: "grpc_errors",
        kind: Kind::Counter,
        help: "gRPC connections of the replica's users that ended without an orderly close, by cause.",
        level: Level::Core,
        samples: Samples::Replicas(Protocol::Grpc, errors),
    },
    Family {
        name: "tcp_connections_active",
        kind: Kind::Gauge,
        help: "Connections open now, by the protocol they speak now.",
        level: Level::Core,
        samples: Samples::Present(active),
    },
    Family {
        name: "tcp_connections_opened",
        kind: Kind::Counter,
        help: "Connections that were established. Each is counted once, when its protocol is not known yet.",
        level: Level::Core,
        samples: Samples::Series(|out, row| {
            if row.protocol == Protocol::Tcp {
                let opened = row.counts.one(&slot::OPENED);
                out.sample(&row.without_protocol(), &[], row.since(), opened);
            }
        }),
    },
    Family {
        name: "tcp_connections_adopted",
        kind: Kind::Counter,
        help: "Connections that were open before observer started and were found then. They are not among the opened.",
        level: Level::Standard,
        samples: Samples::Series(|out, row| {
            let adopted = row.counts.one(&slot::ADOPTED);
            if adopted != 0 {
                out.sample(&row.without_protocol(), &[], row.since(), adopted);
            }
        }),
    },
    Family {
        name: "tcp_connections_unrecognised",
        kind: Kind::Gauge,
        help: "Adopted connections of which it is not known yet what they speak. They are among the active.",
        level: Level::Standard,
        samples: Samples::Series(|out, row| {
            let adopted = row.counts.one(&slot::ADOPTED);
            if adopted != 0 {
                let settled = row.counts.one(&slot::SETTLED);
                out.sample(&row.without_protocol(), &[], None, adopted.saturating_sub(settled));
            }
        }),
    },
    Family {
        name: "tcp_connections_identified",
        kind: Kind::Counter,
        help: "Connections found to speak a protocol. One that changes, from HTTP/1 to WebSocket, counts for both.",
        level: Level::Standard,
        samples: Samples::Series(|out, row| {
            if row.protocol != Protocol::Tcp {
                entered(out, row);
            }
        }),
    },
    Family {
        name: "tcp_resets",
        kind: Kind::Counter,
        help: "Resets by direction, and why this node sent them. The cause of one that was received is empty.",
        level: Level::Standard,
        samples: Samples::Series(|out, row| {
            let mut sample = |direction, cause, count| {
                if count != 0 {
                    let labels = [("direction", direction), ("cause", cause)];
                    out.sample(row, &labels, row.since(), count);
                }
            };
            sample("received", "", row.counts.one(&slot::RESETS_RECEIVED));
            for &cause in ResetCause::ALL {
                sample("sent", cause.label(), row.counts.count(&slot::RESETS_SENT, cause as usize));
            }
        }),
    },
];

/// What is found in records.
pub(super) static FOUND: &[Family] = &[Family {
    name: "tcp_idle_cut_seconds",
    kind: Kind::Gauge,
    help: "Silence after which one side ends connections again and again: a timer, found among the last ends. None without one.",
    level: Level::Standard,
    samples: Samples::Cuts(|out, whose, cut| {
        let labels = [
            ("namespace", whose.namespace.as_str()),
            ("pod", &whose.pod),
            ("role", whose.role.label()),
            ("protocol", whose.protocol.label()),
            ("side", whose.side.label()),
        ];
        out.sample(&Bare, &labels, None, cut.seconds);
    }),
}];

/// What is not known of pods.
pub(super) static TRUST: &[Family] = &[
    Family {
        name: "observer_pod_withheld",
        kind: Kind::Gauge,
        help: "1 while a pod's gauges of WebSocket and gRPC connections are withheld, since they cannot be known, by reason.",
        level: Level::Core,
        samples: Samples::Trust(|out, pod| {
            if let Some(reason) = pod.withheld {
                let labels = [
                    ("namespace", pod.namespace.as_str()),
                    ("pod", &pod.pod),
                    ("reason", reason.label()),
                ];
                out.sample(&Bare, &labels, None, 1_u64);
            }
        }),
    },
    Family {
        name: "observer_pod_unread_connections",
        kind: Kind::Gauge,
        help: "Connections that a pod's servers hold now and that cannot be read, or are not recognised yet.",
        level: Level::Core,
        samples: Samples::Trust(|out, pod| {
            if let Some(unread) = pod.unread {
                let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.pod)];
                out.sample(&Bare, &labels, None, unread);
            }
        }),
    },
];

/// Those of the daemon itself.
pub(super) static OWN: &[Family] = &[
    Family {
        name: "observer_build",
        kind: Kind::Info,
        help: "What runs here; the value is always 1.",
        level: Level::Core,
        samples: Samples::Own(build),
    },
    Family {
        name: "observer_kernel_side",
        kind: Kind::Info,
        help: "How this daemon came by its kernel side: `created` at the start, `taken_over` from an earlier daemon, `updated` likewise but with the programs of another build in the place of its own, or `replaced` because what an earlier one had left could not be used.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            out.own(&[("origin", own.about.origin.label())], 1_u64);
        }),
    },
    Family {
        name: "observer_lost",
        kind: Kind::Counter,
        help: "What was lost, by kind; see the metric reference for what each kind makes incomplete.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            for (loss, count) in &own.snapshot.losses {
                out.own(&[("kind", loss.label())], *count);
            }
        }),
    },
    Family {
        name: "observer_probe_active",
        kind: Kind::Gauge,
        help: "1 for a kernel program that is attached, 0 for one that this kernel does not allow.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            for (probe, state) in &own.snapshot.probes {
                let labels = [("program", probe.program), ("hook", probe.hook.name())];
                out.own(&labels, u64::from(*state == ProbeState::Active));
            }
        }),
    },
    Family {
        name: "observer_probe_skips",
        kind: Kind::Counter,
        help: "Runs of a kernel program that the kernel skipped because it was already running on the processor.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            for (probe, misses) in &own.snapshot.misses {
                out.own(&[("program", probe.program)], *misses);
            }
        }),
    },
    Family {
        name: "observer_series",
        kind: Kind::Gauge,
        help: "Series that the last scrape of the workloads had, by family.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            for (family, count) in &*lock(&own.served) {
                out.own(&[("family", family)], *count);
            }
        }),
    },
    Family {
        name: "observer_cells_used",
        kind: Kind::Gauge,
        help: "Cells of the kernel's table that are in use.",
        level: Level::Core,
        samples: Samples::Own(|out, own| out.own(&[], own.snapshot.cells.0)),
    },
    Family {
        name: "observer_cells_capacity",
        kind: Kind::Gauge,
        help: "Cells of the kernel's table.",
        level: Level::Core,
        samples: Samples::Own(|out, own| out.own(&[], own.snapshot.cells.1)),
    },
    Family {
        name: "observer_cells_undecodable",
        kind: Kind::Gauge,
        help: "Cells of the kernel's table that hold numbers of another version: their counts are not shown.",
        level: Level::Core,
        samples: Samples::Own(|out, own| out.own(&[], own.snapshot.undecodable)),
    },
    Family {
        name: "observer_log_lines_dropped",
        kind: Kind::Counter,
        help: "Lines that were dropped because standard error was not read, by log.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            for (log, count) in own.about.dropped.read() {
                out.own(&[("log", log)], count);
            }
        }),
    },
    Family {
        name: "observer_cgroups_skipped",
        kind: Kind::Gauge,
        help: "Cgroup directories that the last walk did not read: forbidden, too deep or too many.",
        level: Level::Core,
        samples: Samples::Own(|out, own| out.own(&[], own.snapshot.cgroups_skipped)),
    },
    Family {
        name: "observer_reconciliations",
        kind: Kind::Counter,
        help: "Reconciliations of the sockets, which find connections that ended without any hook noticing. None where the kernel refuses them.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            if let Some((count, _)) = own.snapshot.reconciliations {
                out.own(&[], count);
            }
        }),
    },
    Family {
        name: "observer_reconciliation_seconds",
        kind: Kind::Counter,
        help: "Time that the reconciliations took, in seconds.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            if let Some((_, took)) = own.snapshot.reconciliations {
                out.own(&[], took.as_secs_f64());
            }
        }),
    },
];

fn active(out: &mut Out<'_, '_>, row: &Row) {
    // A reader that comes between two words may see less than none.
    out.sample(row, &[], None, row.counts.active().max(0).cast_unsigned());
}

/// Those of a replica's users: no number rather than one that may be too small.
fn users(out: &mut Out<'_, '_>, row: &Row) {
    if !row.is_withheld {
        active(out, row);
    }
}

fn relayed(out: &mut Out<'_, '_>, row: &Row) {
    if let Some(relayed) = row.relayed.filter(|_| !row.is_withheld) {
        out.sample(row, &[], None, relayed.max(0).cast_unsigned());
    }
}

fn entered(out: &mut Out<'_, '_>, row: &Row) {
    out.sample(row, &[], row.since(), row.counts.one(&slot::ENTERED));
}

fn errors(out: &mut Out<'_, '_>, row: &Row) {
    for reason in ERROR_REASONS.into_iter().filter(|_| !row.is_idle) {
        let count = row.counts.count(&slot::CLOSED, reason as usize);
        out.sample(row, &[("cause", reason.label())], row.since(), count);
    }
}

fn build(out: &mut Out<'_, '_>, own: &Own) {
    let (abi, about) = (format!("{:016x}", observer_common::abi::ABI), &own.about);
    out.own(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", option_env!("OBSERVER_GIT_REVISION").unwrap_or("")),
            ("rustc", option_env!("OBSERVER_RUSTC_VERSION").unwrap_or("")),
            ("abi", &abi),
            ("kernel", &about.kernel),
            ("node", &about.node),
        ],
        1_u64,
    );
}

/// Whether what a row has of a counter is worth telling: times idle are where something was cut, since the last payload of most
/// connections is their end.
pub(super) fn tells(counter: &Counter, row: &Row) -> bool {
    *counter != slot::IDLE || row.counts.one(&slot::IDLE_CLOSES) != 0
}

/// The samples that a row has of a counter of the tables; `zero` tells which values are shown before they have been counted.
pub(super) fn counted(
    out: &mut Out<'_, '_>,
    row: &Row,
    counter: &Counter,
    combinations: &[(usize, Vec<Label<'static>>)],
    zero: impl Fn(usize) -> bool,
) {
    let had_connections = row.had_connections();
    for (combination, labels) in combinations {
        if let Shape::Histogram(_) = counter.shape {
            if let Some(histogram) = row.counts.histogram(counter, *combination) {
                out.histogram(row, labels, row.since(), histogram);
            }
            continue;
        }
        let count = row.counts.count(counter, *combination);
        if count != 0 || (had_connections && zero(*combination)) {
            out.sample(row, labels, row.since(), count);
        }
    }
}

/// The combinations of a counter's label values, with their labels.
pub(super) fn combinations(
    counter: &Counter,
) -> impl Iterator<Item = (usize, Vec<Label<'static>>)> + use<> {
    let mut all = vec![(0, Vec::new())];
    for label in counter.labels {
        let values = || label.values.iter().enumerate();
        all = all
            .into_iter()
            .flat_map(|(before, labels)| {
                values().map(move |(number, value)| {
                    let mut labels = labels.clone();
                    labels.push((label.name, *value));
                    (before * Counter::places(label) + number, labels)
                })
            })
            .collect();
    }
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use observer_common::{counters, counters::Owner, label::Direction};

    use super::*;

    const KIND: counters::Label =
        counters::Label { name: "kind", values: &["ping", "pong", "close"] };

    observer_common::counters! {
        /// A block of this test.
        BLOCK: Owner::Protocol(Protocol::WebSocket as u8), from 3;
        words {
            /// Frames, by kind and direction.
            FRAMES: 8 by [KIND, Direction::LABEL];
        }
        shares {}
    }

    #[test]
    fn the_last_label_counts_fastest() {
        let all: Vec<_> = combinations(&FRAMES).collect();
        assert_eq!((all.len(), BLOCK.counters.len()), (6, 1));
        assert_eq!(all[3], (3, vec![("kind", "pong"), ("direction", "sent")]));
        assert_eq!(all[4].0, 4);
    }
}
