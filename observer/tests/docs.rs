//! The README against the program: every exported family is documented with its type and labels, every label value is
//! explained, every query names a family, every option stands in its table; and the other way round.
//!
//! What is exported is asked of the encoder itself, with a snapshot in which nothing is zero.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use clap::CommandFactory as _;
use observer::{
    aggregate::{Series, SeriesKey, TotalKey},
    attribute::{Health, Workload, identify},
    bpf::{Origin, ProbeState, programs::PROBES},
    cli::Cli,
    collect::{Kubernetes, NamedPod, Snapshot},
    export::{BuildInfo, Part, Settings, encode},
    model::{Counts, blocks},
};
use observer_common::{counters::Level, label::Role, protocol::Protocol, wire::loss::Loss};

const README: &str = include_str!("../../README.md");

/// What asks Prometheus.
const SHIPPED: [&str; 4] = [
    include_str!("../../deploy/components/prometheus/rules.yaml"),
    include_str!("../../deploy/components/prometheus-adapter/config.yaml"),
    include_str!("../../deploy/components/prometheus-adapter/users-rule.yaml"),
    include_str!("../../deploy/components/keda/scaled-object.yaml"),
];

/// Labels whose values are words of ours, each of which has to be explained.
const CLOSED_LABELS: [&str; 7] =
    ["cause", "direction", "kind", "protocol", "reason", "role", "side"];

/// A family as far as a reader needs to know it.
#[derive(Debug, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

/// By the name that Prometheus stores, without the suffixes of a histogram's series.
type Families = BTreeMap<String, Family>;

#[test]
fn every_family_is_documented_and_every_documented_family_is_exported() {
    let (documented, exported) = (documented(), exported(full()));
    let names = |families: &Families| families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&documented), names(&exported), "README (left) against the program (right)");
    for (name, family) in exported {
        assert_eq!(documented[&name], family, "{name}: README (left) against the program (right)");
    }
}

#[test]
fn no_family_waits_for_its_first_series() {
    let names = |snapshot| exported(snapshot).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(names(empty()), names(full()));
}

#[test]
fn every_label_value_is_explained() {
    let explained: BTreeSet<&str> = README.split('`').skip(1).step_by(2).collect();
    let text = text(full());
    let missing: BTreeSet<_> = samples(&text)
        .flat_map(|(_, labels)| labels)
        .filter(|(name, value)| CLOSED_LABELS.contains(name) && !value.is_empty())
        .filter(|(_, value)| !explained.contains(value))
        .collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
}

#[test]
fn every_query_asks_for_exported_families() {
    let families: BTreeSet<&str> = queries().flat_map(families_in).collect();
    assert!(families.len() > 10, "the queries are not found any more: {families:?}");
    assert_exported(families);
}

#[test]
fn every_rule_asks_for_exported_families() {
    for file in SHIPPED {
        // The names that rules give, and those under which adapters pass them on, are not exported.
        let lines = file.lines().filter(|line| {
            let line = line.trim_start();
            !["#", "- record:", "as:", "matches:", "name:"].iter().any(|key| line.starts_with(key))
        });
        let recorded = |word: &str| word.contains(':');
        let words = lines.flat_map(|line| {
            line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        });
        let families: BTreeSet<&str> =
            words.filter(|word| !recorded(word)).flat_map(families_in).collect();
        assert!(!families.is_empty(), "no family in:\n{file}");
        assert_exported(families);
    }
}

/// Of histograms, the samples are.
fn assert_exported(families: BTreeSet<&str>) {
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

#[test]
fn every_option_is_documented() {
    let command = Cli::command();
    let run = command.find_subcommand("run").expect("there is a command run");
    let tail = command.find_subcommand("tail").expect("there is a command tail");
    let row = |option: &str| {
        let starts = [format!("| `--{option} "), format!("| `--{option}`")];
        README.lines().find(|line| starts.iter().any(|start| line.starts_with(start)))
    };
    let documented = README.lines().filter(|line| line.starts_with("| `--")).count();
    let mut options = 0;
    for argument in run.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let Some(option) = argument.get_long().filter(|option| *option != "help") else { continue };
        let row = row(option).unwrap_or_else(|| panic!("--{option} is not in the README"));
        let variable =
            argument.get_env().expect("each option is also a variable").to_string_lossy();
        assert!(row.contains(&format!("`{variable}`")), "{variable} is not in {row:?}");
        for default in argument.get_default_values().iter().filter(|value| !value.is_empty()) {
            let default = default.to_string_lossy();
            assert!(row.contains(&format!("`{default}`")), "{default} is not in {row:?}");
        }
        options += 1;
    }
    for argument in tail.get_arguments() {
        let Some(option) = argument.get_long().filter(|option| *option != "help") else { continue };
        assert!(row(option).is_some(), "--{option} is not in the README");
        // What both have stands there once.
        options += usize::from(run.get_arguments().all(|of_run| of_run.get_long() != Some(option)));
    }
    assert_eq!(documented, options, "options in the README against those of the program");
}

/// The rows of the README's reference table.
fn documented() -> Families {
    let rows = README
        .lines()
        .skip_while(|line| *line != "| name | type | labels | meaning |")
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let families: Families = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {row}") };
            assert!(!meaning.is_empty(), "without a meaning: {row}");
            let labels = labels.split_whitespace().map(|label| label.replace('`', "")).collect();
            (name.replace('`', ""), Family { kind: kind.to_owned(), labels })
        })
        .collect();
    assert!(!families.is_empty(), "the reference table is not found any more");
    families
}

/// What the encoder writes for `snapshot`.
fn exported(snapshot: Snapshot) -> Families {
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

fn text(snapshot: Snapshot) -> String {
    let build = BuildInfo {
        node: "node-1".to_owned(),
        kernel: "6.1.0".to_owned(),
        origin: Origin::Created,
    };
    let settings = Settings { detail: Level::Full, ..Settings::default() };
    encode(snapshot, &build, &settings, Part::All)
}

/// Name and labels of each sample; no value in these snapshots holds a quote or a comma.
fn samples(text: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let pair = |label| str::split_once(label, '=').expect("name and value");
        (name, labels.map(pair).map(|(name, value)| (name, value.trim_matches('"'))).collect())
    })
}

/// The lines of the README's `PromQL`, without comments.
fn queries() -> impl Iterator<Item = &'static str> {
    let block = README.split("```promql\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("there are queries").lines().filter(|line| !line.starts_with('#'))
}

/// The words of a query that can only be names of families.
fn families_in(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| {
        [
            "tcp_",
            "websocket_",
            "grpc_",
            "workload_pod_",
            "workload_tcp_",
            "workload_websocket_",
            "observer_",
        ]
        .iter()
        .any(|p| word.starts_with(p))
    })
}

fn empty() -> Snapshot {
    Snapshot::default()
}

/// A snapshot with a series for each role and protocol, in which every count is 1.
fn full() -> Snapshot {
    let identity = Arc::new(identify("/system.slice/nginx.service"));
    let keys = Role::ALL.iter().flat_map(|&role| {
        let identity = &identity;
        Protocol::ALL.iter().map(move |&protocol| SeriesKey {
            identity: Arc::clone(identity),
            role,
            protocol,
            port: 80,
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
        kubernetes: Some(kubernetes()),
    }
}

fn kubernetes() -> Kubernetes {
    let workload = Workload {
        namespace: "shop".to_owned(),
        kind: "Deployment".to_owned(),
        name: "web".to_owned(),
    };
    let totals = Protocol::ALL.iter().map(|&protocol| {
        let workload = workload.clone();
        (TotalKey { workload, role: Role::Server, protocol }, ones(protocol))
    });
    Kubernetes {
        health: Health { current: true, troubles: [1; _], pods: 1 },
        unnamed: 1,
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
