//! The runbooks: one template, and alerts and pages lead to each other.

use std::collections::BTreeSet;

use crate::{
    alerts::{alerts, text},
    documents::{checkout, read},
};

const RUNBOOKS: &str = "docs/runbooks";
/// What stands in for the place where people read them.
const BASE: &str = "https://observer.example/";
/// The headings of each, in this order.
const HEADINGS: [&str; 5] = ["Meaning", "Confirm", "Causes", "Fix", "Prevention"];

/// The names of the pages, without that of the list.
fn pages() -> BTreeSet<String> {
    let entries = checkout().join(RUNBOOKS).read_dir().expect("there are runbooks");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    names.map(|name| name.display().to_string()).filter(|name| name != "README.md").collect()
}

#[test]
fn every_runbook_has_the_same_parts() {
    for name in pages() {
        let page = read(&format!("{RUNBOOKS}/{name}"));
        let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{name}");
        assert!(page.contains("```promql\n"), "{name} has no query");
        assert!(page.lines().count() < 120, "{name} is too long to be read at night");
    }
}

#[test]
fn alerts_and_runbooks_lead_to_each_other() {
    let list = read(&format!("{RUNBOOKS}/README.md"));
    let mut read_by_alerts = BTreeSet::new();
    for alert in alerts() {
        let (name, url) = (text(&alert["alert"]), text(&alert["annotations"]["runbook_url"]));
        let path = url.strip_prefix(BASE).unwrap_or_else(|| panic!("{name}: {url}"));
        assert!(checkout().join(path).is_file(), "{name}: {path} is not there");
        let page = path.strip_prefix("docs/runbooks/").expect("runbooks are there").to_owned();
        // The second line that is not empty names its alerts.
        let told = read(path).lines().any(|line| {
            (line.starts_with("Alert: ") || line.starts_with("Alerts: "))
                && line.contains(&format!("`{name}`"))
        });
        assert!(told, "{page} does not name {name}");
        let row = list.lines().find(|line| line.contains(&format!("`{name}`")));
        assert!(row.is_some_and(|row| row.contains(&format!("({page})"))), "{name}: {row:?}");
        read_by_alerts.insert(page);
    }
    assert_eq!(read_by_alerts, pages(), "what alerts lead to against what is there");
}
