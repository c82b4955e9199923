//! Until when a replica's series are shown, and what its freed cells have counted.
//!
//! A replica is whoever shares its names: a pod with all of its containers, a unit, a container, or those that nobody can
//! name. Its counters must not go down, nor leave one set of labels for another, while it is shown: what a freed cell has
//! counted is *kept* with the labels that it was shown under. Only the port may end: a cell that was freed because it was
//! idle, and what there is no room for, counts from then on in what has no port (*folded*).
//!
//! A replica whose cgroups are gone and whose last connection has ended is shown for a while, so that every scraper sees its
//! last counts; then all its series end at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::fold::{Series, SeriesKey};
use crate::{
    attribute::{Identity, UNATTRIBUTED},
    model::{CellSnapshot, Counts},
};

/// What tells a replica from another: namespace and pod of its identity as the cgroup's path tells it, where a pod's name is
/// its UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    namespace: String,
    pod: String,
}

impl Replica {
    /// Whose identity that is; it must not have the API server's names.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self { namespace: identity.namespace.clone(), pod: identity.pod.clone() }
    }
}

/// Kept label sets of a replica; what is beyond them is folded.
const KEPT: usize = 128;

/// A replica that has counts.
#[derive(Debug, Default)]
struct Books {
    /// Since when it has neither cgroups nor connections.
    gone: Option<Instant>,
    /// Counts of freed cells, by labels.
    kept: HashMap<SeriesKey, Counts>,
    /// Counts of freed cells, whose ports are told no more.
    folded: HashMap<SeriesKey, Counts>,
}

/// The replicas that have counts.
#[derive(Debug, Default)]
pub struct Replicas {
    all: HashMap<Replica, Books>,
}

impl Replicas {
    /// Takes note of who is there. `counted` are the replicas that have cells; `alive` says whether one has a cgroup or an
    /// open connection; who has neither is shown for `last`.
    ///
    /// Returns the replicas that are over, with all that was kept of them.
    pub fn tick(
        &mut self,
        now: Instant,
        last: Duration,
        counted: HashSet<Replica>,
        alive: impl Fn(&Replica) -> bool,
    ) -> Vec<(Replica, Vec<Series>)> {
        // Who has neither cells nor kept counts is of no concern.
        self.all.retain(|replica, books| {
            !books.kept.is_empty() || !books.folded.is_empty() || counted.contains(replica)
        });
        for replica in counted {
            self.all.entry(replica).or_default();
        }
        let mut over = Vec::new();
        let nameless = Replica::of(&UNATTRIBUTED);
        self.all.retain(|replica, books| {
            if *replica == nameless || alive(replica) {
                books.gone = None;
                return true;
            }
            let since = *books.gone.get_or_insert(now);
            if now.duration_since(since) < last {
                return true;
            }
            let (kept, folded) =
                (std::mem::take(&mut books.kept), std::mem::take(&mut books.folded));
            let rows = kept.into_iter().chain(folded);
            over.push((
                replica.clone(),
                rows.map(|(key, counts)| Series { key, counts }).collect(),
            ));
            false
        });
        over
    }

    /// Keeps the counts of a cell that is freed, with the labels that it was shown under: `identity` has the container's
    /// name, if that is known.
    pub fn keep(&mut self, identity: &Arc<Identity>, cell: &CellSnapshot) {
        let books = self.all.entry(Replica::of(identity)).or_default();
        let key = SeriesKey {
            identity: Arc::clone(identity),
            role: cell.role,
            protocol: cell.protocol,
            port: cell.port,
            path: cell.path,
        };
        if books.kept.len() >= KEPT && !books.kept.contains_key(&key) {
            self.fold(identity, cell);
        } else {
            books.kept.entry(key).or_default().add(&cell.counts);
        }
    }

    /// Keeps the counts of a cell that is freed, without its port.
    pub fn fold(&mut self, identity: &Arc<Identity>, cell: &CellSnapshot) {
        let books = self.all.entry(Replica::of(identity)).or_default();
        books.folded.entry(without_port(identity, cell)).or_default().add(&cell.counts);
    }

    /// What was kept, with its labels.
    pub fn kept(&self) -> impl Iterator<Item = (&SeriesKey, &Counts)> {
        self.all.values().flat_map(|books| &books.kept)
    }

    /// What was kept without a port.
    pub fn folded(&self) -> impl Iterator<Item = (&SeriesKey, &Counts)> {
        self.all.values().flat_map(|books| &books.folded)
    }
}

/// What a cell counts for in series that have no port. The container stays: its users are counted by what it relays.
#[must_use]
pub fn without_port(identity: &Arc<Identity>, cell: &CellSnapshot) -> SeriesKey {
    let CellSnapshot { role, protocol, path, .. } = *cell;
    SeriesKey { identity: Arc::clone(identity), role, protocol, port: 0, path }
}

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Path, Role},
        protocol::Protocol,
        wire::slot,
    };

    use super::*;
    use crate::attribute::identify;

    const LAST: Duration = Duration::from_mins(1);

    fn pod() -> Arc<Identity> {
        let container = "0123456789abcdef".repeat(4);
        Arc::new(identify(&format!(
            "/kubepods/pod57e67067-89e4-4001-bdd4-8632d39ea02b/{container}"
        )))
    }

    fn cell(port: u16, opened: u64) -> CellSnapshot {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        let (role, protocol, path) = (Role::Server, Protocol::Tcp, Path::External);
        CellSnapshot { cgroup: 9, port, role, protocol, path, counts }
    }

    fn sum<'a>(rows: impl Iterator<Item = (&'a SeriesKey, &'a Counts)>) -> (usize, u64) {
        rows.fold((0, 0), |(rows, sum), (_, counts)| (rows + 1, sum + counts.one(&slot::OPENED)))
    }

    fn counted(identity: &Identity) -> HashSet<Replica> {
        HashSet::from([Replica::of(identity)])
    }

    #[test]
    fn what_freed_cells_have_counted_stays_with_their_labels() {
        for identity in [pod(), Arc::new(identify("/system.slice/nginx.service"))] {
            let (mut replicas, now) = (Replicas::default(), Instant::now());
            for _ in 0..3 {
                replicas.keep(&identity, &cell(80, 5));
                assert!(replicas.tick(now, LAST, HashSet::new(), |_| true).is_empty());
            }
            replicas.keep(&identity, &cell(81, 1));
            assert_eq!((sum(replicas.kept()), sum(replicas.folded())), ((2, 16), (0, 0)));
            let labels = replicas.kept().all(|(key, _)| key.identity == identity);
            assert!(labels, "container and port are as they were shown");
        }
    }

    #[test]
    fn a_replica_that_is_gone_is_shown_for_a_while_and_handed_over() {
        let (mut replicas, start, pod) = (Replicas::default(), Instant::now(), pod());
        replicas.keep(&pod, &cell(80, 5));
        replicas.fold(&pod, &cell(81, 2));
        assert!(replicas.tick(start, LAST, HashSet::new(), |_| false).is_empty());
        let later = start + LAST / 2;
        assert!(replicas.tick(later, LAST, counted(&pod), |_| false).is_empty());
        assert_eq!(sum(replicas.kept()), (1, 5), "still shown");
        let over = replicas.tick(start + LAST, LAST, counted(&pod), |_| false);
        let [(who, rows)] = &over[..] else { panic!("{over:?}") };
        assert_eq!(*who, Replica::of(&pod));
        assert_eq!(sum(rows.iter().map(|row| (&row.key, &row.counts))), (2, 7));
        assert_eq!((sum(replicas.kept()), sum(replicas.folded())), ((0, 0), (0, 0)));
    }

    #[test]
    fn who_comes_back_in_time_goes_on() {
        let (mut replicas, start, pod) = (Replicas::default(), Instant::now(), pod());
        replicas.keep(&pod, &cell(80, 5));
        replicas.tick(start, LAST, HashSet::new(), |_| false);
        replicas.tick(start + LAST / 2, LAST, HashSet::new(), |_| true);
        let later = start + LAST + LAST / 4;
        assert!(replicas.tick(later, LAST, HashSet::new(), |_| false).is_empty());
        assert_eq!(sum(replicas.kept()), (1, 5));
    }

    #[test]
    fn those_that_nobody_can_name_stay() {
        let (mut replicas, start) = (Replicas::default(), Instant::now());
        replicas.keep(&UNATTRIBUTED, &CellSnapshot { port: 0, ..cell(0, 5) });
        replicas.tick(start, LAST, HashSet::new(), |_| false);
        assert!(replicas.tick(start + 2 * LAST, LAST, HashSet::new(), |_| false).is_empty());
        assert_eq!(sum(replicas.kept()), (1, 5));
    }

    #[test]
    fn label_sets_beyond_a_bound_lose_their_port_and_no_count() {
        let (mut replicas, pod) = (Replicas::default(), pod());
        (1..=200).for_each(|port| replicas.keep(&pod, &cell(port, 1)));
        replicas.keep(&pod, &cell(1, 10));
        assert_eq!((sum(replicas.kept()), sum(replicas.folded())), ((KEPT, 138), (1, 72)));
        let (key, _) = replicas.folded().next().unwrap();
        assert_eq!((key.port, key.identity.container.as_str()), (0, "0123456789ab"));
    }
}
