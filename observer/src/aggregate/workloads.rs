//! Totals per workload: what its pods on this node have counted, those that are gone included.
//!
//! A pod's series end with it; a workload's go on, so the last counts of a short-lived pod are never lost. Counts are
//! added when a pod's cells are recycled; a scrape adds those of the cells in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use observer_common::{label::Role, protocol::Protocol};

use crate::{attribute::Workload, model::Counts};

/// What one row of totals counts for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TotalKey {
    /// The workload.
    pub workload: Workload,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
}

/// Workloads without pods of which totals are kept apart; those without a pod for longest go to [`overflow`].
const WORKLOADS: usize = 1_000;
/// Pods that were gone before they had a name, and whose counts wait for one; more go to [`unattributed`].
const NAMELESS: usize = 1_000;

/// Who gets the totals of workloads for which there is no room.
fn overflow() -> Workload {
    bucket("overflow")
}

/// Who gets the totals of pods that were never named.
fn unattributed() -> Workload {
    bucket("unattributed")
}

fn bucket(name: &str) -> Workload {
    Workload { namespace: String::new(), kind: String::new(), name: name.to_owned() }
}

/// The totals of what is gone.
#[derive(Debug, Default)]
pub struct Workloads {
    gone: BTreeMap<TotalKey, Counts>,
    /// When each workload of `gone` was last added to, in ticks.
    added: HashMap<Workload, u64>,
    ticks: u64,
    /// By UID: counts of pods that nobody has named yet.
    nameless: HashMap<String, Vec<(Role, Protocol, Counts)>>,
}

impl Workloads {
    /// Takes over the counts of a pod's cell that is recycled, or was before.
    pub fn retire(
        &mut self,
        uid: &str,
        workload: Option<&Workload>,
        (role, protocol): (Role, Protocol),
        counts: &Counts,
    ) {
        match workload {
            Some(workload) => self.add(workload.clone(), role, protocol, counts),
            None if self.nameless.len() < NAMELESS || self.nameless.contains_key(uid) => {
                let rows = self.nameless.entry(uid.to_owned()).or_default();
                rows.push((role, protocol, counts.clone()));
            }
            None => self.add(unattributed(), role, protocol, counts),
        }
    }

    /// Leaves out what a cell in use has counted up to now.
    pub fn leave_out(&mut self, uid: &str, (role, protocol): (Role, Protocol), counts: &Counts) {
        if self.nameless.len() < NAMELESS || self.nameless.contains_key(uid) {
            let totals = counts.clone().map(u64::wrapping_neg);
            self.nameless.entry(uid.to_owned()).or_default().push((role, protocol, totals));
        }
    }

    fn add(&mut self, workload: Workload, role: Role, protocol: Protocol, totals: &Counts) {
        self.added.insert(workload.clone(), self.ticks);
        self.gone.entry(TotalKey { workload, role, protocol }).or_default().add(totals);
    }

    /// Regular work: gives the nameless to the workloads that are known by now, and bounds the memory.
    pub fn tick<'a>(
        &mut self,
        workload: impl Fn(&str) -> Option<&'a Workload>,
        has_pods: impl Fn(&Workload) -> bool,
    ) {
        self.ticks += 1;
        let named: Vec<_> = self.nameless.extract_if(|uid, _| workload(uid).is_some()).collect();
        for (uid, rows) in named {
            for (role, protocol, totals) in rows {
                if let Some(workload) = workload(&uid) {
                    self.add(workload.clone(), role, protocol, &totals);
                }
            }
        }
        self.fold_oldest(WORKLOADS, has_pods);
    }

    fn fold_oldest(&mut self, limit: usize, has_pods: impl Fn(&Workload) -> bool) {
        if self.added.len() <= limit {
            return;
        }
        let buckets = [overflow(), unattributed()];
        let mut old: Vec<(u64, Workload)> = self
            .added
            .iter()
            .filter(|(workload, _)| !has_pods(workload) && !buckets.contains(workload))
            .map(|(workload, &added)| (added, workload.clone()))
            .collect();
        old.sort_unstable();
        old.truncate(self.added.len() - limit);
        let old: BTreeSet<Workload> = old.into_iter().map(|(_, workload)| workload).collect();
        let folded: Vec<_> =
            self.gone.extract_if(.., |key, _| old.contains(&key.workload)).collect();
        self.added.retain(|workload, _| !old.contains(workload));
        for (key, totals) in folded {
            self.add(overflow(), key.role, key.protocol, &totals);
        }
    }

    /// Whether counts wait for the name of this pod.
    #[must_use]
    pub fn waits_for(&self, uid: &str) -> bool {
        self.nameless.contains_key(uid)
    }

    /// The totals of what is gone and of what is in use, sorted.
    #[must_use]
    pub fn totals<'a>(
        &self,
        workload: impl Fn(&str) -> Option<&'a Workload>,
        in_use: impl IntoIterator<Item = (&'a Workload, Role, Protocol, &'a Counts)>,
    ) -> Vec<(TotalKey, Counts)> {
        let mut all = self.gone.clone();
        for (workload, role, protocol, counts) in in_use {
            let key = TotalKey { workload: workload.clone(), role, protocol };
            all.entry(key).or_default().add(counts);
        }
        // Those that have got their name since the last tick.
        for (uid, rows) in &self.nameless {
            for (role, protocol, totals) in rows {
                if let Some(workload) = workload(uid) {
                    let (workload, role, protocol) = (workload.clone(), *role, *protocol);
                    all.entry(TotalKey { workload, role, protocol }).or_default().add(totals);
                }
            }
        }
        // Less than nothing is what was left out of a cell whose counts are gone: none of ours.
        let signed = |number: u64| number.cast_signed().max(0).cast_unsigned();
        all.into_iter().map(|(key, totals)| (key, totals.map(signed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use observer_common::wire::slot;

    use super::*;

    const SERVER: (Role, Protocol) = (Role::Server, Protocol::Tcp);

    fn workload(name: &str) -> Workload {
        Workload { namespace: "shop".to_owned(), kind: "Job".to_owned(), name: name.to_owned() }
    }

    fn counts(opened: u64) -> Counts {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        counts
    }

    fn opened(totals: &[(TotalKey, Counts)], name: &str) -> u64 {
        let of_name = totals.iter().filter(|(key, _)| key.workload.name == name);
        of_name.map(|(_, totals)| totals.one(&slot::OPENED)).sum()
    }

    #[test]
    fn what_is_gone_and_what_is_in_use_make_one_total() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        workloads.retire("a", Some(&job), SERVER, &counts(3));
        workloads.retire("b", Some(&job), SERVER, &counts(4));
        let in_use = counts(5);
        let totals = workloads.totals(|_| None, [(&job, Role::Server, Protocol::Tcp, &in_use)]);
        assert_eq!((totals.len(), opened(&totals, "report")), (1, 12));
        assert_eq!(opened(&workloads.totals(|_| None, []), "report"), 7);
    }

    #[test]
    fn counts_of_a_pod_without_a_name_wait_for_it() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        workloads.retire("a", None, SERVER, &counts(3));
        workloads.tick(|_| None, |_| false);
        assert!(workloads.totals(|_| None, []).is_empty() && workloads.waits_for("a"));
        workloads.tick(|_| Some(&job), |_| false);
        assert_eq!(opened(&workloads.totals(|_| None, []), "report"), 3);
        assert!(!workloads.waits_for("a"));
    }

    #[test]
    fn what_an_earlier_observer_counted_is_left_out() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        workloads.leave_out("a", SERVER, &counts(100));
        let total = |workloads: &Workloads, opened_now: u64| {
            let in_use = counts(opened_now);
            let row = (&job, Role::Server, Protocol::Tcp, &in_use);
            opened(&workloads.totals(|uid| (uid == "a").then_some(&job), [row]), "report")
        };
        assert_eq!((total(&workloads, 100), total(&workloads, 103)), (0, 3), "before the tick");
        workloads.tick(|_| Some(&job), |_| true);
        assert_eq!(total(&workloads, 104), 4);
        workloads.retire("a", Some(&job), SERVER, &counts(104));
        assert_eq!((total(&workloads, 0), total(&workloads, 5)), (4, 9));
    }

    #[test]
    fn nothing_is_lost_where_there_is_no_room() {
        let mut workloads = Workloads::default();
        for pod in 0..NAMELESS + 5 {
            workloads.retire(&pod.to_string(), None, SERVER, &counts(1));
        }
        assert_eq!(opened(&workloads.totals(|_| None, []), "unattributed"), 5);
        for number in 0..WORKLOADS + 5 {
            workloads.retire("a", Some(&workload(&number.to_string())), SERVER, &counts(1));
            workloads.tick(|_| None, |workload| workload.name == "0");
        }
        let totals = workloads.totals(|_| None, []);
        assert_eq!(
            totals.iter().map(|(_, totals)| totals.one(&slot::OPENED)).sum::<u64>(),
            5 + WORKLOADS as u64 + 5
        );
        assert_eq!((opened(&totals, "0"), opened(&totals, "1")), (1, 0), "one that has pods stays");
        assert!(totals.len() <= WORKLOADS + 1 && opened(&totals, "overflow") >= 5);
    }
}
