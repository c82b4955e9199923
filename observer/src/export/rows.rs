//! What a scrape has samples of: each with its labels and counts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use observer_common::{
    counters::{Counter, Owner},
    label::{Path, Role},
    protocol::Protocol,
    wire::slot,
};
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use super::{encode::Served, process::Reading, users};
use crate::{
    aggregate::{Cut, Ends, Series, TotalKey},
    attribute::Identity,
    bpf::Origin,
    collect::{NamedPod, Snapshot, Trust},
    model::Counts,
};

/// What the daemon tells of itself beside what it collects.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// How this daemon came to its kernel side.
    pub origin: Origin,
    /// What its log has dropped.
    pub dropped: DroppedLines,
}

/// Numbers of lines that were dropped, by the log that they were meant for; they go on counting.
#[derive(Clone, Debug, Default)]
pub struct DroppedLines(pub Vec<(&'static str, Arc<AtomicU64>)>);

impl DroppedLines {
    /// The numbers as they are now.
    pub(super) fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(log, count)| (*log, count.load(Ordering::Relaxed)))
    }
}

/// Of what a row has the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A replica's container, by role, port, path and protocol.
    Series(Role, u16, Path),
    /// A replica, by role, path and protocol.
    Endpoint(Role, Path),
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
    /// Of a replica's users: how many of their connections it relays to other pods, if it ever has.
    pub(super) relayed: Option<i64>,
    /// Whether a connection was there at all.
    pub(super) is_idle: bool,
    /// Of a replica's users: whether there may be more of them than is known.
    pub(super) is_withheld: bool,
}

impl Row {
    /// What the connections of a replica's users have counted.
    pub(super) const fn of_users(
        identity: Arc<Identity>,
        protocol: Protocol,
        counts: Counts,
        relayed: Option<i64>,
    ) -> Self {
        Self {
            identity,
            of: Of::Replica,
            protocol,
            counts,
            relayed,
            is_idle: false,
            is_withheld: false,
        }
    }

    /// A replica without any.
    pub(super) fn of_no_users(identity: Identity, protocol: Protocol) -> Self {
        let row = Self::of_users(Arc::new(identity), protocol, Counts::default(), None);
        Self { is_idle: true, ..row }
    }

    /// Namespace and name of its replica.
    pub(super) fn name(&self) -> (&str, &str) {
        (&self.identity.namespace, &self.identity.pod)
    }

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

    /// Whether it is of sockets that connected.
    pub(super) const fn is_client(&self) -> bool {
        matches!(self.of, Of::Series(Role::Client, ..) | Of::Endpoint(Role::Client, _))
    }

    /// Whether attempts to connect, which have no protocol yet, are counted here.
    pub(super) fn begins_attempts(&self) -> bool {
        matches!(self.of, Of::Series(Role::Client, ..)) && self.protocol == Protocol::Tcp
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
            Of::Series(role, port, path) => {
                ("container", container.as_str()).encode(encoder.encode_label())?;
                ("role", role.label()).encode(encoder.encode_label())?;
                ("port", port).encode(encoder.encode_label())?;
                ("path", path.label()).encode(encoder.encode_label())
            }
            Of::Endpoint(role, path) => {
                ("role", role.label()).encode(encoder.encode_label())?;
                ("path", path.label()).encode(encoder.encode_label())
            }
            Of::Replica => Ok(()),
        }
    }
}

impl EncodeLabelSet for Row {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.encode_without_protocol(encoder)?;
        match self.of {
            Of::Series(..) | Of::Endpoint(..) => {
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
        let TotalKey { workload, role, path, .. } = &self.key;
        ("namespace", workload.namespace.as_str()).encode(encoder.encode_label())?;
        ("workload_kind", workload.kind.as_str()).encode(encoder.encode_label())?;
        ("workload", workload.name.as_str()).encode(encoder.encode_label())?;
        ("role", role.label()).encode(encoder.encode_label())?;
        ("path", path.label()).encode(encoder.encode_label())
    }
}

/// What the daemon says of itself.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) about: About,
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
    pub(super) trust: Vec<Trust>,
    pub(super) cuts: Vec<(Ends, Cut)>,
    pub(super) own: Own,
}

impl Scrape {
    /// The rows of a snapshot whose namespaces are `wanted`.
    pub(super) fn new(
        mut snapshot: Snapshot,
        about: &About,
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
        let mut trust = std::mem::take(&mut snapshot.trust);
        trust.retain(|pod| wanted(&pod.namespace));
        let mut cuts = std::mem::take(&mut snapshot.cuts);
        cuts.retain(|(whose, _)| wanted(&whose.namespace));
        let all: Vec<&Series> = series.iter().chain(&folded).collect();
        let replicas = users::protocols()
            .map(|protocol| (protocol, users::rows(&all, &pods, &trust, protocol)))
            .collect();
        let endpoints = endpoints(&all);
        let row = |Series { key, counts }| Row {
            identity: key.identity,
            of: Of::Series(key.role, key.port, key.path),
            protocol: key.protocol,
            counts,
            relayed: None,
            is_idle: false,
            is_withheld: false,
        };
        Self {
            endpoints,
            replicas,
            series: series.into_iter().map(row).collect(),
            pods,
            trust,
            cuts,
            totals: totals.into_iter().map(|(key, counts)| Total { key, counts }).collect(),
            own: Own {
                about: about.clone(),
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

/// Per replica, role, path and protocol: all ports and containers together.
fn endpoints(series: &[&Series]) -> Vec<Row> {
    let mut rows: BTreeMap<(&str, &str, Role, Path, Protocol), Row> = BTreeMap::new();
    for Series { key, counts } in series.iter().copied() {
        let (namespace, pod) = (&key.identity.namespace, &key.identity.pod);
        let of = (namespace.as_str(), pod.as_str(), key.role, key.path, key.protocol);
        let row = rows.entry(of).or_insert_with(|| Row {
            identity: Arc::clone(&key.identity),
            of: Of::Endpoint(key.role, key.path),
            protocol: key.protocol,
            counts: Counts::default(),
            relayed: None,
            is_idle: false,
            is_withheld: false,
        });
        row.counts.add(counts);
    }
    rows.into_values().collect()
}
