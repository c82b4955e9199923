//! `cargo xtask dashboards`: what is made for those who look and watch, and committed.

mod grafana;
mod operator;
mod overview;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use self::grafana::Dashboard;
use self::operator::RULES;
use self::workload::Users;
use crate::cmd;

/// Writes everything.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn run() -> Result<()> {
    for (path, text) in made()? {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The dashboards.
fn dashboards() -> [Dashboard; 6] {
    [
        overview::overview(),
        workload::users(Users::WebSocket),
        workload::users(Users::Grpc),
        workload::relays(),
        workload::rollouts(),
        overview::agents(),
    ]
}

/// All files, and what is to stand in them.
fn made() -> Result<Vec<(PathBuf, String)>> {
    let components = cmd::workspace().join("deploy/components");
    let mut files = Vec::new();
    for rules in RULES {
        let plain = components.join("prometheus").join(rules.file);
        let plain =
            fs::read_to_string(&plain).with_context(|| format!("reading {}", plain.display()))?;
        files.push((components.join("prometheus-operator").join(rules.file), rules.object(&plain)));
    }
    for dashboard in dashboards() {
        let file = format!("dashboards/{}.json", dashboard.name);
        files.push((components.join(file), dashboard.json()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// The numbers of a row's panels follow that of its heading, and those of the next row theirs.
    #[test]
    fn every_panel_has_a_number_and_a_place_of_its_own() {
        for dashboard in dashboards() {
            let json: Value = serde_json::from_str(&dashboard.json()).unwrap();
            let panels = json["panels"].as_array().unwrap();
            let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
            assert_eq!(ids.len(), panels.len(), "{}", dashboard.name);
            let mut cells = BTreeSet::new();
            for place in panels.iter().map(|panel| &panel["gridPos"]) {
                let of = |side: &str| place[side].as_u64().unwrap();
                assert!(of("x") + of("w") <= 24, "{}: {place}", dashboard.name);
                for x in of("x")..of("x") + of("w") {
                    for y in of("y")..of("y") + of("h") {
                        assert!(cells.insert((x, y)), "{}: two panels at {x}, {y}", dashboard.name);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_committed_is_what_is_made() {
        for (path, text) in made().unwrap() {
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{}: `cargo xtask dashboards` writes it anew",
                path.display()
            );
        }
    }
}
