//! The table: what each replica counts, by role and protocol, and whether the figures can be trusted. Pure, but for what this
//! process costs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};

use humantime::format_rfc3339_seconds;
use observer_common::{
    abi::ABI,
    counters::{Counter, Owner},
    label::{Direction, Failure, Path as PathOf, Reason, Role},
    protocol::{BLOCKS, Protocol, websocket::counters as websocket},
    wire::slot,
};
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::{Finding, HttpPort, findings::findings, ports::http_ports};
use crate::{
    aggregate::{Cut, Ends, Series, Withheld, who},
    attribute::Workload,
    bpf::ProbeState,
    collect::{NamedPod, Snapshot},
    model::Counts,
};

/// Rows that a table has at most: those with the most connections.
const ROWS: usize = 5_000;
/// Ports that a row names at most: those with the most connections.
const PORTS: usize = 8;

/// What this daemon is.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Name of the node.
    pub node: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// How the daemon came by its kernel side.
    pub kernel_side: &'static str,
    /// When it was started.
    pub started: SystemTime,
}

/// All that one look shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// `table`.
    pub event: String,
    /// When the cells were read.
    pub time: String,
    /// Name of the node.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// The version of what it shares with the kernel.
    pub abi: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// `created`, `taken_over` or `replaced`.
    pub kernel_side: String,
    /// When the daemon was started.
    pub started: String,
    /// When the kernel side began to count.
    pub since: String,
    /// Seconds of a processor that the daemon has used.
    pub cpu_seconds: Option<f64>,
    /// Its memory.
    pub resident_bytes: Option<u64>,
    /// What was lost, by kind; kinds of which nothing was lost are left out.
    pub lost: BTreeMap<String, u64>,
    /// Slots of the kernel's table that are in use.
    pub slots_used: u64,
    /// Slots in all.
    pub slots: u64,
    /// Cgroup directories that the last walk did not read.
    pub cgroups_skipped: u64,
    /// Every kernel program.
    pub probes: Vec<Probe>,
    /// How it is with the names of pods; absent when nobody names them.
    pub names: Option<Names>,
    /// Connections that are open, over all rows, those left out included.
    pub active: u64,
    /// The rows, those with the most open connections first.
    pub rows: Vec<Row>,
    /// Rows that had no place.
    pub rows_left_out: usize,
    /// Pods whose users are not known, by reason.
    #[serde(default)]
    pub withheld: BTreeMap<String, u64>,
    /// Ports on which HTTP/1 is the exception.
    #[serde(default)]
    pub http_ports: Vec<HttpPort>,
    /// What all of it says.
    pub findings: Vec<Finding>,
}

/// A kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Its name.
    pub program: String,
    /// Where it runs.
    pub hook: String,
    /// What it tells.
    pub tells: String,
    /// Why it is not attached, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// How it is with the names of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Whether they are as new as the API server's.
    pub current: bool,
    /// Pods that the API server has on this node.
    pub pods: u64,
    /// Pods with a cgroup here that have no name yet.
    pub unnamed: u64,
}

/// What a replica counts of one role and protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As the label.
    pub namespace: String,
    /// As the label.
    pub pod: String,
    /// Kind of the workload; empty where nobody names pods.
    pub workload_kind: String,
    /// The workload; the pod itself where nobody names pods.
    pub workload: String,
    /// As the label.
    pub role: String,
    /// As the label.
    pub protocol: String,
    /// As the label: whether the other ends are in the same pod.
    pub path: String,
    /// The server's ports, those with the most connections first.
    pub ports: Vec<u16>,
    /// Connections that are open.
    pub active: u64,
    /// Connections that spoke the protocol last: those that are open, and those that are over.
    pub opened: u64,
    /// Of those, the ones that are over, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Of those, the ones that lived for a second at most.
    pub short: u64,
    /// Failed attempts to connect, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Messages received and sent, of a protocol whose messages are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<[u64; 2]>,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// Half of the sampled round-trip times were no longer than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_seconds: Option<f64>,
    /// A timer that cuts silent connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_cut: Option<IdleCut>,
}

/// Connections that one side ended after the same silence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleCut {
    /// The silence: to a tenth of a second below ten seconds, to a second above.
    pub seconds: f64,
    /// How many of the last ends after silence.
    pub ends: u64,
    /// How many these are.
    pub of: u64,
    /// Who ended them, as the label.
    pub side: String,
    /// The same in words, with what it may be.
    pub who: String,
    /// Whether there may have been more, since records were lost.
    pub at_least: bool,
}

impl IdleCut {
    fn new(whose: &Ends, cut: Cut) -> Self {
        let Cut { seconds, ends, of, place, at_least } = cut;
        let side = whose.side.label().to_owned();
        Self { seconds, ends, of, side, who: who(whose.side, whose.role, place), at_least }
    }
}

impl Table {
    /// The table of a snapshot that was taken at the first of `times`, of a kernel side that counts since the second; only of
    /// the namespaces that are `wanted`.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        daemon: &Daemon,
        times: (SystemTime, SystemTime),
        wanted: &dyn Fn(&str) -> bool,
    ) -> Self {
        let text = |time| format_rfc3339_seconds(time).to_string();
        let pods = snapshot.kubernetes.as_ref().map(|known| &known.pods[..]).unwrap_or_default();
        let all = snapshot.series.iter().chain(&snapshot.folded);
        let mut rows = rows(all.filter(|row| wanted(&row.key.identity.namespace)), pods);
        for (whose, cut) in &snapshot.cuts {
            let labels = (whose.role.label(), whose.protocol.label());
            let of_these = rows.iter_mut().filter(|row| {
                (row.namespace.as_str(), row.pod.as_str()) == (&whose.namespace, &whose.pod)
                    && (row.role.as_str(), row.protocol.as_str()) == labels
            });
            // Ends are not told apart by path, and one row has them.
            if let Some(row) = of_these.max_by_key(|row| row.ended()) {
                row.cut_by(IdleCut::new(whose, *cut));
            }
        }
        let active = rows.iter().map(|row| row.active).sum();
        let rows_left_out = rows.len().saturating_sub(ROWS);
        rows.truncate(ROWS);
        let stat = Process::myself().and_then(|process| process.stat()).ok();
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let lost = snapshot.losses.iter().map(|(loss, count)| (loss.label(), *count));
        let lost = lost.chain([("undecodable_cell", snapshot.undecodable)]);
        let probe = |(probe, state): &(&'static crate::bpf::programs::Probe, ProbeState)| Probe {
            program: probe.program.to_owned(),
            hook: probe.hook.name().to_owned(),
            tells: probe.tells.to_owned(),
            missing: match state {
                ProbeState::Active => None,
                ProbeState::Unavailable(reason) => Some(reason.clone()),
            },
        };
        let is_wanted = |row: &&Series| wanted(&row.key.identity.namespace);
        let reasons = Withheld::ALL.into_iter();
        let of_reason = |reason| {
            let of_these = snapshot.trust.iter().filter(|pod| wanted(&pod.namespace));
            of_these.filter(|pod| pod.withheld == Some(reason)).count() as u64
        };
        let mut table = Self {
            event: "table".to_owned(),
            time: text(times.0),
            node: daemon.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: format!("{ABI:016x}"),
            kernel: daemon.kernel.clone(),
            kernel_side: daemon.kernel_side.to_owned(),
            started: text(daemon.started),
            since: text(times.1),
            cpu_seconds: stat.as_ref().map(|stat| seconds(stat.utime + stat.stime)),
            resident_bytes: stat.map(|stat| stat.rss * procfs::page_size()),
            lost: counted(lost),
            slots_used: snapshot.cells.0,
            slots: snapshot.cells.1,
            cgroups_skipped: snapshot.cgroups_skipped,
            probes: snapshot.probes.iter().map(probe).collect(),
            names: snapshot.kubernetes.as_ref().map(|known| Names {
                current: known.health.current,
                pods: known.health.pods,
                unnamed: known.unnamed,
            }),
            active,
            rows,
            rows_left_out,
            withheld: counted(reasons.map(|reason| (reason.label(), of_reason(reason)))),
            http_ports: http_ports(snapshot.series.iter().filter(is_wanted)),
            findings: Vec::new(),
        };
        table.findings = findings(&table);
        table
    }
}

impl Table {
    /// How many replicas have rows.
    #[must_use]
    pub fn replicas(&self) -> usize {
        let names: BTreeSet<_> = self.rows.iter().map(|row| (&row.namespace, &row.pod)).collect();
        names.len()
    }
}

impl Row {
    /// What tells a row from the others of a table.
    #[must_use]
    pub fn key(&self) -> [&str; 5] {
        [&self.namespace, &self.pod, &self.role, &self.protocol, &self.path]
    }

    /// Connections that are over.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.closed.values().sum()
    }

    /// Of those, the ones that did not end by an orderly close.
    #[must_use]
    pub fn bad(&self) -> u64 {
        let orderly = [Reason::Local.label(), Reason::Peer.label()];
        let bad = self.closed.iter().filter(|(reason, _)| !orderly.contains(&reason.as_str()));
        bad.map(|(_, count)| count).sum()
    }

    /// Of two timers, one of each side, that with more ends is shown.
    fn cut_by(&mut self, cut: IdleCut) {
        if self.idle_cut.as_ref().is_none_or(|known| known.ends < cut.ends) {
            self.idle_cut = Some(cut);
        }
    }

    /// Whether there is nothing to tell.
    fn is_empty(&self) -> bool {
        self.active == 0 && self.opened == 0 && self.ended() == 0 && self.failed.is_empty()
    }
}

/// What has been counted of each, without what has not.
fn counted<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    let counted = counts.into_iter().filter(|(_, count)| *count != 0);
    counted.map(|(label, count)| (label.to_owned(), count)).collect()
}

/// Counts of one row, and those that are open on each port.
#[derive(Default)]
struct Sum {
    counts: Counts,
    ports: BTreeMap<u16, u64>,
    uid: Option<String>,
}

fn rows<'a>(series: impl Iterator<Item = &'a Series>, pods: &[NamedPod]) -> Vec<Row> {
    let mut sums: BTreeMap<_, Sum> = BTreeMap::new();
    for Series { key, counts } in series {
        let (namespace, pod) = (key.identity.namespace.as_str(), key.identity.pod.as_str());
        let sum = sums.entry((namespace, pod, key.role, key.protocol, key.path)).or_default();
        sum.counts.add(counts);
        sum.uid = sum.uid.take().or_else(|| key.identity.pod_uid.clone());
        // A port that has had no connection of its own was passed through.
        if key.port != 0 && came(counts) != 0 {
            *sum.ports.entry(key.port).or_default() += active(counts);
        }
    }
    let workloads: HashMap<&str, &Workload> =
        pods.iter().map(|pod| (pod.uid.as_str(), &pod.workload)).collect();
    let row = |(key, sum): ((&str, &str, Role, Protocol, PathOf), Sum)| {
        let (namespace, pod, role, protocol, path) = key;
        let workload = sum.uid.as_deref().and_then(|uid| workloads.get(uid));
        let (workload_kind, workload) =
            workload.map_or((String::new(), pod), |of| (of.kind.clone(), of.name.as_str()));
        Row {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            workload_kind,
            workload: workload.to_owned(),
            role: role.label().to_owned(),
            protocol: protocol.label().to_owned(),
            path: path.label().to_owned(),
            ports: ports(sum.ports),
            ..figures(&sum.counts, protocol)
        }
    };
    let mut rows: Vec<Row> = sums.into_iter().map(row).filter(|row| !row.is_empty()).collect();
    // Stable: those of equal numbers stay in the order of their names.
    rows.sort_by_key(|row| std::cmp::Reverse(row.active));
    rows
}

fn ports(ports: BTreeMap<u16, u64>) -> Vec<u16> {
    let mut ports: Vec<(u16, u64)> = ports.into_iter().collect();
    ports.sort_by_key(|&(port, active)| (std::cmp::Reverse(active), port));
    ports.into_iter().take(PORTS).map(|(port, _)| port).collect()
}

/// Connections that came, less those that went on to another protocol.
fn came(counts: &Counts) -> u64 {
    let ways = [&slot::OPENED, &slot::ADOPTED, &slot::ENTERED].map(|counter| counts.one(counter));
    let came = ways.into_iter().fold(0, u64::wrapping_add).wrapping_sub(counts.one(&slot::LEFT));
    // A reader that comes between two words may see less than none.
    came.cast_signed().max(0).cast_unsigned()
}

fn active(counts: &Counts) -> u64 {
    counts.active().max(0).cast_unsigned()
}

fn figures(counts: &Counts, protocol: Protocol) -> Row {
    let by = |counter: &Counter, values: &'static [&'static str]| {
        counted(values.iter().enumerate().map(|(at, &value)| (value, counts.count(counter, at))))
    };
    let in_direction = |counter: &Counter| {
        [Direction::Received, Direction::Sent].map(|of| counts.count(counter, of as usize))
    };
    let [received_bytes, sent_bytes] = in_direction(&slot::BYTES);
    let has_messages = BLOCKS.iter().any(|block| block.owner == Owner::Protocol(protocol as u8));
    Row {
        active: active(counts),
        opened: came(counts),
        closed: by(&slot::CLOSED, Reason::LABEL.values),
        failed: by(&slot::FAILED, Failure::LABEL.values),
        short: short(counts),
        messages: (has_messages && protocol == Protocol::WebSocket)
            .then(|| in_direction(&websocket::MESSAGES)),
        received_bytes,
        sent_bytes,
        retransmits: counts.one(&slot::RETRANSMITS),
        rtt_seconds: median(counts, &slot::ROUND_TRIP),
        ..Row::default()
    }
}

/// Connections that lived for a second at most.
fn short(counts: &Counts) -> u64 {
    counts.histogram(&slot::LIFETIME, 0).map_or(0, |lifetimes| {
        let within = lifetimes.bounds.upper.iter().take_while(|&&bound| bound <= 1.0).count();
        lifetimes.buckets[..within].iter().sum()
    })
}

/// The upper bound of the bucket that has the median; none if that is the last.
fn median(counts: &Counts, counter: &Counter) -> Option<f64> {
    let histogram = counts.histogram(counter, 0)?;
    let half = histogram.buckets.iter().sum::<u64>().div_ceil(2);
    let mut below = 0;
    let bucket = histogram.buckets.iter().position(|count| {
        below += count;
        below >= half
    })?;
    histogram.bounds.upper.get(bucket).copied()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use observer_common::label::Side;

    use super::*;
    use crate::{
        aggregate::fold,
        attribute::{Identity, identify},
        model::CellSnapshot,
    };

    fn cell(
        unit: &str,
        port: u16,
        protocol: Protocol,
        counts: Counts,
    ) -> (Arc<Identity>, CellSnapshot) {
        let identity = identify(&format!("/system.slice/{unit}.service"));
        let (role, path) = (Role::Server, PathOf::External);
        (Arc::new(identity), CellSnapshot { cgroup: 1, port, role, protocol, path, counts })
    }

    fn counts(opened: u64, left: u64, active: u64) -> Counts {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        counts.words_mut(&slot::LEFT)[0] = left;
        counts.words_mut(&slot::ACTIVE)[0] = active;
        counts
    }

    fn table(cells: Vec<(Arc<Identity>, CellSnapshot)>) -> Table {
        of_snapshot(&Snapshot { series: fold(cells), ..Snapshot::default() })
    }

    fn of_snapshot(snapshot: &Snapshot) -> Table {
        let daemon = Daemon {
            node: "node-1".to_owned(),
            kernel: "6.1.0".to_owned(),
            kernel_side: "created",
            started: SystemTime::UNIX_EPOCH,
        };
        let times = (SystemTime::UNIX_EPOCH + Duration::from_mins(1), SystemTime::UNIX_EPOCH);
        Table::new(snapshot, &daemon, times, &|namespace| namespace != "hidden")
    }

    #[test]
    fn ports_of_a_replica_are_one_row() {
        let table = table(vec![
            cell("web", 80, Protocol::Http1, counts(5, 0, 1)),
            cell("web", 81, Protocol::Http1, counts(4, 0, 3)),
            cell("web", 81, Protocol::Tcp, counts(9, 9, 0)),
            cell("db", 5432, Protocol::Tcp, counts(2, 0, 2)),
        ]);
        let rows: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.key(), row.active, row.opened, &row.ports[..]))
            .collect();
        assert_eq!(
            rows,
            [
                (["systemd", "web.service", "server", "http1", "external"], 4, 9, &[81, 80][..]),
                (["systemd", "db.service", "server", "tcp", "external"], 2, 2, &[5432][..]),
            ],
            "what all went on to another protocol is no row"
        );
        assert_eq!(
            (table.active, table.replicas(), table.time.as_str()),
            (6, 2, "1970-01-01T00:01:00Z")
        );
    }

    #[test]
    fn ends_are_told_by_reason() {
        let mut counts = counts(6, 0, 0);
        let closed = counts.words_mut(&slot::CLOSED);
        (closed[Reason::Peer as usize], closed[Reason::ResetPeer as usize]) = (4, 2);
        let lifetimes = counts.words_mut(&slot::LIFETIME);
        // Up to a second, and longer.
        (lifetimes[1 + 10], lifetimes[1 + 11]) = (2, 4);
        let table = table(vec![cell("web", 80, Protocol::WebSocket, counts)]);
        let row = &table.rows[0];
        assert_eq!((row.ended(), row.bad(), row.short), (6, 2, 2));
        assert_eq!(row.closed["reset_peer"], 2);
        assert_eq!((row.closed.len(), row.messages), (2, Some([0, 0])));
    }

    #[test]
    fn a_timer_stands_in_the_row_of_its_connections() {
        let (identity, ws) = cell("web", 80, Protocol::WebSocket, counts(12, 0, 1));
        let http = cell("web", 80, Protocol::Http1, counts(12, 0, 0)).1;
        let of = |side| Ends::new(&identity, Role::Server, Protocol::WebSocket, side);
        let cut = Cut { seconds: 20.0, ends: 12, of: 12, place: None, at_least: false };
        let cuts =
            vec![(of(Side::Peer), cut), (of(Side::Local), Cut { ends: 11, seconds: 5.5, ..cut })];
        let series = fold(vec![(Arc::clone(&identity), ws), (identity, http)]);
        let table = of_snapshot(&Snapshot { series, cuts, ..Snapshot::default() });
        let expected = IdleCut {
            seconds: 20.0,
            ends: 12,
            of: 12,
            side: "peer".to_owned(),
            who: "from the peer: a proxy read timeout".to_owned(),
            at_least: false,
        };
        let found: Vec<_> = table.rows.iter().map(|row| row.idle_cut.as_ref()).collect();
        assert_eq!(found, [Some(&expected), None]);
    }

    #[test]
    fn a_table_is_bounded_and_keeps_the_busiest() {
        let many = (0..ROWS + 3).map(|i| {
            cell(&format!("unit-{i}"), 80, Protocol::Tcp, counts(1, 0, 1 + (i / ROWS) as u64))
        });
        let table = table(many.collect());
        assert_eq!((table.rows.len(), table.rows_left_out), (ROWS, 3));
        assert_eq!(table.active, (ROWS + 6) as u64);
        assert!(table.rows[..3].iter().all(|row| row.active == 2));
    }

    #[test]
    fn what_is_sent_is_read() {
        let sent = table(vec![cell("web", 80, Protocol::Http1, counts(5, 0, 1))]);
        let read: Table = serde_json::from_str(&serde_json::to_string(&sent).unwrap()).unwrap();
        assert_eq!(read, sent);
    }
}
