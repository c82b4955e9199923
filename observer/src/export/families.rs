//! Every exported family: name, type, help, labels. Most are counters of the tables in `observer-common`; what is written here
//! is what is made of several. The README's reference is checked against them by a test.

use observer_common::{
    counters::{Counter, Owner, Rows, Shape, Zeros},
    label::{Reason, ResetCause},
    protocol::{BLOCKS, Protocol, websocket::counters as websocket},
    wire::slot,
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
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Without prefix, and without the suffix of its type.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) samples: Samples,
}

/// What has samples in a family, and which.
#[derive(Clone, Copy)]
pub(super) enum Samples {
    /// A counter of the tables.
    Counter(&'static Counter, Rows, Zeros),
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
        Some(Family { name: family.name, kind, help: family.help, samples })
    })
}

/// Those that are made of several, or show a counter in another way.
pub(super) static DERIVED: &[Family] = &[
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
            let invalid = row.counts.one(&websocket::INVALID_FRAMES);
            text.sample(&row.labels, &[("cause", "invalid_frame")], invalid);
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
                text.sample(row.without_protocol(), &[], row.counts.one(&slot::OPENED));
            }
        }),
    },
    Family {
        name: "tcp_connections_adopted",
        kind: Kind::Counter,
        help: "Connections that were open before observer started and were found then. They are not among the opened.",
        samples: Samples::Series(|text, row| {
            let adopted = row.counts.one(&slot::ADOPTED);
            if adopted != 0 {
                text.sample(row.without_protocol(), &[], adopted);
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
        name: "tcp_resets",
        kind: Kind::Counter,
        help: "Resets by direction, and why this node sent them.",
        samples: Samples::Series(|text, row| {
            let mut sample = |direction, cause, count| {
                if count != 0 {
                    text.sample(&row.labels, &[("direction", direction), ("cause", cause)], count);
                }
            };
            sample("received", "", row.counts.one(&slot::RESETS_RECEIVED));
            for &cause in ResetCause::ALL {
                sample("sent", cause.label(), row.counts.count(&slot::RESETS_SENT, cause as usize));
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
    // A reader that comes between two words may see less than none.
    text.sample(&row.labels, &[], row.counts.active().max(0));
}

fn entered(text: &mut Text, row: &Row) {
    text.sample(&row.labels, &[], row.counts.one(&slot::ENTERED));
}

fn errors(text: &mut Text, row: &Row) {
    for reason in ERROR_REASONS {
        let count = row.counts.count(&slot::CLOSED, reason as usize);
        text.sample(&row.labels, &[("cause", reason.label())], count);
    }
}

/// The samples of a counter of the tables; none for a row whose cells have none of it.
pub(super) fn counted(text: &mut Text, row: &Row, counter: &Counter, zeros: Zeros) {
    if matches!(counter.owner, Owner::Protocol(protocol) if protocol != row.protocol) {
        return;
    }
    for (combination, labels) in combinations(counter) {
        if let Shape::Histogram(_) = counter.shape {
            if let Some(histogram) = row.counts.histogram(counter, combination) {
                text.histogram(&row.labels, &labels, histogram);
            }
            continue;
        }
        let count = row.counts.count(counter, combination);
        let shown = match zeros {
            Zeros::All => true,
            Zeros::None => false,
            Zeros::Of(values) => values.contains(&combination),
        };
        if shown || count != 0 {
            text.sample(&row.labels, &labels, count);
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
