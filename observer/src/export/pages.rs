//! A scrape, written page by page while it is sent: the whole text of a large node is never in memory.

use std::collections::HashSet;

use observer_common::protocol::{Protocol, Role};

use super::{
    families::{FAMILIES, Family, Own, Row, Samples},
    kubernetes,
    negotiate::Format,
    process,
    text::{Text, labels},
};
use crate::{aggregate::Series, bpf::Origin, collect::Snapshot, model::Counts};

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
    own: Own,
    part: Part,
    text: Text,
    /// Index of the family and of its row that come next.
    family: usize,
    row: usize,
    ended: bool,
}

/// Every family, in the order of the text.
fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(kubernetes::FAMILIES).chain(process::FAMILIES)
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
        let replicas = [Protocol::WebSocket, Protocol::Grpc]
            .map(|protocol| (protocol, replicas(&series, protocol, &idle(&snapshot))));
        let series = series.into_iter().map(row).collect();
        let own = Own {
            build: build.labels(),
            node: build.node.clone(),
            origin: build.origin,
            process: process::Reading::take().ok(),
            snapshot,
        };
        Self {
            series,
            replicas,
            own,
            part,
            text: Text::new(format, prefix),
            family: 0,
            row: 0,
            ended: false,
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
            Samples::Node(write) | Samples::Own(write) => {
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
            let Some(family) = all().nth(self.family) else {
                if !self.ended {
                    self.text.end();
                    self.ended = true;
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

/// The labels of pods that run, with connections or without.
fn idle(snapshot: &Snapshot) -> Vec<String> {
    let pods = snapshot.kubernetes.iter().flat_map(|known| &known.pods).filter(|pod| pod.running);
    pods.map(|pod| labels(&[("namespace", &pod.workload.namespace), ("pod", &pod.pod)])).collect()
}

/// Per replica: the counts of its server sockets that speak `protocol`, all ports and containers together. A pod that
/// runs and never had any has zeros: an autoscaler takes a missing value for one that is not to be changed.
fn replicas(series: &[Series], protocol: Protocol, pods: &[String]) -> Vec<Row> {
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
    let counted: HashSet<&String> = replicas.iter().map(|row| &row.labels).collect();
    let idle: Vec<_> = pods.iter().filter(|labels| !counted.contains(labels)).cloned().collect();
    let zeros = |labels| Row { labels, protocol, counts: Counts::default() };
    replicas.extend(idle.into_iter().map(zeros));
    replicas
}
