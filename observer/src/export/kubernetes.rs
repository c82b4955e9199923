//! The families that Kubernetes adds: who the pods are, what their workloads have counted, how the watch is doing.

use std::fmt;

use observer_common::protocol::{Failure, Protocol, Reason};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::families::{Labels, More, counter, some, with};
use crate::{
    aggregate::{TotalKey, Totals},
    attribute::{Health, Trouble},
    collect::{Kubernetes, NamedPod},
};

/// Encodes all of them; without names there are no series, only the families.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    kubernetes: Option<&Kubernetes>,
    node: &str,
) -> fmt::Result {
    pods(encoder, kubernetes.map_or(&[], |known| &known.pods), node)?;
    totals(encoder, kubernetes.map_or(&[], |known| &known.totals))?;
    watch(encoder, kubernetes.map(|known| (known.health, known.unnamed)))
}

fn pods(encoder: &mut DescriptorEncoder<'_>, pods: &[NamedPod], node: &str) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "observer_pod",
        "A pod of this node and who looks after it; the value is always 1.",
        None,
        MetricType::Info,
    )?;
    for pod in pods {
        let NamedPod { uid, pod, workload, .. } = pod;
        metric
            .encode_family(&[("namespace", workload.namespace.as_str()), ("pod", pod)])?
            .encode_info(&[
                ("uid", uid.as_str()),
                ("node", node),
                ("workload_kind", &workload.kind),
                ("workload", &workload.name),
            ])?;
    }
    Ok(())
}

/// Name and help of a family of totals, whether it tells protocols apart, and its values of one row.
type TotalFamily = (&'static str, &'static str, bool, fn(&TotalKey, &Totals) -> Vec<More>);

const TOTALS: [TotalFamily; 6] = [
    (
        "workload_tcp_connections_opened",
        "Connections that were established by a workload's pods on this node, those that are gone included.",
        false,
        |key, totals| match key.protocol {
            // Each is counted when its protocol is not known yet.
            Protocol::Tcp => vec![(Vec::new(), totals.opened)],
            _ => Vec::new(),
        },
    ),
    (
        "workload_tcp_connections_identified",
        "Connections found to speak a protocol, by a workload's pods on this node, those that are gone included.",
        true,
        |key, totals| match key.protocol {
            Protocol::Tcp => Vec::new(),
            _ => vec![(Vec::new(), totals.entered)],
        },
    ),
    (
        "workload_tcp_connections_closed",
        "Connections that ended, of a workload's pods on this node, those that are gone included.",
        true,
        |_, totals| some(Reason::ALL.iter().map(|reason| reason.label()), "reason", totals.closed),
    ),
    (
        "workload_tcp_connect_failures",
        "Attempts to connect that failed, of a workload's pods on this node, those that are gone included.",
        true,
        |_, totals| {
            some(Failure::ALL.iter().map(|failure| failure.label()), "reason", totals.failures)
        },
    ),
    (
        "workload_tcp_payload_bytes",
        "Payload bytes of a workload's pods on this node, those that are gone included.",
        true,
        |_, totals| some(DIRECTIONS.into_iter(), "direction", totals.bytes),
    ),
    (
        "workload_websocket_messages",
        "Text and binary messages of a workload's pods on this node, those that are gone included.",
        true,
        |key, totals| match key.protocol {
            Protocol::WebSocket => {
                let each = DIRECTIONS.into_iter().zip(totals.messages);
                each.map(|(direction, count)| (vec![("direction", direction)], count)).collect()
            }
            _ => Vec::new(),
        },
    ),
];

const DIRECTIONS: [&str; 2] = ["received", "sent"];

fn totals(encoder: &mut DescriptorEncoder<'_>, totals: &[(TotalKey, Totals)]) -> fmt::Result {
    for (name, help, by_protocol, values) in TOTALS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (key, totals) in totals {
            let mut labels: Labels = vec![
                ("namespace", key.workload.namespace.clone()),
                ("workload_kind", key.workload.kind.clone()),
                ("workload", key.workload.name.clone()),
                ("role", key.role.label().to_owned()),
            ];
            if by_protocol {
                labels.push(("protocol", key.protocol.label().to_owned()));
            }
            for (more, value) in values(key, totals) {
                let labels = more
                    .iter()
                    .fold(labels.clone(), |labels, (name, value)| with(&labels, name, value));
                counter(&mut metric, &labels, value)?;
            }
        }
    }
    Ok(())
}

fn watch(encoder: &mut DescriptorEncoder<'_>, health: Option<(Health, u64)>) -> fmt::Result {
    let (unnamed, health) = (health.map(|(_, unnamed)| unnamed), health.map(|(health, _)| health));
    for (name, help, value) in [
        (
            "observer_kube_watch_active",
            "1 while the names of pods are those that the API server has, 0 while it cannot be asked.",
            health.map(|health| u64::from(health.current)),
        ),
        (
            "observer_kube_pods",
            "Pods that the API server has on this node.",
            health.map(|health| health.pods),
        ),
        (
            "observer_kube_pods_unnamed",
            "Pods with a cgroup on this node that the API server has not named yet.",
            unnamed,
        ),
    ] {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        if let Some(value) = value {
            metric.encode_gauge(&(value as i64))?;
        }
    }
    let mut metric = encoder.encode_descriptor(
        "observer_kube_watch_errors",
        "What went wrong with the watch of the API server, by kind; it is started anew each time.",
        None,
        MetricType::Counter,
    )?;
    for (kind, count) in
        health.into_iter().flat_map(|health| Trouble::ALL.into_iter().zip(health.troubles))
    {
        counter(&mut metric, &[("kind", kind.label())], count)?;
    }
    Ok(())
}
