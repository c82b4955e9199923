//! Totals per workload: what its pods on this node have counted, those that are gone included.
//!
//! A pod's series end with it; a workload's go on, so the last counts of a short-lived pod are never lost. Counts are
//! added when a pod is over; a scrape adds those of the pods that are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use observer_common::{
    label::{Path, Role},
    protocol::Protocol,
};

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
    /// Where the other ends are.
    pub path: Path,
}

/// Which of a workload's connections are counted together.
pub type Sort = (Role, Protocol, Path);

/// Workloads without pods whose totals are shown; those without a pod for longest end.
const WORKLOADS: usize = 1_000;
/// Pods that were over before they had a name, and whose counts wait for one; more go to [`unattributed`].
const NAMELESS: usize = 1_000;

/// Who gets the totals of pods that were never named.
fn unattributed() -> Workload {
    Workload { namespace: String::new(), kind: String::new(), name: "unattributed".to_owned() }
}

/// Counts of a pod.
type Rows = BTreeMap<Sort, Counts>;

/// The totals of what is gone.
#[derive(Debug, Default)]
pub struct Workloads {
    gone: BTreeMap<TotalKey, Counts>,
    /// When each workload of `gone` was last added to, in ticks.
    added: HashMap<Workload, u64>,
    ticks: u64,
    /// By UID: counts of pods that are over and that nobody has named yet.
    nameless: HashMap<String, Rows>,
    /// By UID: what an earlier observer counted of pods that are not over, negative. Of no more pods than the table has cells.
    left_out: HashMap<String, Rows>,
}

impl Workloads {
    /// Takes over all counts of a pod that is over.
    pub fn retire<'a>(
        &mut self,
        uid: &str,
        workload: Option<&Workload>,
        counts: impl IntoIterator<Item = (Sort, &'a Counts)>,
    ) {
        let mut rows = self.left_out.remove(uid).unwrap_or_default();
        for (sort, counts) in counts {
            rows.entry(sort).or_default().add(counts);
        }
        match workload {
            Some(workload) => self.add(workload, &rows),
            None if self.nameless.len() < NAMELESS || self.nameless.contains_key(uid) => {
                let waiting = self.nameless.entry(uid.to_owned()).or_default();
                for (of, counts) in rows {
                    waiting.entry(of).or_default().add(&counts);
                }
            }
            None => self.add(&unattributed(), &rows),
        }
    }

    /// Leaves out what a cell in use has counted up to now.
    pub fn leave_out(&mut self, uid: &str, of: Sort, counts: &Counts) {
        let rows = self.left_out.entry(uid.to_owned()).or_default();
        rows.entry(of).or_default().add(&counts.clone().map(u64::wrapping_neg));
    }

    fn add(&mut self, workload: &Workload, rows: &Rows) {
        self.added.insert(workload.clone(), self.ticks);
        add(&mut self.gone, workload, rows);
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
            if let Some(workload) = workload(&uid) {
                self.add(workload, &rows);
            }
        }
        self.end_oldest(WORKLOADS, has_pods);
    }

    fn end_oldest(&mut self, limit: usize, has_pods: impl Fn(&Workload) -> bool) {
        if self.added.len() <= limit {
            return;
        }
        let bucket = unattributed();
        let mut old: Vec<(u64, Workload)> = self
            .added
            .iter()
            .filter(|(workload, _)| !has_pods(workload) && **workload != bucket)
            .map(|(workload, &added)| (added, workload.clone()))
            .collect();
        old.sort_unstable();
        old.truncate(self.added.len() - limit);
        let old: BTreeSet<Workload> = old.into_iter().map(|(_, workload)| workload).collect();
        self.gone.retain(|key, _| !old.contains(&key.workload));
        self.added.retain(|workload, _| !old.contains(workload));
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
        in_use: impl IntoIterator<Item = (&'a Workload, Sort, &'a Counts)>,
    ) -> Vec<(TotalKey, Counts)> {
        let mut all = self.gone.clone();
        for (workload, sort, counts) in in_use {
            all.entry(key(workload, sort)).or_default().add(counts);
        }
        // Those of the nameless are of pods that have got their name since the last tick.
        for (uid, rows) in self.left_out.iter().chain(&self.nameless) {
            if let Some(workload) = workload(uid) {
                add(&mut all, workload, rows);
            }
        }
        // Less than nothing is what was left out of a pod whose counts are gone: none of ours.
        let signed = |number: u64| number.cast_signed().max(0).cast_unsigned();
        all.into_iter().map(|(key, totals)| (key, totals.map(signed))).collect()
    }
}

fn add(totals: &mut BTreeMap<TotalKey, Counts>, workload: &Workload, rows: &Rows) {
    for (&sort, counts) in rows {
        totals.entry(key(workload, sort)).or_default().add(counts);
    }
}

fn key(workload: &Workload, (role, protocol, path): Sort) -> TotalKey {
    TotalKey { workload: workload.clone(), role, protocol, path }
}

#[cfg(test)]
mod tests {
    use observer_common::wire::slot;

    use super::*;

    const SERVER: Sort = (Role::Server, Protocol::Tcp, Path::External);

    fn workload(name: &str) -> Workload {
        Workload { namespace: "shop".to_owned(), kind: "Job".to_owned(), name: name.to_owned() }
    }

    fn counts(opened: u64) -> Counts {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        counts
    }

    fn retire(workloads: &mut Workloads, uid: &str, workload: Option<&Workload>, opened: u64) {
        workloads.retire(uid, workload, [(SERVER, &counts(opened))]);
    }

    fn opened(totals: &[(TotalKey, Counts)], name: &str) -> u64 {
        let of_name = totals.iter().filter(|(key, _)| key.workload.name == name);
        of_name.map(|(_, totals)| totals.one(&slot::OPENED)).sum()
    }

    #[test]
    fn what_is_gone_and_what_is_in_use_make_one_total() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        retire(&mut workloads, "a", Some(&job), 3);
        retire(&mut workloads, "b", Some(&job), 4);
        let in_use = counts(5);
        let totals = workloads.totals(|_| None, [(&job, SERVER, &in_use)]);
        assert_eq!((totals.len(), opened(&totals, "report")), (1, 12));
        assert_eq!(opened(&workloads.totals(|_| None, []), "report"), 7);
    }

    #[test]
    fn counts_of_a_pod_without_a_name_wait_for_it() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        retire(&mut workloads, "a", None, 3);
        workloads.tick(|_| None, |_| false);
        assert!(workloads.totals(|_| None, []).is_empty() && workloads.waits_for("a"));
        workloads.tick(|_| Some(&job), |_| false);
        assert_eq!(opened(&workloads.totals(|_| None, []), "report"), 3);
        assert!(!workloads.waits_for("a"));
    }

    #[test]
    fn what_an_earlier_observer_counted_is_left_out() {
        let (mut workloads, job) = (Workloads::default(), workload("report"));
        // However many pods there are.
        for pod in 0..2 * NAMELESS {
            workloads.leave_out(&pod.to_string(), SERVER, &counts(100));
        }
        let uid = (2 * NAMELESS - 1).to_string();
        let total = |workloads: &Workloads, opened_now: u64| {
            let in_use = counts(opened_now);
            let row = (&job, SERVER, &in_use);
            opened(&workloads.totals(|of| (of == uid).then_some(&job), [row]), "report")
        };
        assert_eq!((total(&workloads, 100), total(&workloads, 103)), (0, 3), "before the tick");
        workloads.tick(|_| Some(&job), |_| true);
        assert_eq!(total(&workloads, 104), 4);
        retire(&mut workloads, &uid, Some(&job), 104);
        assert_eq!((total(&workloads, 0), total(&workloads, 5)), (4, 9));
        // One that nobody names waits with what was left out, and is not counted twice.
        retire(&mut workloads, "0", None, 107);
        let late = workload("late");
        workloads.tick(|uid| (uid == "0").then_some(&late), |_| true);
        assert_eq!(opened(&workloads.totals(|_| None, []), "late"), 7);
    }

    #[test]
    fn what_is_never_named_has_a_total() {
        let mut workloads = Workloads::default();
        for pod in 0..NAMELESS + 5 {
            retire(&mut workloads, &pod.to_string(), None, 1);
        }
        assert_eq!(opened(&workloads.totals(|_| None, []), "unattributed"), 5);
    }

    #[test]
    fn totals_of_workloads_end_and_go_nowhere() {
        let mut workloads = Workloads::default();
        for number in 0..WORKLOADS + 5 {
            retire(&mut workloads, "a", Some(&workload(&number.to_string())), 1);
            workloads.tick(|_| None, |workload| workload.name == "0");
        }
        let totals = workloads.totals(|_| None, []);
        assert_eq!(totals.len(), WORKLOADS);
        assert_eq!((opened(&totals, "0"), opened(&totals, "1")), (1, 0), "one that has pods stays");
        assert!(totals.iter().all(|(_, totals)| totals.one(&slot::OPENED) == 1));
    }
}
