//! The pods' part of a pass: their names, how long they are shown, and the totals of their workloads.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::ledger::{Owned, Shown};
use crate::{
    aggregate::{Series, Sort, TotalKey, Workloads},
    attribute::{CgroupIndex, Health, Identity, Names, Workload},
    model::{CellSnapshot, Counts},
};

/// What a scrape shows of Kubernetes, beside the series.
#[derive(Debug)]
pub struct Kubernetes {
    /// How the watch of the API server is doing.
    pub health: Health,
    /// Pods with a cgroup here that have no name yet.
    pub unnamed: u64,
    /// The named pods that are here or have series, sorted by their labels.
    pub pods: Vec<NamedPod>,
    /// The pods that the API server has on this node and that have not ended, whether they are here or not.
    pub existing: Vec<ExistingPod>,
    /// What each workload's pods have counted on this node.
    pub totals: Vec<(TotalKey, Counts)>,
}

/// A pod that the API server has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPod {
    /// The UID that its cgroup is named after.
    pub uid: String,
    /// The label `pod`: its name, or its UID if a newer pod has the name.
    pub pod: String,
    /// Who looks after it, and its namespace.
    pub workload: Workload,
    /// Whether it runs: then it has explicit zeros.
    pub running: bool,
}

/// A pod that the API server has on this node, and that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingPod {
    /// The label `pod`.
    pub pod: String,
    /// Who looks after it, and its namespace.
    pub workload: Workload,
    /// Whether its phase is `Running`.
    pub running: bool,
    /// Whether it has a cgroup here: nothing of it is counted without.
    pub here: bool,
}

/// What the collector knows of pods.
pub(super) struct PodBooks {
    /// Absent when nobody names pods.
    names: Option<Arc<Mutex<Names>>>,
    workloads: Workloads,
    /// When totals begin.
    since: SystemTime,
}

impl PodBooks {
    pub(super) fn new(names: Option<Arc<Mutex<Names>>>, since: SystemTime) -> Self {
        Self { names, workloads: Workloads::default(), since }
    }

    /// The names, for as long as a scrape needs them.
    pub(super) fn names(&self) -> Option<Arc<Mutex<Names>>> {
        self.names.clone()
    }

    /// Regular work, after a walk of the cgroup tree. `over` are the rows of replicas that are shown no more, `counted` the
    /// pods that have counts.
    pub(super) fn tick(
        &mut self,
        over: &[Vec<Series>],
        counted: &HashSet<&str>,
        cgroups: &CgroupIndex,
    ) {
        let Some(names) = &self.names else { return };
        let mut names = lock(names);
        for rows in over {
            let uid = rows.first().and_then(|row| row.key.identity.pod_uid.as_deref());
            if let Some(uid) = uid {
                let rows = rows.iter().map(|row| {
                    let key = &row.key;
                    ((key.role, key.protocol, key.path), &row.counts)
                });
                self.workloads.retire(uid, names.workload(uid), rows);
            }
        }
        let here = cgroups.pods();
        let present: HashSet<&Workload> =
            here.union(counted).filter_map(|uid| names.workload(uid)).collect();
        self.workloads.tick(|uid| names.workload(uid), |workload| present.contains(workload));
        let workloads = &self.workloads;
        names.forget(|uid| here.contains(uid) || counted.contains(uid) || workloads.waits_for(uid));
    }

    /// Leaves what these cells have counted out of the totals.
    pub(super) fn begin_totals(&mut self, shown: &[Owned]) {
        if self.names.is_some() {
            for (identity, cell) in shown {
                if let Some(uid) = &identity.pod_uid {
                    self.workloads.leave_out(uid, sort(cell), &cell.counts);
                }
            }
        }
    }

    /// The identity with its container's name instead of the id, if that is known.
    pub(super) fn with_container(&self, identity: Arc<Identity>) -> Arc<Identity> {
        let known = self.names.as_deref().map(lock);
        let container = || {
            let (uid, id) = identity.pod_uid.as_deref().zip(identity.container_id.as_deref())?;
            Some(known.as_deref()?.container(uid, id)?.to_owned())
        };
        match container() {
            None => identity,
            Some(container) => {
                let identity = Identity::clone(&identity);
                Arc::new(Identity { container, container_id: None, ..identity })
            }
        }
    }

    /// How it is with the names, without any pod; nothing when nobody names pods.
    pub(super) fn about(&self, cgroups: &CgroupIndex) -> Option<Kubernetes> {
        self.names.as_ref().map(|names| about(&lock(names), cgroups))
    }

    /// What a scrape shows beside the series.
    pub(super) fn kubernetes(
        &self,
        names: &Names,
        shown: &Shown,
        cgroups: &CgroupIndex,
    ) -> Kubernetes {
        let here = cgroups.pods();
        let of_pods = shown.series.iter().chain(&shown.folded);
        let of_pods =
            of_pods.filter_map(|(identity, cell)| Some((identity.pod_uid.as_deref()?, cell)));
        let counted: HashSet<&str> = of_pods.clone().map(|(uid, _)| uid).collect();
        let mut pods: Vec<NamedPod> = here
            .union(&counted)
            .filter_map(|uid| {
                let (pod, shown) = names.pod(uid)?;
                Some(NamedPod {
                    uid: pod.uid.clone(),
                    pod: shown.to_owned(),
                    workload: pod.workload.clone(),
                    running: pod.running && here.contains(uid),
                })
            })
            .collect();
        pods.sort_by(|a, b| (&a.workload.namespace, &a.pod).cmp(&(&b.workload.namespace, &b.pod)));
        let existing = names.existing().filter(|(pod, _)| !pod.ended);
        let existing = existing.map(|(pod, shown)| ExistingPod {
            pod: shown.to_owned(),
            workload: pod.workload.clone(),
            running: pod.running,
            here: here.contains(pod.uid.as_str()),
        });
        let existing = existing.collect();
        let of_workloads = of_pods
            .filter_map(|(uid, cell)| Some((names.workload(uid)?, sort(cell), &cell.counts)));
        let mut totals = self.workloads.totals(|uid| names.workload(uid), of_workloads);
        for (_, counts) in &mut totals {
            // What an earlier observer has counted is not in them.
            counts.since = Some(counts.since.map_or(self.since, |since| since.max(self.since)));
        }
        Kubernetes { pods, existing, totals, ..about(names, cgroups) }
    }
}

/// What a cell is counted with in the totals.
const fn sort(cell: &CellSnapshot) -> Sort {
    (cell.role, cell.protocol, cell.path)
}

/// No method of [`Names`] leaves it half-done, should it panic.
pub(super) fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The identity with the API server's names, as far as they are known.
pub(super) fn join(names: Option<&Names>, identity: Arc<Identity>) -> Arc<Identity> {
    match names {
        Some(names) => names.join(&identity),
        None => identity,
    }
}

fn about(names: &Names, cgroups: &CgroupIndex) -> Kubernetes {
    let unnamed = cgroups.pods().iter().filter(|uid| !names.knows(uid)).count() as u64;
    Kubernetes {
        health: names.health(),
        unnamed,
        pods: Vec::new(),
        existing: Vec::new(),
        totals: Vec::new(),
    }
}
