//! What the figures of a table say: whether they can be trusted, and what of the traffic is worth a look. Pure.

use std::time::SystemTime;

use humantime::parse_rfc3339;
use observer_common::{label::Role, protocol::Protocol, wire::slot::is_nearly_full};
use serde::{Deserialize, Serialize};

use super::{Row, Table};
use crate::format::{by_reason, bytes, count, time};

/// Symptoms that are told of at most.
const SYMPTOMS: usize = 20;
/// So many ends make a share worth telling.
const ENOUGH: u64 = 10;

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
}

type Line = (Mark, String);

/// All that a table says.
pub(super) fn findings(table: &Table) -> Vec<Finding> {
    let mut lines = about(table);
    lines.extend(losses(table));
    lines.extend(room(table));
    lines.extend(names(table));
    lines.extend(contents(table));
    let mut symptoms: Vec<String> = table.rows.iter().flat_map(symptoms).collect();
    let more = symptoms.len().saturating_sub(SYMPTOMS);
    symptoms.truncate(SYMPTOMS);
    lines.extend(symptoms.into_iter().map(|symptom| (Mark::Look, symptom)));
    if more != 0 {
        lines.push((Mark::Look, format!("{more} more of that kind; `observer top` shows all")));
    }
    lines.into_iter().map(|(mark, text)| Finding { mark, text }).collect()
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

/// What the figures of a row say of the traffic.
fn symptoms(row: &Row) -> Vec<String> {
    let ended = row.ended();
    let of = |text: String| {
        let (name, role, protocol) = (&row.pod, &row.role, &row.protocol);
        let place =
            if row.namespace.is_empty() { String::new() } else { format!("{}/", row.namespace) };
        format!("{place}{name} ({role}, {protocol}): {text}")
    };
    let mut found = Vec::new();
    if let Some(cut) = &row.idle_cut {
        let who = match (cut.side.as_str(), row.role == Role::Server.label()) {
            ("peer", true) => "the peer: a proxy's read timeout",
            ("peer", false) => "the peer: a timeout of the server, or of a proxy before it",
            _ => "this side: a timeout of its own",
        };
        let (ends, of_all, seconds) = (cut.ends, cut.of, cut.seconds);
        found.push(of(format!(
            "{ends} of {of_all} silent connections were ended after {seconds} s by {who}"
        )));
    }
    if !row.failed.is_empty() {
        let number: u64 = row.failed.values().sum();
        found.push(of(format!("{number} attempts to connect failed: {}", by_reason(&row.failed))));
    }
    let bad = row.bad();
    if bad >= ENOUGH && bad * 20 > ended {
        let orderly = ["local", "peer"];
        let reasons = row.closed.iter().filter(|(reason, _)| !orderly.contains(&reason.as_str()));
        found.push(of(format!("{bad} of {ended} connections ended badly: {}", by_reason(reasons))));
    }
    let long_lived = [Protocol::WebSocket.label(), Protocol::Grpc.label()];
    if long_lived.contains(&row.protocol.as_str()) && row.short >= ENOUGH && row.short * 2 > ended {
        found.push(of(format!("{} of {ended} connections ended within a second", row.short)));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::view::{IdleCut, Names};

    fn table() -> Table {
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
    fn symptoms_are_told_with_their_evidence() {
        let row = Row {
            pod: "chat-0".to_owned(),
            namespace: "shop".to_owned(),
            role: "server".to_owned(),
            protocol: "websocket".to_owned(),
            opened: 40,
            closed: BTreeMap::from([("peer".to_owned(), 20), ("reset_peer".to_owned(), 20)]),
            short: 30,
            failed: BTreeMap::from([("refused".to_owned(), 3)]),
            idle_cut: Some(IdleCut { seconds: 60, ends: 12, of: 12, side: "peer".to_owned() }),
            ..Row::default()
        };
        let found = marks(&Table { rows: vec![row.clone()], ..table() }, Mark::Look);
        let whose = "shop/chat-0 (server, websocket): ";
        assert_eq!(
            found,
            [
                "12 of 12 silent connections were ended after 60 s by the peer: a proxy's read timeout",
                "3 attempts to connect failed: refused 3",
                "20 of 40 connections ended badly: reset_peer 20",
                "30 of 40 connections ended within a second",
            ]
            .map(|text| format!("{whose}{text}"))
        );
        let many = Table { rows: vec![row; 10], ..table() };
        assert_eq!(marks(&many, Mark::Look).len(), SYMPTOMS + 1);
    }
}
