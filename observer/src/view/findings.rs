//! What a table says of itself: whether its figures can be trusted; and beside it what of the traffic is worth a look. Pure.

use std::time::SystemTime;

use humantime::parse_rfc3339;
use observer_common::{protocol::Protocol, wire::slot::is_nearly_full};
use serde::{Deserialize, Serialize};

use super::{Row, Table, symptoms::symptoms};
use crate::format::{bytes, count, time};

/// Symptoms that are told of at most.
const SYMPTOMS: usize = 20;

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// A part that observer does without.
    Miss,
    /// The observer is right, and the traffic may not be.
    Look,
    /// Figures are wrong or incomplete.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub mark: Mark,
    /// What it says.
    pub text: String,
    /// The page of `docs/runbooks` that says what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
}

impl Finding {
    /// A finding.
    #[must_use]
    pub fn new(mark: Mark, text: impl Into<String>) -> Self {
        Self { mark, text: text.into(), runbook: None }
    }

    /// With the page that says what to do.
    #[must_use]
    pub fn see(self, runbook: &str) -> Self {
        Self { runbook: Some(runbook.to_owned()), ..self }
    }
}

/// Of a part of the table: what is worth saying, with the page for what is not as it should be.
type Line = (Mark, String);

/// All that a table says.
pub(super) fn findings(table: &Table) -> Vec<Finding> {
    let parts = [
        (about(table), "observer-probe-missing"),
        (losses(table), "observer-losing"),
        (room(table), "observer-table-full"),
        (names(table), "observer-names-stale"),
        (contents(table), "observer-losing"),
        (unknown(table), "observer-blind"),
    ];
    let mut findings = Vec::new();
    for (lines, runbook) in parts {
        findings.extend(lines.into_iter().map(|(mark, text)| match mark {
            Mark::Ok | Mark::Look => Finding::new(mark, text),
            Mark::Miss | Mark::Fail => Finding::new(mark, text).see(runbook),
        }));
    }
    let mut symptoms = symptoms(table);
    let more = symptoms.len().saturating_sub(SYMPTOMS);
    symptoms.truncate(SYMPTOMS);
    findings.extend(symptoms);
    if more != 0 {
        let text = format!("{more} more of that kind; `observer top` shows all");
        findings.push(Finding::new(Mark::Look, text));
    }
    findings
}

fn about(table: &Table) -> Vec<Line> {
    let now = parse_rfc3339(&table.time).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = |text: &str| {
        let began = parse_rfc3339(text).ok();
        let age = began.and_then(|began| now.duration_since(began).ok());
        age.map_or_else(|| "an unknown time".to_owned(), |age| time(age.as_secs_f64()))
    };
    let (up, counts) = (since(&table.started), since(&table.since));
    let mut lines = vec![(
        Mark::Ok,
        format!(
            "observer {} on {}, kernel {}: up for {up}, counts for {counts} (kernel side {})",
            table.version, table.node, table.kernel, table.kernel_side
        ),
    )];
    if table.kernel_side == "replaced" {
        let what = "an update could not take over what was counted before: counters began at zero";
        lines.push((Mark::Look, what.to_owned()));
    }
    if let (Some(cpu), Some(memory)) = (table.cpu_seconds, table.resident_bytes) {
        let cost = format!(
            "it has used {} of a processor, and has {}B of memory",
            time(cpu),
            bytes(memory)
        );
        lines.push((Mark::Ok, cost));
    }
    let attached = table.probes.iter().filter(|probe| probe.missing.is_none()).count();
    lines.push((
        Mark::Ok,
        format!("{attached} of {} kernel programs are attached", table.probes.len()),
    ));
    for probe in &table.probes {
        if let Some(reason) = &probe.missing {
            let (program, tells) = (&probe.program, &probe.tells);
            lines.push((Mark::Miss, format!("{program}: {reason}; without it: {tells}")));
        }
    }
    lines
}

/// What each kind of loss makes incomplete, and whether figures are wrong for it.
fn losses(table: &Table) -> Vec<Line> {
    if table.lost.is_empty() {
        return vec![(Mark::Ok, "nothing was lost".to_owned())];
    }
    let told = |(kind, number): (&String, &u64)| {
        let (mark, what) = match kind.as_str() {
            "ring_full" => (Mark::Miss, "lines of `tail` and of the connection log; no count"),
            "table_full" => (Mark::Fail, "connections are counted for `overflow`: raise --cells"),
            "storage_refused" => {
                (Mark::Fail, "the kernel had no memory: these connections are not counted")
            }
            "unattributed" => (Mark::Miss, "connections without any segment: not counted"),
            "gap" => (
                Mark::Miss,
                "streams that could not be followed: messages after it are not counted",
            ),
            "malformed" => (Mark::Miss, "segments whose headers could not be read"),
            "unseen_end" => (Mark::Miss, "ends that were found later, and closed as `unknown`"),
            "misplaced_end" => {
                (Mark::Fail, "ends that were counted elsewhere: `active` may be too high")
            }
            "undecodable_cell" => (Mark::Fail, "cells of another version: not shown"),
            _ => (Mark::Fail, "see the reference of metrics"),
        };
        (mark, format!("lost: {} {kind}: {what}", count(*number)))
    };
    table.lost.iter().map(told).collect()
}

fn room(table: &Table) -> Vec<Line> {
    let (used, slots) = (table.slots_used, table.slots);
    let text = format!("{used} of {slots} slots of the kernel's table are in use");
    let mut lines = vec![if is_nearly_full(used, slots) {
        (Mark::Fail, format!("{text}: new cells do not tell ports apart; raise --cells"))
    } else {
        (Mark::Ok, text)
    }];
    if table.cgroups_skipped != 0 {
        let skipped = table.cgroups_skipped;
        let what = "forbidden, too deep or too many; what is below them has no name";
        lines.push((Mark::Miss, format!("{skipped} cgroup directories were not read: {what}")));
    }
    lines
}

fn names(table: &Table) -> Vec<Line> {
    let Some(names) = table.names else {
        return vec![(
            Mark::Miss,
            "nobody names pods: they go by their UID (see --kube)".to_owned(),
        )];
    };
    let mut lines = vec![if names.current {
        (Mark::Ok, format!("the API server names {} pods of this node", names.pods))
    } else {
        (
            Mark::Fail,
            "the API server does not answer: names of pods are old; see the log".to_owned(),
        )
    }];
    if names.unnamed != 0 {
        let what = "they go by their UID: is --node-name that of the node?";
        lines.push((Mark::Miss, format!("{} pods have no name yet; {what}", names.unnamed)));
    }
    lines
}

fn contents(table: &Table) -> Vec<Line> {
    let (replicas, active) = (table.replicas(), table.active);
    let mut lines = vec![(
        Mark::Ok,
        format!("{active} connections are open, in {replicas} pods, units and containers"),
    )];
    let is_tls = |row: &&Row| row.protocol == Protocol::Tls.label();
    let tls: u64 = table.rows.iter().filter(is_tls).map(|row| row.active).sum();
    if tls != 0 {
        let share = tls as f64 / active.max(1) as f64 * 100.0;
        let what = "what they speak inside is not seen";
        lines
            .push((Mark::Look, format!("{share:.0} % of the connections ({tls}) are TLS: {what}")));
    }
    for bucket in ["unattributed", "overflow"] {
        let of_bucket = |row: &&Row| row.namespace.is_empty() && row.pod == bucket;
        let opened: u64 = table.rows.iter().filter(of_bucket).map(|row| row.opened).sum();
        if opened != 0 {
            let what = "connections are counted without a name, as";
            lines.push((Mark::Miss, format!("{opened} {what} `{bucket}`")));
        }
    }
    lines
}

/// Pods whose users are not known.
fn unknown(table: &Table) -> Vec<Line> {
    let told = |(reason, pods): (&String, &u64)| {
        let what = "autoscalers that ask for it get no answer";
        (Mark::Miss, format!("{pods} pods have no number of users ({reason}); {what}"))
    };
    table.withheld.iter().map(told).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::view::Names;

    pub(in crate::view) fn table() -> Table {
        Table {
            event: "table".to_owned(),
            time: "2026-01-01T01:00:00Z".to_owned(),
            node: "node-1".to_owned(),
            version: "0.1.0".to_owned(),
            abi: "0".to_owned(),
            kernel: "6.1.0".to_owned(),
            kernel_side: "created".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            cpu_seconds: Some(1.5),
            resident_bytes: Some(20 << 20),
            lost: BTreeMap::new(),
            slots_used: 10,
            slots: 1000,
            cgroups_skipped: 0,
            probes: Vec::new(),
            names: Some(Names { current: true, pods: 3, unnamed: 0 }),
            active: 0,
            rows: Vec::new(),
            rows_left_out: 0,
            withheld: BTreeMap::new(),
            http_ports: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn marks(table: &Table, mark: Mark) -> Vec<String> {
        let found = findings(table).into_iter().filter(|finding| finding.mark == mark);
        found.map(|finding| finding.text).collect()
    }

    #[test]
    fn a_healthy_observer_has_no_complaints() {
        let table = table();
        let ok = marks(&table, Mark::Ok);
        assert!(ok[0].contains("up for 1h00m"), "{ok:?}");
        assert!(ok.contains(&"nothing was lost".to_owned()), "{ok:?}");
        for mark in [Mark::Miss, Mark::Look, Mark::Fail] {
            assert!(marks(&table, mark).is_empty(), "{mark:?}: {:?}", marks(&table, mark));
        }
    }

    #[test]
    fn what_makes_figures_wrong_fails() {
        let lost = |kind: &str| Table { lost: BTreeMap::from([(kind.to_owned(), 12)]), ..table() };
        assert_eq!(marks(&lost("table_full"), Mark::Fail).len(), 1);
        assert!(marks(&lost("ring_full"), Mark::Fail).is_empty());
        assert_eq!(marks(&lost("ring_full"), Mark::Miss).len(), 1);
        assert_eq!(marks(&Table { slots_used: 999, ..table() }, Mark::Fail).len(), 1);
        let stale = Names { current: false, pods: 0, unnamed: 2 };
        let stale = Table { names: Some(stale), ..table() };
        assert_eq!((marks(&stale, Mark::Fail).len(), marks(&stale, Mark::Miss).len()), (1, 1));
    }

    #[test]
    fn what_is_not_as_it_should_be_has_a_page() {
        let bad = Table {
            lost: BTreeMap::from([("table_full".to_owned(), 1)]),
            withheld: BTreeMap::from([("blind".to_owned(), 2)]),
            names: Some(Names { current: false, pods: 0, unnamed: 2 }),
            ..table()
        };
        let pages: Vec<_> = findings(&bad).into_iter().filter_map(|found| found.runbook).collect();
        let expected =
            ["observer-losing", "observer-names-stale", "observer-names-stale", "observer-blind"];
        assert_eq!(pages, expected);
        assert!(findings(&table()).iter().all(|found| found.runbook.is_none()));
    }

    #[test]
    fn only_so_many_symptoms_are_told() {
        let row = Row { failed: BTreeMap::from([("refused".to_owned(), 3)]), ..Row::default() };
        let many = Table { rows: vec![row; SYMPTOMS + 20], ..table() };
        assert_eq!(marks(&many, Mark::Look).len(), SYMPTOMS + 1);
    }
}
