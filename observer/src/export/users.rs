//! From the connections of a replica to its users: a connection is a hop, and a relay in a pod has two for each user.
//!
//! For each container the larger of two numbers counts: the connections that it has accepted from outside, and, if it accepts
//! any from there, those that it has opened inside. A relay that can be read has both for each user; of one that ends its
//! users' TLS only the inside can be read; a server has the first alone, and one behind a relay has neither. What is sent
//! inside was received from a user, and the other way round. Both numbers only grow, so the larger does.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use observer_common::{
    counters::Owner,
    label::{Path, Role},
    protocol::{BLOCKS, Protocol},
    wire::slot,
};

use super::rows::Row;
use crate::{
    aggregate::Series,
    attribute::{Identity, Kind},
    collect::{NamedPod, Trust},
    model::Counts,
};

/// The protocols whose users have families of their own.
pub(super) fn protocols() -> impl Iterator<Item = Protocol> {
    let with_counters = |protocol: Protocol| {
        BLOCKS.iter().any(|block| block.owner == Owner::Protocol(protocol as u8))
    };
    let all = Protocol::ALL.iter().copied();
    all.filter(move |&protocol| with_counters(protocol) || protocol == Protocol::Grpc)
}

/// Namespace and name of a replica.
type Name<'a> = (&'a str, &'a str);

fn name(identity: &Identity) -> Name<'_> {
    (&identity.namespace, &identity.pod)
}

fn container(identity: &Identity) -> (Name<'_>, &str) {
    (name(identity), &identity.container)
}

/// What the connections of a container that speak one protocol have counted.
#[derive(Default)]
struct Hops {
    /// Those accepted from outside.
    accepted: Counts,
    /// Those opened to a container of the same pod.
    inside: Counts,
    /// Those opened to elsewhere.
    opened: Counts,
    /// Whether there are others than the last.
    serves: bool,
}

/// Per replica: what the connections of its users that speak `protocol` have counted, all ports and containers together. A
/// pod that runs and has none has zeros: an autoscaler would take a missing value for one that is not to be changed.
pub(super) fn rows(
    series: &[&Series],
    pods: &[NamedPod],
    trust: &[Trust],
    protocol: Protocol,
) -> Vec<Row> {
    let mut containers: BTreeMap<_, (&Arc<Identity>, Hops)> = BTreeMap::new();
    let mut takes_users = HashSet::new();
    for Series { key, counts } in series.iter().copied() {
        let of = container(&key.identity);
        if key.role == Role::Server && key.path == Path::External && begin(counts) {
            takes_users.insert(of);
        }
        // Of a role that is not known yet nobody can say whose users they are.
        if key.protocol != protocol || key.role == Role::Unknown {
            continue;
        }
        let (_, hops) = containers.entry(of).or_insert_with(|| (&key.identity, Hops::default()));
        match (key.role, key.path) {
            (Role::Server, Path::External) => hops.accepted.add(counts),
            (Role::Client, Path::Internal) => hops.inside.add(counts),
            (Role::Client, Path::External) => hops.opened.add(counts),
            // The other end has them as well.
            (Role::Server, Path::Internal) | (Role::Unknown, _) => {}
        }
        hops.serves |= (key.role, key.path) != (Role::Client, Path::External);
    }
    let mut replicas: BTreeMap<Name<'_>, (&Arc<Identity>, Hops)> = BTreeMap::new();
    for (of, (identity, hops)) in containers {
        let (_, all) = replicas.entry(of.0).or_insert_with(|| (identity, Hops::default()));
        let relays = takes_users.contains(&of);
        let inside =
            if relays { hops.inside.at_the_other_end(protocol) } else { Counts::default() };
        all.accepted.add(&hops.accepted.larger(&inside));
        all.opened.add(&hops.opened);
        all.serves |= hops.serves;
    }
    replicas.retain(|_, (_, hops)| hops.serves);
    let mut rows: BTreeMap<Name<'_>, Row> = replicas
        .into_iter()
        .map(|(name, (identity, hops))| {
            let relays = came(&hops.accepted) != 0 && came(&hops.opened) != 0;
            let relayed = relays.then(|| hops.accepted.active().min(hops.opened.active()));
            (name, Row::of_users(Arc::clone(identity), protocol, hops.accepted, relayed))
        })
        .collect();
    for pod in pods.iter().filter(|pod| pod.running) {
        let name = (pod.workload.namespace.as_str(), pod.pod.as_str());
        rows.entry(name).or_insert_with(|| Row::of_no_users(idle(pod), protocol));
    }
    for pod in trust.iter().filter(|pod| pod.withheld.is_some()) {
        if let Some(row) = rows.get_mut(&(pod.namespace.as_str(), pod.pod.as_str())) {
            row.is_withheld = true;
        }
    }
    rows.into_values().collect()
}

/// Whether connections have begun here, whatever they came to speak.
fn begin(counts: &Counts) -> bool {
    counts.one(&slot::OPENED) != 0 || counts.one(&slot::ADOPTED) != 0
}

/// Connections that have been here.
fn came(counts: &Counts) -> u64 {
    let ways = [&slot::OPENED, &slot::ADOPTED, &slot::ENTERED];
    ways.map(|counter| counts.one(counter)).into_iter().fold(0, u64::wrapping_add)
}

fn idle(pod: &NamedPod) -> Identity {
    Identity {
        kind: Kind::Pod,
        namespace: pod.workload.namespace.clone(),
        pod: pod.pod.clone(),
        container: String::new(),
        pod_uid: None,
        container_id: None,
        workload: None,
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Direction, Reason},
        protocol::websocket::counters as websocket,
    };

    use super::*;
    use crate::{aggregate::SeriesKey, attribute::identify};

    const UID: &str = "57e67067-89e4-4001-bdd4-8632d39ea02b";
    const OUT: Path = Path::External;
    const IN: Path = Path::Internal;

    /// Connections of a container, `now` of which are open: (container, role, path, protocol, now).
    type Of = (u8, Role, Path, Protocol, u64);

    fn series(&(number, role, path, protocol, now): &Of) -> Series {
        let container = number.to_string().repeat(64);
        let identity = Arc::new(identify(&format!("/kubepods/pod{UID}/{container}")));
        let mut counts = Counts::default();
        let began = if protocol == Protocol::Tcp { &slot::OPENED } else { &slot::ENTERED };
        counts.words_mut(began)[0] = now;
        counts.words_mut(&slot::ACTIVE)[0] = now;
        Series { key: SeriesKey { identity, role, protocol, port: 80, path }, counts }
    }

    fn users(all: &[Of]) -> Option<(i64, Option<i64>)> {
        let all: Vec<Series> = all.iter().map(series).collect();
        let rows = rows(&all.iter().collect::<Vec<_>>(), &[], &[], Protocol::WebSocket);
        assert!(rows.len() <= 1);
        rows.first().map(|row| (row.counts.active(), row.relayed))
    }

    #[test]
    fn each_user_counts_once_whoever_relays() {
        use Protocol::{Tcp, Tls, WebSocket as Ws};
        use Role::{Client, Server};
        let began = (1, Server, OUT, Tcp, 40);
        for (what, all, expected) in [
            ("a server", vec![began, (1, Server, OUT, Ws, 30)], 30),
            (
                "a relay beside it",
                vec![
                    began,
                    (1, Server, OUT, Ws, 30),
                    (1, Client, IN, Ws, 30),
                    (2, Server, IN, Ws, 30),
                ],
                30,
            ),
            (
                "a relay that ends TLS",
                vec![
                    began,
                    (1, Server, OUT, Tls, 30),
                    (1, Client, IN, Ws, 30),
                    (2, Server, IN, Ws, 30),
                ],
                30,
            ),
            (
                "both in one container",
                vec![
                    began,
                    (1, Server, OUT, Ws, 9),
                    (1, Client, IN, Ws, 9),
                    (1, Server, IN, Ws, 9),
                ],
                9,
            ),
            (
                "two relays in a row",
                vec![
                    began,
                    (1, Server, OUT, Tls, 30),
                    (1, Client, IN, Ws, 30),
                    (2, Server, IN, Ws, 30),
                    (2, Client, IN, Ws, 30),
                    (3, Server, IN, Ws, 30),
                ],
                30,
            ),
            (
                "what goes out through a sidecar",
                vec![
                    began,
                    (2, Client, IN, Ws, 5),
                    (1, Server, IN, Ws, 5),
                    (1, Client, OUT, Tls, 5),
                ],
                0,
            ),
            (
                "some through the relay, some not",
                vec![
                    began,
                    (1, Server, OUT, Ws, 10),
                    (1, Client, IN, Ws, 10),
                    (2, Server, OUT, Tcp, 2),
                    (2, Server, IN, Ws, 10),
                    (2, Server, OUT, Ws, 2),
                ],
                12,
            ),
        ] {
            assert_eq!(users(&all), Some((expected, None)), "{what}");
        }
        assert_eq!(users(&[(1, Client, OUT, Ws, 3)]), None, "a client has no users");
    }

    #[test]
    fn what_is_relayed_to_other_pods_is_told() {
        use Protocol::{Tcp, WebSocket as Ws};
        use Role::{Client, Server};
        let relay = |accepted, opened| {
            users(&[
                (1, Server, OUT, Tcp, 40),
                (1, Server, OUT, Ws, accepted),
                (1, Client, OUT, Ws, opened),
            ])
        };
        assert_eq!(relay(10, 10), Some((10, Some(10))));
        assert_eq!(relay(10, 7), Some((10, Some(7))));
        assert_eq!(relay(7, 10), Some((7, Some(7))));
        assert_eq!(relay(10, 0), Some((10, None)), "none was ever");
    }

    #[test]
    fn what_goes_inside_was_received() {
        let mut inside = series(&(1, Role::Client, IN, Protocol::WebSocket, 2));
        let messages = inside.counts.words_mut(&websocket::MESSAGES);
        (messages[Direction::Received as usize], messages[Direction::Sent as usize]) = (3, 5);
        inside.counts.words_mut(&slot::CLOSED)[Reason::ResetPeer as usize] = 1;
        let began = series(&(1, Role::Server, OUT, Protocol::Tcp, 2));
        let rows = rows(&[&inside, &began], &[], &[], Protocol::WebSocket);
        let counts = &rows[0].counts;
        assert_eq!(counts.count(&websocket::MESSAGES, Direction::Received as usize), 5);
        assert_eq!(counts.count(&websocket::MESSAGES, Direction::Sent as usize), 3);
        assert_eq!(counts.count(&slot::CLOSED, Reason::ResetLocal as usize), 1);
    }
}
