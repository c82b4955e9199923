//! All of a pod's series that tell how connections fared, and what they must be.

use std::collections::BTreeMap;

use anyhow::Result;
use observer_common::label::Reason;

use crate::support::{
    daemon::Daemon,
    metrics::Metrics,
    pod::{Pod, settle},
    scale::is_slow,
};

/// The families that the books are about. Their series that are not expected must be zero or absent.
const FAMILIES: [&str; 10] = [
    "tcp_connections_active",
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_connection_duration_seconds_count",
    "tcp_connection_idle_seconds_count",
    "tcp_resets_total",
    "tcp_timeouts_total",
    "tcp_connect_failures_total",
    "tcp_payload_bytes_total",
    "tcp_idle_closes_total",
];

/// The expected books of a pod: values by series, without the labels that name the pod.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    role: &'static str,
    port: u16,
    protocol: &'static str,
    values: BTreeMap<String, u64>,
    any_bytes: bool,
}

impl Books {
    /// The books of a pod that serves, or connects to, one port; nothing has happened.
    pub(crate) fn new(role: &'static str, port: u16) -> Self {
        Self { role, port, protocol: "tcp", values: BTreeMap::new(), any_bytes: false }
    }

    /// The connections are found to speak this; however many bytes they take to say it.
    pub(crate) fn speaking(self, protocol: &'static str) -> Self {
        Self { protocol, any_bytes: true, ..self }
    }

    /// The same pod's other side.
    pub(crate) fn and(mut self, other: Self) -> Self {
        for (series, count) in other.values {
            *self.values.entry(series).or_default() += count;
        }
        self
    }

    /// So many connections were opened.
    pub(crate) fn opened(self, count: u64) -> Self {
        let labels = format!("port=\"{}\",role={:?}", self.port, self.role);
        self.series(format!("tcp_connections_opened_total{{{labels}}}"), count)
    }

    /// So many are open.
    pub(crate) fn active(self, count: u64) -> Self {
        self.count("tcp_connections_active", &[], count)
    }

    /// So many have ended in this way.
    pub(crate) fn closed(self, reason: &'static str, count: u64) -> Self {
        let closed = self
            .count("tcp_connections_closed_total", &[("reason", reason)], count)
            .endpoint("tcp_connection_duration_seconds_count", &[], count);
        let ended = Reason::ALL.iter().find(|known| known.label() == reason).expect("a reason");
        match ended.side() {
            None => closed,
            Some(side) => {
                let side = [("side", side.label())];
                closed.endpoint("tcp_connection_idle_seconds_count", &side, count)
            }
        }
    }

    /// As many bytes of payload came, as many went.
    pub(crate) fn bytes(self, received: u64, sent: u64) -> Self {
        self.count("tcp_payload_bytes_total", &[("direction", "received")], received).count(
            "tcp_payload_bytes_total",
            &[("direction", "sent")],
            sent,
        )
    }

    /// So many resets were sent for this reason.
    pub(crate) fn reset(self, cause: &str, count: u64) -> Self {
        self.count("tcp_resets_total", &[("cause", cause), ("direction", "sent")], count)
    }

    /// So many resets came.
    pub(crate) fn was_reset(self, count: u64) -> Self {
        self.count("tcp_resets_total", &[("cause", ""), ("direction", "received")], count)
    }

    /// Time ran out once, in this way.
    pub(crate) fn timeout(self, kind: &str) -> Self {
        self.count("tcp_timeouts_total", &[("kind", kind)], 1)
    }

    /// An attempt to connect failed for this reason.
    pub(crate) fn failed(self, reason: &str) -> Self {
        self.count("tcp_connect_failures_total", &[("reason", reason)], 1)
    }

    /// The same on a kernel that does not say why it resets (before 6.10): an abort cannot be told from a reset that was
    /// asked for.
    fn without_causes(self) -> Self {
        let blurred = |series: &str| {
            let series = series.replace("reason=\"aborted\"", "reason=\"reset_local\"");
            match series.split_once("cause=\"").map(|(before, rest)| (before, rest.split_once('"')))
            {
                Some((before, Some((cause, after)))) if !cause.is_empty() => {
                    format!("{before}cause=\"unspecified\"{after}")
                }
                _ => series,
            }
        };
        let mut values = BTreeMap::new();
        for (series, count) in &self.values {
            *values.entry(blurred(series)).or_default() += count;
        }
        Self { values, ..self }
    }

    fn count(self, family: &str, labels: &[(&str, &str)], count: u64) -> Self {
        let port = self.port.to_string();
        self.endpoint(family, &[labels, &[("port", &port)]].concat(), count)
    }

    /// Of a family that does not tell ports apart.
    fn endpoint(self, family: &str, labels: &[(&str, &str)], count: u64) -> Self {
        let own = [("protocol", self.protocol), ("role", self.role)];
        let all: BTreeMap<_, _> = own.iter().chain(labels).copied().collect();
        let series = format!("{family}{{{}}}", text(&all));
        self.series(series, count)
    }

    fn series(mut self, series: String, count: u64) -> Self {
        if count != 0 {
            *self.values.entry(series).or_default() += count;
        }
        self
    }

    /// What differs in a scrape of this pod alone.
    fn mismatches(&self, metrics: &Metrics) -> Vec<String> {
        let mut actual = actual(metrics);
        if self.any_bytes {
            actual.retain(|series, _| !series.starts_with("tcp_payload_bytes_total"));
        }
        if is_slow() {
            // What takes seconds there has idled for as long.
            let idle = |series: &str| series.starts_with("tcp_idle_closes_total");
            actual.retain(|series, _| !idle(series) || self.values.contains_key(series));
        }
        let mut wrong = Vec::new();
        for (series, expected) in &self.values {
            let got = actual.get(series).copied().unwrap_or_default();
            if got != *expected {
                wrong.push(format!("{series}\n- expected {expected}\n+ got      {got}\n"));
            }
        }
        for (series, got) in actual.iter().filter(|(series, _)| !self.values.contains_key(*series))
        {
            wrong.push(format!("{series}\n- expected nothing\n+ got      {got}\n"));
        }
        wrong.extend(balance(metrics));
        wrong
    }
}

/// The invariant: what was opened is open, or was closed.
fn balance(metrics: &Metrics) -> Option<String> {
    let sum = |family| metrics.sum(family, &[]) as i64;
    let [opened, closed, active] = [
        sum("tcp_connections_opened_total"),
        sum("tcp_connections_closed_total"),
        sum("tcp_connections_active"),
    ];
    (opened != closed + active)
        .then(|| format!("opened {opened}, but closed {closed} and active {active}\n"))
}

/// The series of the families that are not zero.
fn actual(metrics: &Metrics) -> BTreeMap<String, u64> {
    let ours = metrics.samples.iter().filter(|sample| FAMILIES.contains(&sample.name.as_str()));
    ours.filter(|sample| sample.value != 0.0)
        .map(|sample| {
            let labels = sample
                .labels
                .iter()
                .filter(|(name, _)| !["namespace", "pod", "container"].contains(&name.as_str()))
                .map(|(name, value)| (name.as_str(), value.as_str()))
                // Each of the two has a pod of its own.
                .filter(|label| *label != ("path", "external"))
                .collect();
            (format!("{}{{{}}}", sample.name, text(&labels)), sample.value as u64)
        })
        .collect()
}

fn text(labels: &BTreeMap<&str, &str>) -> String {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    labels.join(",")
}

/// Waits until the books of all pods are exactly these.
pub(crate) fn check(daemon: &Daemon, books: &[(&Pod, Books)]) -> Result<()> {
    let told = daemon.scrape().tells_causes();
    let books: Vec<_> = books
        .iter()
        .map(|(pod, books)| {
            let books = books.clone();
            (*pod, if told { books } else { books.without_causes() })
        })
        .collect();
    settle(daemon, &books, Books::mismatches)
}
