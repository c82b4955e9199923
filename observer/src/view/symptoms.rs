//! What the figures of a table say of the traffic: each symptom with its evidence, and the page that says what to do. Pure.

use std::collections::BTreeMap;

use observer_common::{label::Role, protocol::Protocol};

use super::{Finding, Mark, Row, Table};
use crate::format::by_reason;

/// So many ends make a share worth telling.
const ENOUGH: u64 = 10;
/// So many segments that were sent again do.
const MANY: u64 = 100;
/// Bytes of a full segment, near enough.
const SEGMENT: u64 = 1_400;

/// All symptoms, those of single rows first.
pub(super) fn symptoms(table: &Table) -> Vec<Finding> {
    let mut found: Vec<Finding> = table.rows.iter().flat_map(of_row).collect();
    found.extend(imbalance(&table.rows));
    found.extend(table.http_ports.iter().map(|port| {
        let text = format!(
            "{}: HTTP/1 came {} times to port {}, which otherwise speaks {}",
            place(&port.namespace, &port.pod),
            port.http1,
            port.port,
            port.speaks
        );
        Finding::new(Mark::Look, text).see("unexpected-port")
    }));
    found
}

fn place(namespace: &str, pod: &str) -> String {
    if namespace.is_empty() { pod.to_owned() } else { format!("{namespace}/{pod}") }
}

fn is_lasting(row: &Row) -> bool {
    [Protocol::WebSocket.label(), Protocol::Grpc.label()].contains(&row.protocol.as_str())
}

fn of_row(row: &Row) -> Vec<Finding> {
    let ended = row.ended();
    let mut found = Vec::new();
    let mut look = |runbook: &str, text: String| {
        let whose = place(&row.namespace, &row.pod);
        let text = format!("{whose} ({}, {}): {text}", row.role, row.protocol);
        found.push(Finding::new(Mark::Look, text).see(runbook));
    };
    if let Some(cut) = &row.idle_cut {
        let (ends, of_all, seconds, who) = (cut.ends, cut.of, cut.seconds, &cut.who);
        let at_least = if cut.at_least { "at least " } else { "" };
        look(
            "idle-cut",
            format!(
                "{at_least}{ends} of {of_all} silent connections were ended after {seconds} s, {who}"
            ),
        );
    }
    if !row.failed.is_empty() {
        let number: u64 = row.failed.values().sum();
        let reasons = by_reason(&row.failed);
        look("connect-timeouts", format!("{number} attempts to connect failed: {reasons}"));
    }
    let bad = row.bad();
    if bad >= ENOUGH && bad * 20 > ended {
        let orderly = ["local", "peer"];
        let reasons = row.closed.iter().filter(|(reason, _)| !orderly.contains(&reason.as_str()));
        let runbook = if is_lasting(row) { "bad-ends" } else { "resets" };
        look(runbook, format!("{bad} of {ended} connections ended badly: {}", by_reason(reasons)));
    }
    if is_lasting(row) && row.short >= ENOUGH && row.short * 2 > ended {
        let short = row.short;
        look("closed-young", format!("{short} of {ended} connections ended within a second"));
    }
    let (again, segments) = (row.retransmits, row.sent_bytes / SEGMENT);
    if again >= MANY && again * 20 > segments {
        look(
            "retransmissions",
            format!("{again} segments were sent again, of about {}", segments.max(again)),
        );
    }
    found
}

/// Workloads whose fullest pod on this node holds far more than the mean of those here.
fn imbalance(rows: &[Row]) -> Vec<Finding> {
    let mut workloads: BTreeMap<[&str; 4], BTreeMap<&str, u64>> = BTreeMap::new();
    let servers =
        rows.iter().filter(|row| row.role == Role::Server.label() && !row.workload_kind.is_empty());
    for row in servers.filter(|row| is_lasting(row)) {
        let key = [&row.namespace, &row.workload_kind, &row.workload, &row.protocol];
        let pods = workloads.entry(key.map(String::as_str)).or_default();
        // A relay in the pod holds the same connections once more.
        let pod = pods.entry(&row.pod).or_default();
        *pod = row.active.max(*pod);
    }
    let uneven = workloads.into_iter().filter_map(|([namespace, kind, name, protocol], pods)| {
        let sum: u64 = pods.values().sum();
        let (pod, most) = pods.iter().max_by_key(|(_, active)| **active)?;
        let mean = sum as f64 / pods.len() as f64;
        let times = *most as f64 / mean;
        (sum > 100 && times > 1.5).then(|| {
            let whose = place(namespace, name);
            let count = pods.len();
            let text = format!(
                "{kind} {whose} ({protocol}): {pod} holds {most}, {times:.1} times the mean of its {count} pods here"
            );
            Finding::new(Mark::Look, text).see("imbalance")
        })
    });
    uneven.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{HttpPort, IdleCut, findings::tests::table};

    fn row(pod: &str, active: u64) -> Row {
        Row {
            pod: pod.to_owned(),
            namespace: "shop".to_owned(),
            workload_kind: "Deployment".to_owned(),
            workload: "chat".to_owned(),
            role: "server".to_owned(),
            protocol: "websocket".to_owned(),
            active,
            ..Row::default()
        }
    }

    fn told(table: &Table) -> Vec<(String, String)> {
        let symptoms = symptoms(table).into_iter();
        symptoms.map(|found| (found.runbook.expect("each has a page"), found.text)).collect()
    }

    #[test]
    fn symptoms_are_told_with_their_evidence_and_a_page() {
        let sick = Row {
            opened: 40,
            closed: BTreeMap::from([("peer".to_owned(), 20), ("reset_peer".to_owned(), 20)]),
            short: 30,
            failed: BTreeMap::from([("refused".to_owned(), 3)]),
            retransmits: 120,
            sent_bytes: 1_400_000,
            idle_cut: Some(IdleCut {
                seconds: 60.0,
                ends: 12,
                of: 12,
                side: "peer".to_owned(),
                who: "from the peer: a proxy read timeout".to_owned(),
                at_least: false,
            }),
            ..row("chat-0", 0)
        };
        let expected = [
            (
                "idle-cut",
                "12 of 12 silent connections were ended after 60 s, from the peer: a proxy read timeout",
            ),
            ("connect-timeouts", "3 attempts to connect failed: refused 3"),
            ("bad-ends", "20 of 40 connections ended badly: reset_peer 20"),
            ("closed-young", "30 of 40 connections ended within a second"),
            ("retransmissions", "120 segments were sent again, of about 1000"),
        ];
        let expected = expected.map(|(page, text)| {
            (page.to_owned(), format!("shop/chat-0 (server, websocket): {text}"))
        });
        assert_eq!(told(&Table { rows: vec![sick], ..table() }), expected);
        let well = Row {
            opened: 400,
            closed: BTreeMap::from([("peer".to_owned(), 380), ("reset_peer".to_owned(), 20)]),
            short: 100,
            retransmits: 120,
            sent_bytes: 14_000_000,
            ..row("chat-0", 0)
        };
        assert!(told(&Table { rows: vec![well], ..table() }).is_empty());
    }

    #[test]
    fn an_uneven_workload_is_told_once() {
        let of = |actives: &[u64]| {
            let rows =
                actives.iter().enumerate().map(|(i, active)| row(&format!("chat-{i}"), *active));
            told(&Table { rows: rows.collect(), ..table() })
        };
        let text = "Deployment shop/chat (websocket): chat-0 holds 90, 2.2 times the mean of its 3 pods here";
        assert_eq!(of(&[90, 20, 10]), [("imbalance".to_owned(), text.to_owned())]);
        assert!(of(&[40, 20, 30]).is_empty(), "few, and even");
        assert!(of(&[60, 10]).is_empty(), "few");
        assert!(of(&[1_000]).is_empty(), "alone");
    }

    #[test]
    fn http_on_a_port_for_something_else_is_told() {
        let (namespace, pod, speaks) = ("shop".to_owned(), "chat-0".to_owned(), "grpc".to_owned());
        let http_ports = vec![HttpPort { namespace, pod, port: 50051, http1: 12, speaks }];
        let text = "shop/chat-0: HTTP/1 came 12 times to port 50051, which otherwise speaks grpc";
        let expected = [("unexpected-port".to_owned(), text.to_owned())];
        assert_eq!(told(&Table { http_ports, ..table() }), expected);
    }
}
