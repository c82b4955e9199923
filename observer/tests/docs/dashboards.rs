//! The shipped dashboards: their metrics exist, and each panel says what to do.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::{
    documents::{checkout, read},
    exported::{assert_exported, families_in},
};

const DASHBOARDS: &str = "deploy/components/dashboards";

/// Names and contents.
fn dashboards() -> Vec<(String, Value)> {
    let entries = fs::read_dir(checkout().join(DASHBOARDS)).expect("there are dashboards");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    let of_json = names.filter(|name| Path::new(name).extension().is_some_and(|of| of == "json"));
    let mut names: Vec<_> = of_json.map(|name| name.display().to_string()).collect();
    names.sort();
    let parsed = names.into_iter().map(|name| {
        let text = read(&format!("{DASHBOARDS}/{name}"));
        (name, serde_json::from_str(&text).expect("it is JSON"))
    });
    parsed.collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The panels, with where they are.
fn panels() -> Vec<(String, Value)> {
    let all = dashboards().into_iter().flat_map(|(name, dashboard)| {
        let panels = list(&dashboard["panels"]).to_vec();
        panels.into_iter().map(move |panel| (format!("{name}: {}", text(&panel["title"])), panel))
    });
    let panels: Vec<_> = all.filter(|(_, panel)| panel["type"] != "row").collect();
    assert!(panels.len() > 40, "{}", panels.len());
    panels
}

#[test]
fn every_panel_says_when_it_is_bad_and_what_to_do() {
    for (place, panel) in panels() {
        let description = text(&panel["description"]);
        let (shows, bad) = description.split_once("\n\n**Bad:** ").expect("it has both");
        assert!(shows.len() > 10 && shows.ends_with('.'), "{place}: {shows}");
        let says = bad.contains(": ") || bad.contains("(runbook");
        assert!(bad.len() > 20 && says && bad.ends_with('.'), "{place}: {bad}");
        // The names after `runbook` are pages.
        let bad = bad.replace("runbooks ", "runbook ");
        for list in bad.split("runbook ").skip(1) {
            let list = list.split([')', '.', ':']).next();
            for page in list.unwrap_or_default().split(", ") {
                let page = page.split_whitespace().next().expect("a name");
                let is_page = checkout().join(format!("docs/runbooks/{page}.md")).is_file();
                assert!(is_page, "{place}: no runbook {page}");
            }
        }
    }
}

#[test]
fn every_panel_asks_for_what_is_exported_or_recorded() {
    let rules = read("deploy/components/prometheus/rules.yaml");
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim_start().strip_prefix("- record: ")).collect();
    for (place, panel) in panels() {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
        let targets = list(&panel["targets"]);
        assert!(!targets.is_empty(), "{place} asks nothing");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
            // The name of the autoscaler's metric is no family.
            let query = text(&target["expr"]).replace("_connections\"}", "\"}");
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let (records, others): (Vec<&str>, Vec<&str>) =
                words.partition(|word| word.trim_matches(':').contains(':'));
            for record in records {
                assert!(recorded.contains(record), "{place}: nothing records {record}");
            }
            assert_exported(others.into_iter().flat_map(families_in).collect());
        }
    }
}

#[test]
fn every_dashboard_is_shipped() {
    let component = read(&format!("{DASHBOARDS}/kustomization.yaml"));
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(component.contains(&format!("files: [{name}]")), "{name} is in no ConfigMap");
        assert!(uids.insert(text(&dashboard["uid"]).to_owned()), "{name} has another's uid");
    }
    assert_eq!(uids.len(), component.matches("files: [").count());
}
