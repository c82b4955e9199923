//! A scrape, written page by page while it is sent: the whole text of a large node is never in memory.

use std::{
    collections::{BTreeMap, HashSet},
    sync::LazyLock,
};

use observer_common::{
    counters::{Owner, Rows},
    label::Role,
    protocol::{BLOCKS, Protocol},
};

use super::{
    families::{DERIVED, Family, OWN, Own, Row, Samples, counted, of_counters},
    kubernetes::{self, Total},
    negotiate::Format,
    process,
    text::{Text, labels},
};
use crate::{
    aggregate::Series,
    bpf::Origin,
    collect::{NamedPod, Snapshot},
    model::Counts,
};

/// A page is complete when it has this many bytes; what belongs to the last row is still written.
const PAGE: usize = 64 * 1024;

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

/// Which families are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Those of the workloads.
    Workloads,
    /// Those of the observer itself.
    Own,
}

impl BuildInfo {
    fn labels(&self) -> String {
        labels(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", option_env!("OBSERVER_GIT_REVISION").unwrap_or("")),
            ("rustc", option_env!("OBSERVER_RUSTC_VERSION").unwrap_or("")),
            ("abi", &format!("{:016x}", observer_common::abi::ABI)),
            ("kernel", &self.kernel),
            ("node", &self.node),
        ])
    }
}

/// A snapshot on its way to the scraper; each item is a part of the text.
#[derive(Debug)]
pub struct Pages {
    series: Vec<Row>,
    endpoints: Vec<Row>,
    /// The replicas of each protocol that has families of its own.
    replicas: Vec<(Protocol, Vec<Row>)>,
    /// The labels of the named pods.
    pods: Vec<String>,
    totals: Vec<Total>,
    own: Own,
    part: Part,
    text: Text,
    /// Index of the family and of its row that come next.
    family: usize,
    row: usize,
}

impl Pages {
    /// The pages of a snapshot in one of the formats, every name with `prefix` before it.
    #[must_use]
    pub(super) fn new(
        mut snapshot: Snapshot,
        build: &BuildInfo,
        prefix: &str,
        format: Format,
        part: Part,
    ) -> Self {
        let series = std::mem::take(&mut snapshot.series);
        let folded = std::mem::take(&mut snapshot.folded);
        let (named, totals) = kubernetes::take(&mut snapshot);
        let all: Vec<&Series> = series.iter().chain(&folded).collect();
        let replicas =
            users().map(|protocol| (protocol, replicas(&all, &named, protocol))).collect();
        let endpoints = endpoints(&all);
        let series = series.into_iter().map(row).collect();
        let own = Own {
            build: build.labels(),
            origin: build.origin,
            process: process::Reading::take().ok(),
            snapshot,
        };
        let pods = named.iter().map(|pod| kubernetes::pod(pod, &build.node)).collect();
        let totals = totals.into_iter().map(Total::from).collect();
        Self {
            series,
            endpoints,
            replicas,
            pods,
            totals,
            own,
            part,
            text: Text::new(format, prefix),
            family: 0,
            row: 0,
        }
    }

    /// Writes the samples of the next row of the family; false if there is none.
    fn write(&mut self, samples: &Samples) -> bool {
        let (rows, write) = match samples {
            Samples::Counter(counter, rows, zeros) => {
                let rows = match (rows, counter.owner) {
                    (Rows::Series, _) => &*self.series,
                    (Rows::Endpoint, _) => &*self.endpoints,
                    (Rows::Replica, Owner::Protocol(protocol)) => {
                        of_protocol(&self.replicas, protocol)
                    }
                    (Rows::Replica, Owner::Cell | Owner::Ends) => return false,
                };
                let Some(row) = rows.get(self.row) else { return false };
                counted(&mut self.text, row, counter, *zeros);
                return true;
            }
            Samples::Series(write) => (&*self.series, write),
            Samples::Replicas(protocol, write) => (of_protocol(&self.replicas, *protocol), write),
            Samples::Pods(write) => {
                let Some(pod) = self.pods.get(self.row) else { return false };
                write(&mut self.text, pod);
                return true;
            }
            Samples::Totals(write) => {
                let Some(total) = self.totals.get(self.row) else { return false };
                write(&mut self.text, total);
                return true;
            }
            Samples::Own(write) => {
                let first = self.row == 0;
                if first {
                    write(&mut self.text, &self.own);
                }
                return first;
            }
        };
        let Some(row) = rows.get(self.row) else { return false };
        write(&mut self.text, row);
        true
    }
}

impl Iterator for Pages {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        while self.text.len() < PAGE {
            let Some(family) = FAMILIES.get(self.family) else {
                if self.family == FAMILIES.len() {
                    self.text.end();
                    self.family += 1;
                }
                break;
            };
            if !family.samples.belong_to(self.part) {
                self.family += 1;
                continue;
            }
            if self.row == 0 {
                self.text.family(family.name, family.kind, family.help);
            }
            let samples = family.samples;
            if self.write(&samples) {
                self.row += 1;
            } else {
                (self.family, self.row) = (self.family + 1, 0);
            }
        }
        let page = self.text.take(PAGE + PAGE / 4);
        (!page.is_empty()).then_some(page)
    }
}

fn of_protocol(replicas: &[(Protocol, Vec<Row>)], protocol: Protocol) -> &[Row] {
    let mut replicas = replicas.iter().filter(|(of, _)| *of == protocol);
    &replicas.next().expect("made in `new`").1
}

/// All families, in the order of the text.
static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let written = [DERIVED, OWN, kubernetes::FAMILIES, process::FAMILIES].concat();
    of_counters().chain(written).collect()
});

/// The protocols whose users have families of their own.
fn users() -> impl Iterator<Item = Protocol> {
    let with_counters =
        |protocol: &Protocol| BLOCKS.iter().any(|block| block.owner == Owner::Protocol(*protocol));
    let all = Protocol::ALL.iter().copied();
    all.filter(move |protocol| with_counters(protocol) || *protocol == Protocol::Grpc)
}

/// A snapshot as `OpenMetrics` text.
#[must_use]
pub fn encode(snapshot: Snapshot, build: &BuildInfo, prefix: &str, part: Part) -> String {
    Pages::new(snapshot, build, prefix, Format::OpenMetrics, part).collect()
}

fn row(Series { key, counts }: Series) -> Row {
    let labels = labels(&[
        ("namespace", &key.identity.namespace),
        ("pod", &key.identity.pod),
        ("container", &key.identity.container),
        ("role", key.role.label()),
        ("port", itoa::Buffer::new().format(key.port)),
        ("protocol", key.protocol.label()),
    ]);
    Row { labels, protocol: key.protocol, counts }
}

/// Per replica, role and protocol: all ports and containers together.
fn endpoints(series: &[&Series]) -> Vec<Row> {
    let mut endpoints: BTreeMap<(&str, &str, Role, Protocol), Counts> = BTreeMap::new();
    for Series { key, counts } in series.iter().copied() {
        let (namespace, pod) = (&key.identity.namespace, &key.identity.pod);
        endpoints.entry((namespace, pod, key.role, key.protocol)).or_default().add(counts);
    }
    let row = |((namespace, pod, role, protocol), counts): ((&str, &str, Role, Protocol), _)| Row {
        labels: labels(&[
            ("namespace", namespace),
            ("pod", pod),
            ("role", role.label()),
            ("protocol", protocol.label()),
        ]),
        protocol,
        counts,
    };
    endpoints.into_iter().map(row).collect()
}

/// Per replica: the counts of its server sockets that speak `protocol`, all ports and containers together. A pod that runs
/// and has none has zeros: an autoscaler would take a missing value for one that is not to be changed.
fn replicas(series: &[&Series], pods: &[NamedPod], protocol: Protocol) -> Vec<Row> {
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    let servers =
        series.iter().filter(|s| s.key.role == Role::Server && s.key.protocol == protocol);
    for series in servers {
        let identity = &series.key.identity;
        let labels = labels(&[("namespace", &identity.namespace), ("pod", &identity.pod)]);
        counts.entry(labels).or_default().add(&series.counts);
    }
    let row = |(labels, counts)| Row { labels, protocol, counts };
    let mut replicas: Vec<Row> = counts.into_iter().map(row).collect();
    let counted: HashSet<&str> = replicas.iter().map(|row| row.labels.as_str()).collect();
    let idle: Vec<String> = pods
        .iter()
        .filter(|pod| pod.running)
        .map(|pod| labels(&[("namespace", &pod.workload.namespace), ("pod", &pod.pod)]))
        .filter(|labels| !counted.contains(labels.as_str()))
        .collect();
    let zeros = |labels| Row { labels, protocol, counts: Counts::default() };
    replicas.extend(idle.into_iter().map(zeros));
    replicas.sort_by(|a, b| a.labels.cmp(&b.labels));
    replicas
}
