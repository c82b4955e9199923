//! Families, labels and queries in the documents.

use std::{collections::BTreeSet, env, fmt::Write as _, fs};

use observer::export::{Described, describe};
use observer_common::{counters::Level, protocol::Protocol};

use crate::{
    documents::{all, blocks, checkout, read},
    exported::{
        assert_exported, empty, exported, families_in, full, labels_of, samples, series_of_a_row,
        text, text_at,
    },
};

const REFERENCE: &str = "docs/metrics.md";

/// What asks Prometheus.
const SHIPPED: [&str; 6] = [
    "deploy/components/prometheus/rules.yaml",
    "deploy/components/prometheus/alerts.yaml",
    "deploy/components/prometheus-adapter/config.yaml",
    "deploy/components/prometheus-adapter/users-rule.yaml",
    "deploy/examples/keda/grpc/scaled-object.yaml",
    "deploy/examples/keda/websocket/scaled-object.yaml",
];

/// Labels whose values are words of ours, each of which has to be explained.
const CLOSED_LABELS: [&str; 9] =
    ["cause", "direction", "kind", "log", "path", "protocol", "reason", "role", "side"];

/// Where the tables stand that are made here.
const BEGIN: &str = "<!-- reference:begin: written by `cargo xtask docs` -->\n";
const END: &str = "<!-- reference:end -->";

/// The parts of the reference, by the starts of names; a family belongs to the first that fits.
const PARTS: [(&str, &[&str]); 5] = [
    ("Users", &["websocket_", "grpc_", "http_", "http2_"]),
    ("Connections", &["tcp_"]),
    ("Workloads", &["workload_"]),
    ("The observer", &["observer_"]),
    ("Its process", &["process_"]),
];

fn part(name: &str) -> usize {
    let part = PARTS.iter().position(|(_, starts)| starts.iter().any(|s| name.starts_with(s)));
    part.unwrap_or_else(|| panic!("{name} belongs to no part of the reference"))
}

/// The reference, as the program is.
fn reference() -> String {
    let (families, text) = (exported(full()), text(full()));
    let levels = [Level::Core, Level::Standard, Level::Full].map(|at| (at, text_at(at, full())));
    let mut tables = String::new();
    for (number, (title, _)) in PARTS.iter().enumerate() {
        let mut rows: Vec<Described> = describe().filter(|f| part(&f.name) == number).collect();
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        let _ = write!(
            tables,
            "\n### {title}\n\n| name | type | labels | level | series | meaning |\n"
        );
        tables.push_str("|---|---|---|---|---|---|\n");
        for Described { name, kind, help, level } in rows {
            let of = families.get(&name).unwrap_or_else(|| panic!("{name} is never exported"));
            assert_eq!(of.kind, kind, "{name}");
            let labels = labels_of(&text, &name);
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let of_level = levels.iter().find(|(at, _)| Some(*at) == level.or(Some(Level::Core)));
            let series = series_of_a_row(&of_level.expect("all are there").1, &name);
            assert_ne!(series, 0, "{name} has no series at its level");
            let row = if of.labels.contains("uid") {
                "a pod"
            } else if of.labels.contains("workload") {
                "a workload's role and protocol"
            } else if of.labels.contains("port") {
                "a combination"
            } else if of.labels.contains("role") {
                "a pod's role and protocol"
            } else if of.labels.contains("pod") {
                "a pod"
            } else {
                ""
            };
            let series = if row.is_empty() { String::new() } else { format!("{series} for {row}") };
            let level = match level {
                None => "any",
                Some(Level::Core) => "core",
                Some(Level::Standard) => "standard",
                Some(Level::Full) => "full",
            };
            let help = help.replace('|', "\\|");
            let labels = labels.join(" ");
            let _ =
                writeln!(tables, "| `{name}` | {kind} | {labels} | {level} | {series} | {help} |");
        }
    }
    tables
}

#[test]
fn the_reference_is_what_the_program_exports() {
    let page = read(REFERENCE);
    let (before, rest) = page.split_once(BEGIN).expect("the page has marks");
    let (was, after) = rest.split_once(END).expect("the page has marks");
    let is = format!("{}\n", reference());
    if env::var_os("OBSERVER_WRITE_DOCS").is_some() {
        let page = format!("{before}{BEGIN}{is}{END}{after}");
        fs::write(checkout().join(REFERENCE), page).expect("the checkout can be written");
    } else {
        assert!(was == is, "{REFERENCE} is of another program: `cargo xtask docs` writes it anew");
    }
}

#[test]
fn every_family_is_described_and_every_described_family_is_exported() {
    let described: BTreeSet<String> = describe().map(|family| family.name).collect();
    let exported: BTreeSet<String> = exported(full()).into_keys().collect();
    assert_eq!(described, exported);
}

#[test]
fn no_family_waits_for_its_first_series() {
    let names = |snapshot| exported(snapshot).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(names(empty()), names(full()));
}

#[test]
fn every_label_value_is_explained() {
    let page = read(REFERENCE);
    let explained: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let text = text(full());
    let missing: BTreeSet<_> = samples(&text)
        .flat_map(|(_, labels)| labels)
        .filter(|(name, value)| CLOSED_LABELS.contains(name) && !value.is_empty())
        .filter(|(_, value)| !explained.contains(value))
        .collect();
    assert!(missing.is_empty(), "not in {REFERENCE}: {missing:?}");
}

#[test]
fn every_query_asks_for_exported_families() {
    let mut asked = 0;
    for path in all() {
        let page = read(&path.display().to_string());
        for block in blocks(&page, "promql") {
            let lines = block.lines().filter(|line| !line.starts_with('#'));
            // What recording rules make of them has a colon.
            let words = lines.flat_map(str::split_whitespace).filter(|word| !word.contains(':'));
            let families: BTreeSet<&str> = words.flat_map(families_in).collect();
            asked += families.len();
            assert_exported(families);
        }
    }
    assert!(asked > 20, "the queries are not found any more");
}

#[test]
fn every_rule_asks_for_exported_families() {
    for file in SHIPPED {
        // The names that rules give, and those under which adapters pass them on, are not exported.
        let file = read(file).replace("metric_name=\"websocket_connections\"", "");
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

/// What the pages call a family is one.
#[test]
fn every_family_that_a_document_names_is_exported() {
    let is_family = |word: &&str| {
        let endings = ["_total", "_active", "_relayed", "_info", "_seconds"];
        let starts = ["websocket_", "grpc_", "tcp_", "workload_", "http_", "http2_", "observer_"];
        let is_plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_plain
            && starts.iter().any(|start| word.starts_with(start))
            && endings.iter().any(|end| word.ends_with(end))
    };
    for path in all() {
        let page = read(&path.display().to_string());
        // There families of other programs stand beside ours, and ours of other versions.
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        let quoted = page.split('`').skip(1).step_by(2);
        let names = quoted.map(|quoted| quoted.split('{').next().unwrap_or_default());
        let known: BTreeSet<String> = exported(full()).into_keys().collect();
        for name in names.filter(is_family) {
            assert!(known.contains(name), "{}: {name} is not exported", path.display());
        }
    }
}

#[test]
fn every_protocol_has_a_page_from_the_one_template() {
    let headings = |page: &str| -> Vec<String> {
        page.lines().filter(|line| line.starts_with("## ")).map(str::to_owned).collect()
    };
    let template = headings(&read("docs/protocols/template.md"));
    assert!(template.len() > 3, "{template:?}");
    for protocol in Protocol::ALL {
        let page = read(&format!("docs/protocols/{}.md", protocol.label()));
        assert_eq!(headings(&page), template, "docs/protocols/{}.md", protocol.label());
    }
}
