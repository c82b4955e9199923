//! The families that Kubernetes adds: who the pods are, what their workloads have counted, how the watch is doing.

use observer_common::{
    counters::{Counter, Level},
    protocol::{Protocol, websocket::counters as websocket},
    wire::slot,
};

use super::{
    families::combinations,
    family::{Family, Kind, Samples},
    out::{Bare, Out},
    rows::{Own, Total},
};
use crate::{attribute::Trouble, collect::Kubernetes};

/// The families; those about the names have no samples when nobody names pods.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "workload_pod",
        kind: Kind::Info,
        help: "A pod of this node and who looks after it; the value is always 1.",
        level: Level::Core,
        samples: Samples::Pods(|out, pod, node| {
            let labels = [
                ("namespace", pod.workload.namespace.as_str()),
                ("pod", &pod.pod),
                ("uid", &pod.uid),
                ("node", node),
                ("workload_kind", &pod.workload.kind),
                ("workload", &pod.workload.name),
            ];
            out.sample(&Bare, &labels, None, 1_u64);
        }),
    },
    Family {
        name: "workload_tcp_connections_opened",
        kind: Kind::Counter,
        help: "Connections that were established by a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| {
            // Each is counted when its protocol is not known yet.
            if total.protocol() == Protocol::Tcp {
                out.sample(total, &[], total.since(), total.counts.one(&slot::OPENED));
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_identified",
        kind: Kind::Counter,
        help: "Connections found to speak a protocol, by a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| {
            if total.protocol() != Protocol::Tcp {
                let protocol = ("protocol", total.protocol().label());
                out.sample(total, &[protocol], total.since(), total.counts.one(&slot::ENTERED));
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_closed",
        kind: Kind::Counter,
        help: "Connections that ended, of a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| some(out, total, &slot::CLOSED)),
    },
    Family {
        name: "workload_tcp_connect_failures",
        kind: Kind::Counter,
        help: "Attempts to connect that failed, of a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| some(out, total, &slot::FAILED)),
    },
    Family {
        name: "workload_tcp_payload_bytes",
        kind: Kind::Counter,
        help: "Payload bytes of a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| some(out, total, &slot::BYTES)),
    },
    Family {
        name: "workload_websocket_messages",
        kind: Kind::Counter,
        help: "Text and binary messages of a workload's pods on this node, those that are gone included.",
        level: Level::Standard,
        samples: Samples::Totals(|out, total| {
            if total.protocol() == Protocol::WebSocket {
                some(out, total, &websocket::MESSAGES);
            }
        }),
    },
    Family {
        name: "observer_kube_watch_active",
        kind: Kind::Gauge,
        help: "1 while the names of pods are those that the API server has, 0 while it cannot be asked. None with `--kube off`.",
        level: Level::Core,
        samples: Samples::Own(|out, own| gauge(out, own, |k| u64::from(k.health.current))),
    },
    Family {
        name: "observer_kube_pods",
        kind: Kind::Gauge,
        help: "Pods that the API server has on this node.",
        level: Level::Core,
        samples: Samples::Own(|out, own| gauge(out, own, |k| k.health.pods)),
    },
    Family {
        name: "observer_kube_pods_unnamed",
        kind: Kind::Gauge,
        help: "Pods with a cgroup on this node that the API server has not named yet.",
        level: Level::Core,
        samples: Samples::Own(|out, own| gauge(out, own, |k| k.unnamed)),
    },
    Family {
        name: "observer_kube_watch_errors",
        kind: Kind::Counter,
        help: "What went wrong with the watch of the API server, by kind; it is started anew each time.",
        level: Level::Core,
        samples: Samples::Own(|out, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                for (trouble, count) in Trouble::ALL.into_iter().zip(known.health.troubles) {
                    out.own(&[("kind", trouble.label())], count);
                }
            }
        }),
    },
];

fn gauge(out: &mut Out<'_, '_>, own: &Own, value: impl Fn(&Kubernetes) -> u64) {
    if let Some(known) = &own.snapshot.kubernetes {
        out.own(&[], value(known));
    }
}

/// A sample for each value of a counter that is not 0, with its labels.
fn some(out: &mut Out<'_, '_>, total: &Total, counter: &Counter) {
    for (combination, mut labels) in combinations(counter) {
        let count = total.counts.count(counter, combination);
        if count != 0 {
            labels.insert(0, ("protocol", total.protocol().label()));
            out.sample(total, &labels, total.since(), count);
        }
    }
}
