//! The families that Kubernetes adds: who the pods are, what their workloads have counted, how the watch is doing.

use observer_common::{
    counters::Counter,
    protocol::{Protocol, websocket::counters as websocket},
    wire::slot,
};

use super::{
    families::{Family, Own, Samples, combinations},
    text::{Kind, Text, labels},
};
use crate::{
    aggregate::TotalKey,
    attribute::Trouble,
    collect::{Kubernetes, NamedPod, Snapshot},
    model::Counts,
};

/// What a workload has counted, and its labels.
#[derive(Debug)]
pub(super) struct Total {
    /// As they stand between the braces.
    labels: String,
    protocol: Protocol,
    totals: Counts,
}

impl From<(TotalKey, Counts)> for Total {
    fn from((key, totals): (TotalKey, Counts)) -> Self {
        let labels = labels(&[
            ("namespace", &key.workload.namespace),
            ("workload_kind", &key.workload.kind),
            ("workload", &key.workload.name),
            ("role", key.role.label()),
        ]);
        Self { labels, protocol: key.protocol, totals }
    }
}

/// Takes the pods and the totals out of a snapshot.
pub(super) fn take(snapshot: &mut Snapshot) -> (Vec<NamedPod>, Vec<(TotalKey, Counts)>) {
    let known = snapshot.kubernetes.as_mut();
    known.map(|k| (std::mem::take(&mut k.pods), std::mem::take(&mut k.totals))).unwrap_or_default()
}

/// The labels of a pod.
pub(super) fn pod(pod: &NamedPod, node: &str) -> String {
    let NamedPod { uid, pod, workload, .. } = pod;
    labels(&[
        ("namespace", &workload.namespace),
        ("pod", pod),
        ("uid", uid),
        ("node", node),
        ("workload_kind", &workload.kind),
        ("workload", &workload.name),
    ])
}

/// The families; those about the names have no samples when nobody names pods.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "workload_pod",
        kind: Kind::Info,
        help: "A pod of this node and who looks after it; the value is always 1.",
        samples: Samples::Pods(|text, pod| text.sample(pod, &[], 1_u64)),
    },
    Family {
        name: "workload_tcp_connections_opened",
        kind: Kind::Counter,
        help: "Connections that were established by a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| {
            // Each is counted when its protocol is not known yet.
            if total.protocol == Protocol::Tcp {
                text.sample(&total.labels, &[], total.totals.one(&slot::OPENED));
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_identified",
        kind: Kind::Counter,
        help: "Connections found to speak a protocol, by a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| {
            if total.protocol != Protocol::Tcp {
                let protocol = ("protocol", total.protocol.label());
                text.sample(&total.labels, &[protocol], total.totals.one(&slot::ENTERED));
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_closed",
        kind: Kind::Counter,
        help: "Connections that ended, of a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| some(text, total, &slot::CLOSED)),
    },
    Family {
        name: "workload_tcp_connect_failures",
        kind: Kind::Counter,
        help: "Attempts to connect that failed, of a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| some(text, total, &slot::FAILED)),
    },
    Family {
        name: "workload_tcp_payload_bytes",
        kind: Kind::Counter,
        help: "Payload bytes of a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| some(text, total, &slot::BYTES)),
    },
    Family {
        name: "workload_websocket_messages",
        kind: Kind::Counter,
        help: "Text and binary messages of a workload's pods on this node, those that are gone included.",
        samples: Samples::Totals(|text, total| {
            if total.protocol == Protocol::WebSocket {
                some(text, total, &websocket::MESSAGES);
            }
        }),
    },
    Family {
        name: "observer_kube_watch_active",
        kind: Kind::Gauge,
        help: "1 while the names of pods are those that the API server has, 0 while it cannot be asked.",
        samples: Samples::Own(|text, own| gauge(text, own, |k| u64::from(k.health.current))),
    },
    Family {
        name: "observer_kube_pods",
        kind: Kind::Gauge,
        help: "Pods that the API server has on this node.",
        samples: Samples::Own(|text, own| gauge(text, own, |k| k.health.pods)),
    },
    Family {
        name: "observer_kube_pods_unnamed",
        kind: Kind::Gauge,
        help: "Pods with a cgroup on this node that the API server has not named yet.",
        samples: Samples::Own(|text, own| gauge(text, own, |k| k.unnamed)),
    },
    Family {
        name: "observer_kube_watch_errors",
        kind: Kind::Counter,
        help: "What went wrong with the watch of the API server, by kind; it is started anew each time.",
        samples: Samples::Own(|text, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                for (trouble, count) in Trouble::ALL.into_iter().zip(known.health.troubles) {
                    text.sample("", &[("kind", trouble.label())], count);
                }
            }
        }),
    },
];

fn gauge(text: &mut Text, own: &Own, value: impl Fn(&Kubernetes) -> u64) {
    if let Some(known) = &own.snapshot.kubernetes {
        text.sample("", &[], value(known));
    }
}

/// A sample for each value of a counter that is not 0, with its labels.
fn some(text: &mut Text, total: &Total, counter: &Counter) {
    for (combination, mut labels) in combinations(counter) {
        let count = total.totals.count(counter, combination);
        if count != 0 {
            labels.insert(0, ("protocol", total.protocol.label()));
            text.sample(&total.labels, &labels, count);
        }
    }
}
