//! The shipped alerts: each says how bad it is, whose it is and where to read on, and is tested both ways.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::documents::read;

const ALERTS: &str = "deploy/components/prometheus/alerts.yaml";
const TESTS: &str = "deploy/components/prometheus/alerts.test.yaml";

/// A list of a YAML file's object; empty if it is not there.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The shipped alerts.
pub(crate) fn alerts() -> Vec<Value> {
    let groups = yaml(ALERTS);
    let rules = list(&groups["groups"]).iter().flat_map(|group| list(&group["rules"]));
    let alerts: Vec<_> = rules.cloned().collect();
    assert!(alerts.len() > 10, "{ALERTS} has {}", alerts.len());
    alerts
}

#[test]
fn every_alert_says_how_bad_it_is_and_whose() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = text(&alert["alert"]);
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        let severity = text(&alert["labels"]["severity"]);
        assert!(["info", "warning", "critical"].contains(&severity), "{name}: {severity}");
        let annotations = &alert["annotations"];
        let (summary, description) =
            (text(&annotations["summary"]), text(&annotations["description"]));
        assert!(summary.len() < 120 && !summary.contains("$value"), "{name}: {summary}");
        // Whose it is.
        let whose = ["$labels.pod", "$labels.workload", "$labels.instance"];
        for said in [summary, description] {
            assert!(whose.iter().any(|label| said.contains(label)), "{name}: {said}");
        }
        // Since when: for how long it has to hold, or over what it is counted.
        let since = match text(&alert["for"]).strip_suffix('m') {
            None => "in the last ".to_owned(),
            Some(minutes) => format!("for {minutes} minutes or more"),
        };
        let said = description.to_lowercase();
        assert!(said.contains(&since), "{name}: {since:?} is not in {description}");
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to() {
    let tests = yaml(TESTS);
    let mut outcomes: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for case in list(&tests["tests"]).iter().flat_map(|test| list(&test["alert_rule_test"])) {
        let fires = !list(&case["exp_alerts"]).is_empty();
        outcomes.entry(text(&case["alertname"]).to_owned()).or_default().insert(fires);
    }
    for alert in alerts() {
        let name = text(&alert["alert"]);
        let outcome = outcomes.remove(name).unwrap_or_default();
        assert_eq!(outcome.len(), 2, "{name} is tested for {outcome:?} only");
    }
    assert!(outcomes.is_empty(), "no such alerts: {outcomes:?}");
}
