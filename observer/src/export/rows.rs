//! What a scrape has samples of: each with its labels and counts.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use observer_common::{
    counters::{Counter, Owner},
    label::Role,
    protocol::{BLOCKS, Protocol},
    wire::slot,
};
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use super::{encode::Served, process::Reading};
use crate::{
    aggregate::{Series, TotalKey},
    attribute::{Identity, Kind},
    bpf::Origin,
    collect::{NamedPod, Snapshot},
    model::Counts,
};

/// What this binary is, for `observer_build_info`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// Name of the node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// How this daemon came to its kernel side.
    pub origin: Origin,
}

/// Of what a row has the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A replica's container, by role, port and protocol.
    Series(Role, u16),
    /// A replica, by role and protocol.
    Endpoint(Role),
    /// A replica's servers that speak the protocol.
    Replica,
}

/// Counts, and whom they are for.
#[derive(Debug)]
pub(super) struct Row {
    identity: Arc<Identity>,
    of: Of,
    pub(super) protocol: Protocol,
    pub(super) counts: Counts,
    /// Whether a connection was there at all.
    pub(super) is_idle: bool,
}

impl Row {
    /// Whether no connection has ever stayed: what came was on its way to the protocol that it turned out to speak.
    pub(super) fn is_passage(&self) -> bool {
        let events = [
            &slot::CLOSED,
            &slot::FAILED,
            &slot::TIMEOUTS,
            &slot::RESETS_RECEIVED,
            &slot::RESETS_SENT,
        ];
        self.had_connections()
            && self.counts.one(&slot::LEFT) == self.came()
            && events.into_iter().all(|counter| self.counts.sum(counter) == 0)
    }

    /// Whether a connection has ever been there.
    pub(super) fn had_connections(&self) -> bool {
        self.came() != 0
    }

    fn came(&self) -> u64 {
        let ways = [&slot::OPENED, &slot::ADOPTED, &slot::ENTERED];
        ways.map(|counter| self.counts.one(counter)).into_iter().fold(0, u64::wrapping_add)
    }

    /// Whether its cells have the counter.
    pub(super) fn has(&self, counter: &Counter) -> bool {
        !matches!(counter.owner, Owner::Protocol(protocol) if protocol != self.protocol as u8)
    }

    /// Since when it counts.
    pub(super) const fn since(&self) -> Option<SystemTime> {
        self.counts.since
    }

    /// Its labels but for the protocol.
    pub(super) const fn without_protocol(&self) -> WithoutProtocol<'_> {
        WithoutProtocol(self)
    }

    fn encode_without_protocol(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Identity { namespace, pod, container, .. } = &*self.identity;
        ("namespace", namespace.as_str()).encode(encoder.encode_label())?;
        ("pod", pod.as_str()).encode(encoder.encode_label())?;
        match self.of {
            Of::Series(role, port) => {
                ("container", container.as_str()).encode(encoder.encode_label())?;
                ("role", role.label()).encode(encoder.encode_label())?;
                ("port", port).encode(encoder.encode_label())
            }
            Of::Endpoint(role) => ("role", role.label()).encode(encoder.encode_label()),
            Of::Replica => Ok(()),
        }
    }
}

impl EncodeLabelSet for Row {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.encode_without_protocol(encoder)?;
        match self.of {
            Of::Series(..) | Of::Endpoint(_) => {
                ("protocol", self.protocol.label()).encode(encoder.encode_label())
            }
            Of::Replica => Ok(()),
        }
    }
}

/// The labels of a row but for the protocol.
pub(super) struct WithoutProtocol<'a>(&'a Row);

impl EncodeLabelSet for WithoutProtocol<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode_without_protocol(encoder)
    }
}

/// What a workload has counted.
#[derive(Debug)]
pub(super) struct Total {
    key: TotalKey,
    pub(super) counts: Counts,
}

impl Total {
    pub(super) const fn protocol(&self) -> Protocol {
        self.key.protocol
    }

    /// Since when it counts.
    pub(super) const fn since(&self) -> Option<SystemTime> {
        self.counts.since
    }
}

impl EncodeLabelSet for Total {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let TotalKey { workload, role, .. } = &self.key;
        ("namespace", workload.namespace.as_str()).encode(encoder.encode_label())?;
        ("workload_kind", workload.kind.as_str()).encode(encoder.encode_label())?;
        ("workload", workload.name.as_str()).encode(encoder.encode_label())?;
        ("role", role.label()).encode(encoder.encode_label())
    }
}

/// What the daemon says of itself.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) build: BuildInfo,
    /// What it costs, if `/proc` can be read.
    pub(super) process: Option<Reading>,
    /// What a scrape shows beside the series.
    pub(super) snapshot: Snapshot,
    /// How many series of each family the last scrape had.
    pub(super) served: Served,
}

/// All rows of a scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) series: Vec<Row>,
    pub(super) endpoints: Vec<Row>,
    /// Of each protocol that has families of its own.
    replicas: Vec<(Protocol, Vec<Row>)>,
    pub(super) pods: Vec<NamedPod>,
    pub(super) totals: Vec<Total>,
    pub(super) own: Own,
}

impl Scrape {
    /// The rows of a snapshot whose namespaces are `wanted`.
    pub(super) fn new(
        mut snapshot: Snapshot,
        build: &BuildInfo,
        served: &Served,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let mut series = std::mem::take(&mut snapshot.series);
        let mut folded = std::mem::take(&mut snapshot.folded);
        let known = snapshot.kubernetes.as_mut();
        let (mut pods, mut totals) = known
            .map(|k| (std::mem::take(&mut k.pods), std::mem::take(&mut k.totals)))
            .unwrap_or_default();
        for rows in [&mut series, &mut folded] {
            rows.retain(|row| wanted(&row.key.identity.namespace));
        }
        pods.retain(|pod| wanted(&pod.workload.namespace));
        totals.retain(|(key, _)| wanted(&key.workload.namespace));
        let all: Vec<&Series> = series.iter().chain(&folded).collect();
        let replicas =
            users().map(|protocol| (protocol, replicas(&all, &pods, protocol))).collect();
        let endpoints = endpoints(&all);
        let row = |Series { key, counts }| Row {
            identity: key.identity,
            of: Of::Series(key.role, key.port),
            protocol: key.protocol,
            counts,
            is_idle: false,
        };
        Self {
            endpoints,
            replicas,
            series: series.into_iter().map(row).collect(),
            pods,
            totals: totals.into_iter().map(|(key, counts)| Total { key, counts }).collect(),
            own: Own {
                build: build.clone(),
                process: Reading::take().ok(),
                snapshot,
                served: Arc::clone(served),
            },
        }
    }

    /// The replicas, with the counts of their servers that speak the protocol.
    pub(super) fn replicas(&self, protocol: Protocol) -> &[Row] {
        let found = self.replicas.iter().find(|(of, _)| *of == protocol);
        found.map_or(&[], |(_, rows)| rows)
    }
}

/// The protocols whose users have families of their own.
fn users() -> impl Iterator<Item = Protocol> {
    let with_counters = |protocol: Protocol| {
        BLOCKS.iter().any(|block| block.owner == Owner::Protocol(protocol as u8))
    };
    let all = Protocol::ALL.iter().copied();
    all.filter(move |&protocol| with_counters(protocol) || protocol == Protocol::Grpc)
}

/// Per replica, role and protocol: all ports and containers together.
fn endpoints(series: &[&Series]) -> Vec<Row> {
    let mut rows: BTreeMap<(&str, &str, Role, Protocol), Row> = BTreeMap::new();
    for Series { key, counts } in series.iter().copied() {
        let (namespace, pod) = (&key.identity.namespace, &key.identity.pod);
        let row = rows.entry((namespace, pod, key.role, key.protocol)).or_insert_with(|| Row {
            identity: Arc::clone(&key.identity),
            of: Of::Endpoint(key.role),
            protocol: key.protocol,
            counts: Counts::default(),
            is_idle: false,
        });
        row.counts.add(counts);
    }
    rows.into_values().collect()
}

/// Per replica: the counts of its server sockets that speak `protocol`, all ports and containers together. A pod that runs
/// and has none has zeros: an autoscaler would take a missing value for one that is not to be changed.
fn replicas(series: &[&Series], pods: &[NamedPod], protocol: Protocol) -> Vec<Row> {
    let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    let row = |identity: Arc<Identity>, is_idle| Row {
        identity,
        of: Of::Replica,
        protocol,
        counts: Counts::default(),
        is_idle,
    };
    let servers = series.iter().copied();
    for Series { key, counts } in
        servers.filter(|s| s.key.role == Role::Server && s.key.protocol == protocol)
    {
        let name = (key.identity.namespace.as_str(), key.identity.pod.as_str());
        let of = rows.entry(name).or_insert_with(|| row(Arc::clone(&key.identity), false));
        of.counts.add(counts);
    }
    let counted: HashSet<(&str, &str)> = rows.keys().copied().collect();
    let idle: Vec<&NamedPod> = pods
        .iter()
        .filter(|pod| pod.running)
        .filter(|pod| !counted.contains(&(pod.workload.namespace.as_str(), pod.pod.as_str())))
        .collect();
    for pod in idle {
        let identity = Identity {
            kind: Kind::Pod,
            namespace: pod.workload.namespace.clone(),
            pod: pod.pod.clone(),
            container: String::new(),
            pod_uid: None,
            container_id: None,
        };
        rows.insert((&pod.workload.namespace, &pod.pod), row(Arc::new(identity), true));
    }
    rows.into_values().collect()
}
