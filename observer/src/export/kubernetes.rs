//! The families that Kubernetes adds: who the pods are, what their workloads have counted, how the watch is doing.
//!
//! Without an API server there are no samples, only the families.

use observer_common::protocol::{Failure, Protocol, Reason};

use super::{
    families::{DIRECTIONS, Family, Own, Samples},
    text::{Kind, Label, Text, append, labels},
};
use crate::{
    aggregate::{TotalKey, Totals},
    attribute::Trouble,
    collect::NamedPod,
};

/// All of them, in the order of the text.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "observer_pod",
        kind: Kind::Info,
        help: "A pod of this node and who looks after it; the value is always 1.",
        samples: Samples::Node(|text, own| {
            for NamedPod { uid, pod, workload, .. } in
                own.snapshot.kubernetes.iter().flat_map(|known| &known.pods)
            {
                let labels = [
                    ("namespace", workload.namespace.as_str()),
                    ("pod", pod),
                    ("uid", uid),
                    ("node", &own.node),
                    ("workload_kind", &workload.kind),
                    ("workload", &workload.name),
                ];
                text.sample("", &labels, 1_u64);
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_opened",
        kind: Kind::Counter,
        help: "Connections that were established by a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            for (key, totals) in totals(own) {
                // Each is counted when its protocol is not known yet.
                if key.protocol == Protocol::Tcp {
                    text.sample(&workload(key), &[], totals.opened);
                }
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_identified",
        kind: Kind::Counter,
        help: "Connections found to speak a protocol, by a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            for (key, totals) in totals(own) {
                if key.protocol != Protocol::Tcp {
                    text.sample(&with_protocol(key), &[], totals.entered);
                }
            }
        }),
    },
    Family {
        name: "workload_tcp_connections_closed",
        kind: Kind::Counter,
        help: "Connections that ended, of a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            let names = std::array::from_fn(|index| Reason::ALL[index].label());
            each(text, own, "reason", names, |totals| &totals.closed);
        }),
    },
    Family {
        name: "workload_tcp_connect_failures",
        kind: Kind::Counter,
        help: "Attempts to connect that failed, of a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            let names = std::array::from_fn(|index| Failure::ALL[index].label());
            each(text, own, "reason", names, |totals| &totals.failures);
        }),
    },
    Family {
        name: "workload_tcp_payload_bytes",
        kind: Kind::Counter,
        help: "Payload bytes of a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            each(text, own, "direction", DIRECTIONS, |totals| &totals.bytes);
        }),
    },
    Family {
        name: "workload_websocket_messages",
        kind: Kind::Counter,
        help: "Text and binary messages of a workload's pods on this node, those that are gone included.",
        samples: Samples::Node(|text, own| {
            for (key, totals) in totals(own).filter(|(key, _)| key.protocol == Protocol::WebSocket)
            {
                for (direction, count) in DIRECTIONS.into_iter().zip(totals.messages) {
                    text.sample(&with_protocol(key), &[("direction", direction)], count);
                }
            }
        }),
    },
    Family {
        name: "observer_kube_watch_active",
        kind: Kind::Gauge,
        help: "1 while the names of pods are those that the API server has, 0 while it cannot be asked.",
        samples: Samples::Own(|text, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                text.sample("", &[], u64::from(known.health.current));
            }
        }),
    },
    Family {
        name: "observer_kube_pods",
        kind: Kind::Gauge,
        help: "Pods that the API server has on this node.",
        samples: Samples::Own(|text, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                text.sample("", &[], known.health.pods);
            }
        }),
    },
    Family {
        name: "observer_kube_pods_unnamed",
        kind: Kind::Gauge,
        help: "Pods with a cgroup on this node that the API server has not named yet.",
        samples: Samples::Own(|text, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                text.sample("", &[], known.unnamed);
            }
        }),
    },
    Family {
        name: "observer_kube_watch_errors",
        kind: Kind::Counter,
        help: "What went wrong with the watch of the API server, by kind; it is started anew each time.",
        samples: Samples::Own(|text, own| {
            if let Some(known) = &own.snapshot.kubernetes {
                for (kind, count) in Trouble::ALL.into_iter().zip(known.health.troubles) {
                    text.sample("", &[("kind", kind.label())], count);
                }
            }
        }),
    },
];

fn totals(own: &Own) -> impl Iterator<Item = &(TotalKey, Totals)> {
    own.snapshot.kubernetes.iter().flat_map(|known| &known.totals)
}

fn workload(key: &TotalKey) -> String {
    labels(&[
        ("namespace", &key.workload.namespace),
        ("workload_kind", &key.workload.kind),
        ("workload", &key.workload.name),
        ("role", key.role.label()),
    ])
}

fn with_protocol(key: &TotalKey) -> String {
    let mut labels = workload(key);
    append(&mut labels, &[("protocol", key.protocol.label())]);
    labels
}

/// A sample for each value that is not 0, with its name as the label `label`.
fn each<const N: usize>(
    text: &mut Text,
    own: &Own,
    label: &'static str,
    names: [&'static str; N],
    values: impl Fn(&Totals) -> &[u64; N],
) {
    for (key, totals) in totals(own) {
        let labels = with_protocol(key);
        for (name, &value) in
            names.into_iter().zip(values(totals)).filter(|(_, value)| **value != 0)
        {
            let more: [Label<'_>; 1] = [(label, name)];
            text.sample(&labels, &more, value);
        }
    }
}
