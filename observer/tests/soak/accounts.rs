//! Accounts: what must be shown of each pod, and what the daemon shows.
//!
//! One thing no program can know once it has closed: whether the FIN with which it answered its peer's was acknowledged, or
//! answered by a reset. Linux resets one to three in a million connections that way if the client closes without a word and
//! both ends are busy on two processors; nobody needs to watch for it (seen on 6.18 by the tracepoints alone: while one
//! processor replaces the client's socket by its `TIME_WAIT`, `inet_twsk_hashdance_schedule`, the server's FIN finds
//! neither on the other, since the new one has no reference yet: `NO_SOCKET`). Each namespace's own count of the resets that
//! it has sent tells how many there can be: those that none of its programs asked for are *strays*. So many connections
//! whose other end is in it may have been reset that their programs take for ended in order, and not one more.
//!
//! One thing the observer says itself that it does not know: the cause of a reset whose event the kernel skipped. An abort
//! is then told as a reset. So many as were skipped, and not one more, are *untold*.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::support::{
    daemon::Daemon,
    metrics::{Metrics, Sample},
    poll::poll,
};

/// How long the last connections may take: a FIN that meets a full queue is sent again, and namespaces go slowly.
const PATIENCE: Duration = Duration::from_mins(1);

/// The series of payload bytes.
const BYTES: &str = "bytes";

/// How connections ended.
#[derive(Clone, Debug)]
pub(crate) enum Closed {
    /// So many for each reason.
    As(BTreeMap<String, u64>),
    /// So many, whoever was first.
    Anyhow(u64),
}

impl Closed {
    /// All for the same reason.
    pub(crate) fn all(reason: &str, count: u64) -> Self {
        Self::As(BTreeMap::from([(reason.to_owned(), count)]))
    }

    /// These and those.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::As(mut one), Self::As(other)) => {
                for (reason, count) in other {
                    *one.entry(reason).or_default() += count;
                }
                Self::As(one)
            }
            (one, other) => Self::Anyhow(one.count() + other.count()),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::As(reasons) => reasons.values().sum(),
            Self::Anyhow(count) => *count,
        }
    }
}

/// What one pod must show: it is one end of connections that all speak the same.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// The value of the label `pod`.
    pub(crate) pod: String,
    pub(crate) role: &'static str,
    /// The network namespaces of this end and of the other, by name.
    pub(crate) netns: [String; 2],
    /// What the connections are taken for, one after the other; plain tcp if for nothing.
    pub(crate) taken_for: &'static [&'static str],
    pub(crate) opened: u64,
    /// They were opened before the daemon started.
    pub(crate) adopted: bool,
    pub(crate) closed: Closed,
    /// WebSocket messages received and sent, of a server.
    pub(crate) messages: [u64; 2],
    /// Payload bytes received and sent, where the programs know.
    pub(crate) bytes: Option<[u64; 2]>,
}

impl Account {
    /// All series that are not zero.
    fn series(&self) -> BTreeMap<String, u64> {
        let Self { role, opened, .. } = self;
        let taken_for = self.taken_for;
        let (closed, last) = (self.closed.count(), taken_for.last().copied().unwrap_or("tcp"));
        let active = opened - closed;
        let (began, lasted) =
            if self.adopted { ("adopted", "adopted lifetimes") } else { ("opened", "lifetimes") };
        let mut series = BTreeMap::from([
            (format!("{began} {role}"), *opened),
            (format!("active {role} {last}"), active),
            (format!("{lasted} {role} {last}"), closed),
        ]);
        series.extend(taken_for.iter().map(|name| (format!("identified {role} {name}"), *opened)));
        match &self.closed {
            Closed::As(reasons) => series.extend(
                reasons.iter().map(|(why, count)| (format!("closed {role} {last} {why}"), *count)),
            ),
            Closed::Anyhow(count) => drop(series.insert(format!("closed {role} {last}"), *count)),
        }
        if *role == "server" && matches!(last, "websocket" | "grpc") {
            series.insert(format!("{last}_connections_total"), *opened);
            series.insert(format!("{last}_connections_active"), active);
        }
        for (direction, count) in ["received", "sent"].into_iter().zip(self.messages) {
            series.insert(format!("messages {direction}"), count);
        }
        for (direction, count) in
            ["received", "sent"].into_iter().zip(self.bytes.unwrap_or_default())
        {
            series.insert(format!("{BYTES} {role} {direction}"), count);
        }
        series.retain(|_, count| *count != 0);
        series
    }

    /// Resets that the program has asked for: by closing with bytes unread, or without lingering.
    fn resets(&self) -> u64 {
        match &self.closed {
            Closed::As(reasons) => {
                ["reset_local", "aborted"].iter().filter_map(|why| reasons.get(*why)).sum()
            }
            Closed::Anyhow(_) => 0,
        }
    }

    /// The same on a kernel that does not say why it resets (before 6.10).
    fn without_causes(mut self) -> Self {
        if let Closed::As(reasons) = &mut self.closed
            && let Some(aborted) = reasons.remove("aborted")
        {
            *reasons.entry("reset_local".to_owned()).or_default() += aborted;
        }
        self
    }

    /// The same, but whoever was first to close.
    pub(crate) fn anyhow(self) -> Self {
        Self { closed: Closed::Anyhow(self.closed.count()), ..self }
    }

    /// What differs from that, when so many ends may be told otherwise; takes those away that are.
    fn mismatches<'a>(
        &self,
        shown: impl Iterator<Item = &'a Sample>,
        Otherwise { strays, untold }: &mut Otherwise,
    ) -> Vec<String> {
        let [_, peer] = &self.netns;
        let strays = strays.entry(peer.clone()).or_default();
        let mut actual = actual(shown, matches!(self.closed, Closed::Anyhow(_)));
        if self.bytes.is_none() {
            actual.retain(|series, _| !series.starts_with(BYTES));
        }
        let mut expected = self.series();
        for (series, shown) in &actual {
            for (told, known, left) in
                [("reset_peer", "peer", &mut *strays), ("reset_local", "aborted", &mut *untold)]
            {
                let Some(of) = series.strip_suffix(told) else { continue };
                let known = format!("{of}{known}");
                let ends = expected.get(&known).copied().unwrap_or(0);
                let resets = expected.get(series).copied().unwrap_or(0);
                let moved = shown.saturating_sub(resets).min(ends).min(*left);
                *left -= moved;
                expected.insert(known, ends - moved);
                expected.insert(series.clone(), resets + moved);
            }
        }
        expected.retain(|_, count| *count != 0);
        mismatches(&self.pod, &expected, &actual)
    }
}

/// What is shown that is not zero.
fn actual<'a>(shown: impl Iterator<Item = &'a Sample>, anyhow: bool) -> BTreeMap<String, u64> {
    let mut actual = BTreeMap::new();
    for sample in shown {
        if let Some(series) = series_of(sample, anyhow) {
            *actual.entry(series).or_default() += sample.value as u64;
        }
    }
    actual.retain(|_, count| *count != 0);
    actual
}

/// What differs from the series that are expected of `whom`.
fn mismatches(
    whom: &str,
    expected: &BTreeMap<String, u64>,
    actual: &BTreeMap<String, u64>,
) -> Vec<String> {
    let names: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    let differ = names.into_iter().filter(|name| expected.get(*name) != actual.get(*name));
    differ
        .map(|name| {
            let [expected, got] =
                [expected, actual].map(|series| series.get(name).copied().unwrap_or(0));
            format!("{whom} {name}: expected {expected}, got {got}\n")
        })
        .collect()
}

/// The series of an account that a sample belongs to.
fn series_of(sample: &Sample, anyhow: bool) -> Option<String> {
    let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
    let (role, protocol) = (label("role"), label("protocol"));
    Some(match sample.name.as_str() {
        "tcp_connections_opened_total" => format!("opened {role}"),
        "tcp_connections_adopted_total" => format!("adopted {role}"),
        "tcp_adopted_connection_duration_seconds_count" => {
            format!("adopted lifetimes {role} {protocol}")
        }
        "tcp_connections_active" => format!("active {role} {protocol}"),
        "tcp_connection_duration_seconds_count" => format!("lifetimes {role} {protocol}"),
        "tcp_connections_identified_total" => format!("identified {role} {protocol}"),
        "tcp_connections_closed_total" if anyhow => format!("closed {role} {protocol}"),
        "tcp_connections_closed_total" => format!("closed {role} {protocol} {}", label("reason")),
        "websocket_messages_total" => format!("messages {}", label("direction")),
        // None is expected but of what resets and time-outs are counted as.
        "websocket_errors_total" if label("cause") == "invalid_frame" => "errors".to_owned(),
        "tcp_payload_bytes_total" => format!("{BYTES} {role} {}", label("direction")),
        name @ ("websocket_connections_active"
        | "websocket_connections_total"
        | "grpc_connections_active"
        | "grpc_connections_total") => name.to_owned(),
        _ => return None,
    })
}

/// Says so if an end has not found its connection where it was counted, and had to be put right.
fn misplaced(metrics: &Metrics) -> Option<String> {
    let ends = metrics.sum("observer_lost_total", &[("kind", "misplaced_end")]);
    (ends != 0.0).then(|| format!("{ends} ends did not find their connection\n"))
}

/// Of the resets that were sent in a namespace, how many none of these asked for.
pub(crate) fn strays<'a>(
    netns: &str,
    sent: u64,
    accounts: impl IntoIterator<Item = &'a Account>,
) -> u64 {
    let here = accounts.into_iter().filter(|account| account.netns[0] == netns);
    // An account may run ahead of what has been sent.
    sent.saturating_sub(here.map(Account::resets).sum())
}

/// Ends that are told otherwise than their programs would.
#[derive(Clone, Debug, Default)]
pub(crate) struct Otherwise {
    /// Their programs took them for orderly, and they were resets, sent in these namespaces.
    pub(crate) strays: BTreeMap<String, u64>,
    /// Aborts that are told as resets, since the kernel skipped the event that tells the cause.
    pub(crate) untold: u64,
}

impl Otherwise {
    /// Ends that were stray resets, wherever sent.
    pub(crate) fn strays(&self) -> u64 {
        self.strays.values().sum()
    }

    /// These but for those.
    fn without(mut self, left: &Self) -> Self {
        for (netns, strays) in &mut self.strays {
            *strays -= left.strays.get(netns).copied().unwrap_or(0);
        }
        self.strays.retain(|_, strays| *strays != 0);
        self.untold -= left.untold;
        self
    }
}

/// What was compared, and found right.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub(crate) series: usize,
    pub(crate) otherwise: Otherwise,
}

/// What a daemon has shown of each pod, the last time that it showed it: all series of a pod go together.
#[derive(Default)]
pub(crate) struct Watch {
    shown: BTreeMap<String, Vec<Sample>>,
}

impl Watch {
    /// Scrapes: what is over is shown for a while only.
    pub(crate) fn look(&mut self, daemon: &Daemon) -> Metrics {
        let mut now: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        let metrics = daemon.scrape();
        for sample in &metrics.samples {
            if series_of(sample, false).is_some() {
                let pod = sample.labels.get("pod").cloned().unwrap_or_default();
                now.entry(pod).or_default().push(sample.clone());
            }
        }
        self.shown.extend(now);
        metrics
    }

    /// Waits until all is shown as it must be; else says what is not. `strays` counts the resets that were sent without
    /// having been asked for, by namespace.
    pub(crate) fn settle(
        &mut self,
        daemon: &Daemon,
        accounts: &[Account],
        strays: impl Fn() -> BTreeMap<String, u64>,
    ) -> Result<Compared, String> {
        let (mut wrong, mut most) = (Vec::new(), Otherwise::default());
        let met = poll(PATIENCE, || {
            let metrics = self.look(daemon);
            let told = metrics.tells_causes();
            let shown = |pod: &str| self.shown.get(pod).into_iter().flatten();
            let untold = metrics.sum("observer_probe_skips_total", &[("program", "reset_sent")]);
            most = Otherwise { strays: strays(), untold: untold as u64 };
            let mut left = most.clone();
            let differences = accounts.iter().cloned().flat_map(|account| {
                let account = if told { account } else { account.without_causes() };
                account.mismatches(shown(&account.pod), &mut left)
            });
            wrong = differences.chain(misplaced(&metrics)).collect();
            wrong.is_empty().then(|| most.clone().without(&left))
        });
        let otherwise = met.ok_or_else(|| {
            let Otherwise { strays, untold } = most;
            format!(
                "the books differ (resets that nobody asked for: {strays:?}, causes skipped: {untold}):\n{}",
                wrong.concat()
            )
        })?;
        let series = accounts.iter().map(|account| account.series().len()).sum();
        Ok(Compared { series, otherwise })
    }

    /// The same for the sums over all accounts, in a table that is too small: what found no cell in it is shown together.
    pub(crate) fn settle_sums(
        &mut self,
        daemon: &Daemon,
        accounts: &[Account],
    ) -> Result<Compared, String> {
        const OVERFLOW: &str = "overflow";
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for account in accounts {
            for (series, count) in account.clone().anyhow().series() {
                *expected.entry(series).or_default() += count;
            }
        }
        let pods: BTreeSet<_> = accounts.iter().map(|account| account.pod.as_str()).collect();
        let mut wrong = Vec::new();
        poll(PATIENCE, || {
            let metrics = self.look(daemon);
            let ours = |pod: &&String| *pod == OVERFLOW || pods.contains(pod.as_str());
            let shown = self.shown.iter().filter(|(pod, _)| ours(pod));
            let samples = shown.flat_map(|(_, samples)| samples);
            let mut shown = actual(samples, true);
            shown.retain(|series, _| !series.starts_with(BYTES));
            wrong = mismatches("all", &expected, &shown);
            wrong.extend(misplaced(&metrics));
            wrong.is_empty().then_some(())
        })
        .ok_or_else(|| format!("the sums differ:\n{}", wrong.concat()))?;
        Ok(Compared { series: expected.len(), otherwise: Otherwise::default() })
    }

    /// Waits until all connections of a pod are over, however many were opened before the daemon started.
    pub(crate) fn over(&mut self, daemon: &Daemon, pod: &str) {
        let mut sums = [0; 6];
        poll(PATIENCE, || {
            self.look(daemon);
            let shown = || self.shown.get(pod).into_iter().flatten();
            sums = ["opened", "adopted", "lifetimes", "adopted lifetimes", "closed", "active"].map(
                |family| {
                    let of = |sample: &&Sample| {
                        let series = series_of(sample, true).unwrap_or_default();
                        let end = series.find(" client").or_else(|| series.find(" server"));
                        end.is_some_and(|end| &series[..end] == family)
                    };
                    shown().filter(of).map(|sample| sample.value as u64).sum()
                },
            );
            let [opened, adopted, lasted, adopted_lasted, closed, active] = sums;
            let over = opened == lasted && adopted == adopted_lasted && opened + adopted == closed;
            (over && opened > 0 && active == 0).then_some(())
        })
        .unwrap_or_else(|| {
            panic!("{pod}: opened, adopted, their lifetimes, closed, active: {sums:?}")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(role: &'static str, netns: [&str; 2], closed: &[(&str, u64)]) -> Account {
        let closed = closed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        Account {
            pod: role.to_owned(),
            role,
            netns: netns.map(str::to_owned),
            taken_for: &[],
            opened: 10,
            adopted: false,
            closed: Closed::As(closed),
            messages: [0; 2],
            bytes: None,
        }
    }

    fn shown(role: &str, reasons: &[(&str, u64)]) -> Vec<Sample> {
        let sample = |name: &str, labels: &[(&str, &str)], value: u64| Sample {
            name: name.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            value: value as f64,
        };
        let tcp = [("role", role), ("protocol", "tcp")];
        let mut shown = vec![
            sample("tcp_connections_opened_total", &tcp[..1], 10),
            sample("tcp_connection_duration_seconds_count", &tcp, 10),
        ];
        shown.extend(reasons.iter().map(|(reason, count)| {
            let labels = [tcp[0], tcp[1], ("reason", reason)];
            sample("tcp_connections_closed_total", &labels, *count)
        }));
        shown
    }

    /// What was asked for in one namespace says nothing of what the other sent.
    #[test]
    fn resets_are_asked_for_where_they_are_sent() {
        let over_a_cable = [
            account("server", ["a", "b"], &[("reset_peer", 7), ("peer", 3)]),
            account("client", ["b", "a"], &[("reset_local", 7), ("local", 3)]),
        ];
        assert_eq!(strays("a", 1, &over_a_cable), 1);
        assert_eq!(strays("b", 7, &over_a_cable), 0);
        assert_eq!(strays("b", 9, &over_a_cable), 2);
    }

    /// A stray explains one end that was reset from its namespace, and no other.
    #[test]
    fn a_stray_explains_one_end_of_its_namespace() {
        let server = account("server", ["a", "a"], &[("peer", 10)]);
        let elsewhere = account("server", ["a", "b"], &[("peer", 10)]);
        let shown = shown("server", &[("peer", 9), ("reset_peer", 1)]);
        let most = Otherwise { strays: BTreeMap::from([("a".to_owned(), 1)]), untold: 0 };
        let mut left = most.clone();
        assert_eq!(elsewhere.mismatches(shown.iter(), &mut left).len(), 2);
        assert_eq!(server.mismatches(shown.iter(), &mut left), [""; 0]);
        assert_eq!(server.mismatches(shown.iter(), &mut left).len(), 2, "it is used up");
        assert_eq!(most.clone().without(&left).strays, most.strays);
    }
}
