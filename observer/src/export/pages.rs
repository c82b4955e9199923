//! A scrape, written page by page while it is sent: the whole text of a large node is never in memory.

use std::collections::HashSet;

use observer_common::protocol::{Protocol, Role};

use super::{
    families::{FAMILIES, Family, Own, Row, Samples},
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
            ("abi", &observer_common::ABI_VERSION.to_string()),
            ("kernel", &self.kernel),
            ("node", &self.node),
        ])
    }
}

/// A snapshot on its way to the scraper; each item is a part of the text.
#[derive(Debug)]
pub struct Pages {
    series: Vec<Row>,
    /// The replicas of each protocol that has families of its own.
    replicas: [(Protocol, Vec<Row>); 2],
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
        let (named, totals) = kubernetes::take(&mut snapshot);
        let replicas = [Protocol::WebSocket, Protocol::Grpc]
            .map(|protocol| (protocol, replicas(&series, &named, protocol)));
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
            Samples::Series(write) => (&self.series, write),
            Samples::Replicas(protocol, write) => {
                let mut replicas = self.replicas.iter().filter(|(of, _)| of == protocol);
                (&replicas.next().expect("made in `new`").1, write)
            }
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
            let Some(family) = families().nth(self.family) else {
                if self.family == families().count() {
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
            if self.write(&family.samples) {
                self.row += 1;
            } else {
                (self.family, self.row) = (self.family + 1, 0);
            }
        }
        let page = self.text.take(PAGE + PAGE / 4);
        (!page.is_empty()).then_some(page)
    }
}

/// All families, in the order of the text.
fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(kubernetes::FAMILIES).chain(process::FAMILIES)
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

/// Per replica: the counts of its server sockets that speak `protocol`, all ports and containers together. A pod that runs
/// and has none has zeros: an autoscaler would take a missing value for one that is not to be changed.
fn replicas(series: &[Series], pods: &[NamedPod], protocol: Protocol) -> Vec<Row> {
    let mut replicas: Vec<Row> = Vec::new();
    let servers =
        series.iter().filter(|s| s.key.role == Role::Server && s.key.protocol == protocol);
    for series in servers {
        let identity = &series.key.identity;
        let labels = labels(&[("namespace", &identity.namespace), ("pod", &identity.pod)]);
        // Series are sorted: those of one replica stand together.
        match replicas.last_mut() {
            Some(last) if last.labels == labels => last.counts.add(&series.counts),
            _ => replicas.push(Row { labels, protocol, counts: series.counts.clone() }),
        }
    }
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
