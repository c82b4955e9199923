//! Until when a pod's series are shown, and what they show of its containers that are over.
//!
//! A pod's counters must not go down while it lives, though its containers may be restarted and their cells recycled:
//! the counts of recycled cells are *kept* for as long as the pod is shown. A pod whose cgroups are gone and whose last
//! connection has ended is shown once more, so that its last counts reach a scrape; then all its series end at once.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use observer_common::{label::Role, protocol::Protocol};

use super::expire::UNSCRAPED;
use crate::model::{CellSnapshot, Counts};

/// What a pod's kept counts are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeptKey {
    /// The pod's UID.
    pub uid: String,
    /// The container's name; empty for one whose name was not known, or that is none.
    pub container: String,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// The server's port, 0 when ports are not told apart.
    pub port: u16,
}

/// More keys than this do not tell ports apart.
const TELL_PORTS: usize = 1_024;

/// The pods that have counts.
#[derive(Debug, Default)]
pub struct Pods {
    gone: HashMap<String, Gone>,
    kept: HashMap<KeptKey, Counts>,
}

/// A pod without cgroups and connections.
#[derive(Debug)]
struct Gone {
    since: Instant,
    shown: bool,
    over: bool,
}

impl Pods {
    /// Takes note of who is there. `counted` are the pods that have cells; `alive` says whether a pod has a cgroup or an
    /// open connection.
    ///
    /// Returns the kept counts of the pods that have been shown for the last time.
    pub fn tick(
        &mut self,
        now: Instant,
        counted: &HashSet<&str>,
        alive: impl Fn(&str) -> bool,
    ) -> Vec<(KeptKey, Counts)> {
        let kept: HashSet<&str> = self.kept.keys().map(|key| key.uid.as_str()).collect();
        let dead = counted.union(&kept).filter(|uid| !alive(uid));
        let mut gone = HashMap::new();
        for &uid in dead {
            let mut pod =
                self.gone.remove(uid).unwrap_or(Gone { since: now, shown: false, over: false });
            pod.over |= pod.shown || now.duration_since(pod.since) >= UNSCRAPED;
            gone.insert(uid.to_owned(), pod);
        }
        self.gone = gone;
        let over = &self.gone;
        self.kept.extract_if(|key, _| over.get(&key.uid).is_some_and(|pod| pod.over)).collect()
    }

    /// Whether a scrape shows the pod's series, and remembers that it did.
    pub fn show(&mut self, uid: &str) -> bool {
        match self.gone.get_mut(uid) {
            Some(pod) if pod.over => false,
            Some(pod) => {
                pod.shown = true;
                true
            }
            None => true,
        }
    }

    /// Whether the pod's series have ended.
    #[must_use]
    pub fn is_over(&self, uid: &str) -> bool {
        self.gone.get(uid).is_some_and(|pod| pod.over)
    }

    /// Keeps the counts of a cell that is recycled while its pod's series go on.
    pub fn keep(&mut self, uid: &str, container: &str, cell: &CellSnapshot) {
        let mut key = KeptKey {
            uid: uid.to_owned(),
            container: container.to_owned(),
            role: cell.role,
            protocol: cell.protocol,
            port: cell.port,
        };
        if self.kept.len() >= TELL_PORTS && !self.kept.contains_key(&key) {
            key.port = 0;
        }
        self.kept.entry(key).or_default().add(&cell.counts);
    }

    /// All kept counts.
    pub fn kept(&self) -> impl Iterator<Item = (&KeptKey, &Counts)> {
        self.kept.iter()
    }

    /// Whether counts are kept for the pod.
    #[must_use]
    pub fn keeps(&self, uid: &str) -> bool {
        self.kept.keys().any(|key| key.uid == uid)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use observer_common::wire::slot;

    use super::*;

    const UID: &str = "57e67067-89e4-4001-bdd4-8632d39ea02b";

    fn cell(port: u16, opened: u64) -> CellSnapshot {
        CellSnapshot {
            cgroup: 9,
            port,
            role: Role::Server,
            protocol: Protocol::Tcp,
            counts: opened_only(opened),
        }
    }

    fn opened_only(opened: u64) -> Counts {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        counts
    }

    fn opened(pods: &Pods) -> u64 {
        pods.kept().map(|(_, counts)| counts.one(&slot::OPENED)).sum()
    }

    #[test]
    fn restarts_are_added_up_while_the_pod_lives() {
        let (mut pods, now) = (Pods::default(), Instant::now());
        for _ in 0..3 {
            pods.keep(UID, "app", &cell(80, 5));
            assert!(pods.tick(now, &HashSet::from([UID]), |_| true).is_empty());
            assert!(pods.show(UID) && pods.keeps(UID));
        }
        assert_eq!((pods.kept().count(), opened(&pods)), (1, 15));
    }

    #[test]
    fn a_gone_pod_is_shown_once_and_handed_over() {
        let (mut pods, now) = (Pods::default(), Instant::now());
        let counted = HashSet::from([UID]);
        pods.keep(UID, "app", &cell(80, 5));
        assert!(pods.tick(now, &counted, |_| false).is_empty());
        assert!(pods.tick(now + Duration::from_mins(1), &counted, |_| false).is_empty());
        assert!(!pods.is_over(UID), "not shown yet");
        assert!(pods.show(UID) && pods.show(UID), "all its series are in the same scrape");
        let over = pods.tick(now + Duration::from_secs(61), &counted, |_| false);
        assert_eq!((over.len(), over[0].1.one(&slot::OPENED)), (1, 5));
        assert!(!pods.show(UID) && pods.is_over(UID) && !pods.keeps(UID));
        pods.tick(now, &HashSet::new(), |_| false);
        assert!(pods.gone.is_empty(), "forgotten with its last cell");
    }

    #[test]
    fn without_a_scraper_a_gone_pod_waits() {
        let (mut pods, now) = (Pods::default(), Instant::now());
        pods.keep(UID, "app", &cell(80, 5));
        pods.tick(now, &HashSet::new(), |_| false);
        assert_eq!(pods.tick(now + UNSCRAPED, &HashSet::new(), |_| false).len(), 1);
    }

    #[test]
    fn a_pod_that_comes_back_is_shown_again() {
        let (mut pods, now) = (Pods::default(), Instant::now());
        let counted = HashSet::from([UID]);
        pods.tick(now, &counted, |_| false);
        pods.show(UID);
        pods.tick(now, &counted, |_| false);
        assert!(!pods.show(UID));
        pods.tick(now, &counted, |_| true);
        assert!(pods.show(UID));
    }

    #[test]
    fn many_ports_are_not_told_apart() {
        let mut pods = Pods::default();
        (1..=2_000).for_each(|port| pods.keep(UID, "app", &cell(port, 1)));
        assert_eq!((pods.kept().count(), opened(&pods)), (TELL_PORTS + 1, 2_000));
    }
}
