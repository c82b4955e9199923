//! Ends that cluster: connections that the same side ends after the same time of silence, again and again, as a time-out
//! does. Pure; time is a parameter.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use observer_common::{
    label::{Reason, Role, Side},
    protocol::Protocol,
    wire::slot::{self, IDLE_BOUNDS, IDLE_USED},
};

use crate::{
    attribute::{Identity, Kind},
    model::Counts,
};

/// Ends in one narrow bucket that make a cluster.
const ENOUGH: u64 = 10;
/// A narrow bucket: a second below and a second above a time-out of the field.
const NARROW: u32 = 2;
/// The same cluster is told again after this time, if it has grown.
const AGAIN: Duration = Duration::from_hours(1);

/// Connections of one kind of a replica, ended by one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    kind: Kind,
    /// The replica's namespace.
    pub namespace: String,
    /// The replica.
    pub pod: String,
    /// Server or client.
    pub role: Role,
    /// What they spoke.
    pub protocol: Protocol,
    /// Who ended them.
    pub side: Side,
}

impl Ends {
    /// Those of a replica, all of its containers together.
    #[must_use]
    pub fn new(identity: &Identity, role: Role, protocol: Protocol, side: Side) -> Self {
        let (namespace, pod) = (identity.namespace.clone(), identity.pod.clone());
        Self { kind: identity.kind, namespace, pod, role, protocol, side }
    }
}

/// A cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Silence before the end, to a second.
    pub seconds: u32,
    /// Ends after this silence.
    pub ends: u64,
    /// Ends after any silence that is longer than those of connections in use.
    pub of: u64,
}

/// How long the connections had idled that silence may have ended, by bucket, of those that `side` has ended.
#[must_use]
pub fn silent_ends(counts: &Counts, side: Side) -> Option<&[u64]> {
    let histogram = counts.histogram(&slot::IDLE, side as usize)?;
    // What this node closes in order is its own decision, and no news.
    let closed = |reason: Reason| counts.count(&slot::CLOSED, reason as usize);
    let orderly = closed(Reason::Local) + closed(Reason::Aborted);
    (side != Side::Local || closed(Reason::ResetLocal) >= orderly).then_some(histogram.buckets)
}

/// The cluster in an idle histogram: the narrow bucket with at least [`ENOUGH`] ends, and half of those after silence.
#[must_use]
pub fn cluster(buckets: &[u64; IDLE_USED]) -> Option<Cluster> {
    let narrow = (1..IDLE_BOUNDS.len()).filter(|&i| IDLE_BOUNDS[i] - IDLE_BOUNDS[i - 1] == NARROW);
    // Everything from the first narrow bucket on.
    let of = buckets[narrow.clone().next()?..].iter().sum();
    let bucket = narrow.max_by_key(|&i| buckets[i])?;
    let ends = buckets[bucket];
    let seconds = IDLE_BOUNDS[bucket] - NARROW / 2;
    (ends >= ENOUGH && ends * 2 >= of).then_some(Cluster { seconds, ends, of })
}

/// The clusters that were told.
#[derive(Debug, Default)]
pub struct Clusters {
    told: HashMap<(Ends, u32), (Instant, u64)>,
}

impl Clusters {
    /// Looks at all histograms; returns the clusters that are new, have doubled, or have grown for an hour.
    pub fn news(
        &mut self,
        now: Instant,
        histograms: HashMap<Ends, [u64; IDLE_USED]>,
    ) -> Vec<(Ends, Cluster)> {
        self.told.retain(|(whose, _), _| histograms.contains_key(whose));
        let mut news = Vec::new();
        for (whose, buckets) in histograms {
            let Some(found) = cluster(&buckets) else { continue };
            let key = (whose, found.seconds);
            let known = self.told.get(&key).is_some_and(|&(when, ends)| {
                let grown = found.ends > ends && now.duration_since(when) >= AGAIN;
                // Fewer than before: the counts began anew.
                !grown && (ends..ends * 2).contains(&found.ends)
            });
            if !known {
                news.push((key.0.clone(), found));
                self.told.insert(key, (now, found.ends));
            }
        }
        news
    }
}

/// What a cluster says, in words.
#[must_use]
pub fn sentence(whose: &Ends, cluster: Cluster) -> String {
    let Cluster { seconds, ends, of } = cluster;
    let owner = match whose.kind {
        Kind::Pod => "pod",
        Kind::Container => "container",
        Kind::Unit => "unit",
        Kind::Cgroup => "cgroup",
    };
    let protocol = match whose.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Http1 => "HTTP/1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::WebSocket => "WebSocket",
        Protocol::Upgrade => "upgraded HTTP",
    };
    let why = match (whose.side, whose.role) {
        (Side::Peer, Role::Server) => "from the peer: a proxy read timeout",
        (Side::Peer, Role::Client) => {
            "from the peer: a timeout of the server, or of a proxy before it"
        }
        (Side::Peer, Role::Unknown) => "from the peer, whichever end that is",
        (Side::Local, _) => "by a reset from here: a timeout of its own",
    };
    format!(
        "{ends} of {of} closes of this {owner}'s silent {protocol} connections came {seconds} s after the last byte, {why}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::identify;

    /// A histogram of so many ends at so many seconds.
    fn histogram(ends: &[(u32, u64)]) -> [u64; IDLE_USED] {
        let mut buckets = [0; IDLE_USED];
        for (seconds, count) in ends {
            buckets[IDLE_BOUNDS.iter().filter(|bound| *bound < seconds).count()] += count;
        }
        buckets
    }

    #[test]
    fn a_cluster_is_narrow_large_and_most_of_what_was_silent() {
        let found = |ends: &[(u32, u64)]| {
            cluster(&histogram(ends)).map(|found| (found.seconds, found.ends, found.of))
        };
        assert_eq!(found(&[(60, 12), (45, 1), (300, 1)]), Some((60, 12, 14)));
        assert_eq!(found(&[(60, 9)]), None, "too few");
        assert_eq!(found(&[(45, 100)]), None, "in a wide bucket");
        assert_eq!(found(&[(60, 12), (45, 13)]), None, "not most");
        assert_eq!(found(&[(1, 1000), (5, 10)]), Some((5, 10, 10)), "in use until the end");
        assert_eq!(found(&[(60, 20), (300, 12)]), Some((60, 20, 32)));
        for seconds in [5, 10, 30, 60, 75, 120, 240, 300, 350, 600, 900, 1800, 3600] {
            assert_eq!(found(&[(seconds, 10)]), Some((seconds, 10, 10)));
        }
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_cluster_is_told_once_an_hour_and_when_it_doubles() {
        let identity = identify("/system.slice/chat.service");
        let ends = Ends::new(&identity, Role::Server, Protocol::WebSocket, Side::Peer);
        let (mut clusters, start) = (Clusters::default(), Instant::now());
        let mut news = |after: u64, count: u64| {
            let histograms = HashMap::from([(ends.clone(), histogram(&[(60, count)]))]);
            let news = clusters.news(start + Duration::from_mins(after), histograms);
            news.first().map(|(_, cluster)| cluster.ends)
        };
        assert_eq!(news(0, 9), None);
        assert_eq!(news(1, 10), Some(10));
        assert_eq!(news(2, 10), None);
        assert_eq!(news(3, 19), None);
        assert_eq!(news(4, 20), Some(20));
        assert_eq!(news(70, 20), None, "nothing new");
        assert_eq!(news(71, 21), Some(21));
        assert_eq!(news(72, 22), None);
        assert_eq!(news(73, 12), Some(12), "begun anew");
    }

    #[test]
    fn a_sentence() {
        let identity = identify("/system.slice/chat.service");
        let ends = Ends::new(&identity, Role::Server, Protocol::WebSocket, Side::Peer);
        assert_eq!(
            sentence(&ends, Cluster { seconds: 60, ends: 12, of: 14 }),
            "12 of 14 closes of this unit's silent WebSocket connections came 60 s after the last byte, from the peer: a proxy read timeout"
        );
    }
}
