//! What the program exports, asked of the encoder itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use observer::{
    aggregate::{Cut, Ends, Series, SeriesKey, TotalKey, Withheld},
    attribute::{Health, Identity, Workload, identify},
    bpf::{Origin, ProbeState, programs::PROBES},
    collect::{Kubernetes, NamedPod, Snapshot, Trust},
    export::{About, DroppedLines, Part, Settings, encode},
    model::{Counts, blocks},
};
use observer_common::{
    counters::Level,
    label::{Path, Role, Side},
    protocol::Protocol,
    wire::loss::Loss,
};

/// A family as far as a reader needs to know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
}

/// By the name that Prometheus stores, without the suffixes of a histogram's series.
pub(crate) type Families = BTreeMap<String, Family>;

/// What the encoder writes for `snapshot`.
pub(crate) fn exported(snapshot: Snapshot) -> Families {
    let text = text(snapshot);
    let mut families: Families = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let family = Family { kind: kind.to_owned(), labels: BTreeSet::new() };
            (format!("{name}{suffix}"), family)
        })
        .collect();
    for (name, labels) in samples(&text) {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
        let known = |name: &&str| families.contains_key(*name);
        let name = [Some(name), histogram].into_iter().flatten().find(known);
        let family = families.get_mut(name.expect("a sample has a family")).expect("just found");
        let names = labels.into_iter().map(|(name, _)| name).filter(|name| *name != "le");
        family.labels.extend(names.map(str::to_owned));
    }
    families
}

/// A scrape of all there is.
pub(crate) fn text(snapshot: Snapshot) -> String {
    text_at(Level::Full, snapshot)
}

/// A scrape at a level of detail.
pub(crate) fn text_at(detail: Level, snapshot: Snapshot) -> String {
    let about = About {
        node: "node-1".to_owned(),
        kernel: "6.1.0".to_owned(),
        origin: Origin::Created,
        dropped: DroppedLines(vec![("log", Arc::new(AtomicU64::new(1)))]),
    };
    let settings = Settings { detail, ..Settings::default() };
    encode(snapshot, &about, &settings, Part::All)
}

/// Name and labels of each sample; no value in these snapshots holds a quote or a comma.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let pair = |label| str::split_once(label, '=').expect("name and value");
        (name, labels.map(pair).map(|(name, value)| (name, value.trim_matches('"'))).collect())
    })
}

/// Of histograms, the samples are.
pub(crate) fn assert_exported(families: BTreeSet<&str>) {
    let exported = exported(full());
    let unknown: Vec<_> = families
        .into_iter()
        .filter(|name| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let is = |name: &str, histogram: bool| {
                exported.get(name).is_some_and(|f| (f.kind == "histogram") == histogram)
            };
            !is(name, false) && !histogram.is_some_and(|name| is(name, true))
        })
        .collect();
    assert!(unknown.is_empty(), "no such families: {unknown:?}");
}

/// The words of a query that can only be names of families.
pub(crate) fn families_in(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| {
        [
            "tcp_",
            "websocket_",
            "grpc_",
            "workload_pod_",
            "workload_tcp_",
            "workload_websocket_",
            "process_",
            "observer_",
        ]
        .iter()
        .any(|p| word.starts_with(p))
    })
}

pub(crate) fn empty() -> Snapshot {
    Snapshot::default()
}

/// A snapshot with a series for each role and protocol, in which every count is 1.
pub(crate) fn full() -> Snapshot {
    let identity = Arc::new(identify("/system.slice/nginx.service"));
    let keys = Role::ALL.iter().flat_map(|&role| {
        let identity = &identity;
        Protocol::ALL.iter().map(move |&protocol| SeriesKey {
            identity: Arc::clone(identity),
            role,
            protocol,
            port: 80,
            path: Path::External,
        })
    });
    Snapshot {
        series: keys.map(|key| Series { counts: ones(key.protocol), key }).collect(),
        folded: Vec::new(),
        losses: Loss::ALL.into_iter().map(|loss| (loss, 1)).collect(),
        probes: PROBES.iter().map(|probe| (probe, ProbeState::Active)).collect(),
        misses: PROBES.iter().map(|probe| (probe, 1)).collect(),
        cells: (1, 1),
        undecodable: 1,
        cgroups_skipped: 1,
        reconciliations: Some((2, Duration::from_millis(3))),
        trust: trust(),
        cuts: cuts(&identity),
        kubernetes: Some(kubernetes()),
    }
}

fn cuts(identity: &Identity) -> Vec<(Ends, Cut)> {
    let cut = Cut { seconds: 60.0, ends: 12, of: 12, place: None, at_least: false };
    let sides = Side::ALL.iter();
    sides.map(|&side| (Ends::new(identity, Role::Server, Protocol::Tcp, side), cut)).collect()
}

fn trust() -> Vec<Trust> {
    let pod = |withheld| Trust {
        namespace: "shop".to_owned(),
        pod: format!("{withheld:?}"),
        withheld: Some(withheld),
        unread: Some(1),
    };
    Withheld::ALL.map(pod).to_vec()
}

fn kubernetes() -> Kubernetes {
    let workload = Workload {
        namespace: "shop".to_owned(),
        kind: "Deployment".to_owned(),
        name: "web".to_owned(),
    };
    let totals = Protocol::ALL.iter().map(|&protocol| {
        let workload = workload.clone();
        let (role, path) = (Role::Server, Path::External);
        (TotalKey { workload, role, protocol, path }, ones(protocol))
    });
    Kubernetes {
        health: Health { current: true, troubles: [1; _], pods: 1 },
        unnamed: 1,
        existing: Vec::new(),
        totals: totals.collect(),
        pods: vec![NamedPod {
            uid: "u-1".to_owned(),
            pod: "web-7d9c".to_owned(),
            workload,
            running: true,
        }],
    }
}

fn ones(protocol: Protocol) -> Counts {
    let mut counts = Counts::default();
    for counter in blocks(protocol).flat_map(|block| block.counters) {
        counts.words_mut(counter).fill(1);
    }
    counts
}

/// The samples of a family, those of a histogram's parts among them.
fn parts_of<'a>(
    text: &'a str,
    family: &str,
) -> impl Iterator<Item = (&'a str, Vec<(&'a str, &'a str)>)> {
    samples(text).filter(move |(name, _)| {
        let part = name.strip_prefix(family);
        part.is_some_and(|part| ["", "_bucket", "_sum", "_count"].contains(&part))
    })
}

/// The names of a family's labels, in the order in which samples have them.
pub(crate) fn labels_of(text: &str, family: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for (name, _) in parts_of(text, family).flat_map(|(_, labels)| labels) {
        if name != "le" && !order.iter().any(|known| known == name) {
            order.push(name.to_owned());
        }
    }
    order
}

/// Labels that tell rows apart: whose counts those are, and not what was counted.
const OF_ROWS: [&str; 9] = [
    "namespace",
    "pod",
    "container",
    "role",
    "port",
    "path",
    "protocol",
    "workload_kind",
    "workload",
];

/// How many series one row of a family has at most, as text, with all that can be counted.
pub(crate) fn series_of_a_row(text: &str, family: &str) -> usize {
    let mut rows: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    // Here every protocol has what only some have: the same series once more.
    for (_, labels) in parts_of(text, family).collect::<BTreeSet<_>>() {
        let row = labels.iter().filter(|(name, _)| OF_ROWS.contains(name));
        *rows.entry(row.map(|(_, value)| *value).collect()).or_default() += 1;
    }
    rows.into_values().max().unwrap_or_default()
}
