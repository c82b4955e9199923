//! The pods' part of a pass: their names, how long they are shown, and the totals of their workloads.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::pass::Found;
use crate::{
    aggregate::{Pods, TotalKey, Workloads},
    attribute::{CgroupIndex, Health, Identity, Kind, Names, Workload},
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

/// What the collector knows of pods.
pub(super) struct PodBooks {
    /// Absent when nobody names pods.
    names: Option<Arc<Mutex<Names>>>,
    pods: Pods,
    workloads: Workloads,
}

impl PodBooks {
    pub(super) fn new(names: Option<Arc<Mutex<Names>>>) -> Self {
        Self { names, pods: Pods::default(), workloads: Workloads::default() }
    }

    /// The names, for as long as a scrape needs them.
    pub(super) fn names(&self) -> Option<Arc<Mutex<Names>>> {
        self.names.clone()
    }

    /// Whether a scrape shows a cell: all cells of a pod or none, any other cell as it is due itself.
    pub(super) fn shows(&mut self, identity: &Identity, due: bool) -> bool {
        identity.pod_uid.as_deref().map_or(due, |uid| self.pods.show(uid))
    }

    /// Regular work, after a walk of the cgroup tree and before cells are recycled. `open` are the
    /// cgroups that have cells, and whether connections are open in any of them.
    pub(super) fn tick(&mut self, now: Instant, open: &HashMap<u64, bool>, cgroups: &CgroupIndex) {
        let here = cgroups.pods();
        let cells: Vec<(Arc<Identity>, bool)> = open
            .iter()
            .filter_map(|(&cgroup, &open)| Some((cgroups.resolve(cgroup)?, open)))
            .collect();
        let counted =
            cells.iter().filter_map(|(identity, open)| Some((identity.pod_uid.as_deref()?, *open)));
        let open: HashSet<&str> =
            counted.clone().filter(|(_, open)| *open).map(|(uid, _)| uid).collect();
        let counted: HashSet<&str> = counted.map(|(uid, _)| uid).collect();
        let over = self.pods.tick(now, &counted, |uid| here.contains(uid) || open.contains(uid));
        let Some(names) = &self.names else { return };
        let mut names = lock(names);
        for (key, counts) in over {
            let of = (key.role, key.protocol);
            self.workloads.retire(&key.uid, names.workload(&key.uid), of, &counts);
        }
        let present: HashSet<&Workload> =
            here.union(&counted).filter_map(|uid| names.workload(uid)).collect();
        self.workloads.tick(|uid| names.workload(uid), |workload| present.contains(workload));
        let kept: HashSet<&str> = self.pods.kept().map(|(key, _)| key.uid.as_str()).collect();
        let in_use: [&HashSet<&str>; 3] = [&here, &counted, &kept];
        let workloads = &self.workloads;
        names
            .forget(|uid| in_use.iter().any(|pods| pods.contains(uid)) || workloads.waits_for(uid));
    }

    /// Leaves what these cells have counted out of the totals.
    pub(super) fn begin_totals(&mut self, cells: &[Found], cgroups: &CgroupIndex) {
        if self.names.is_some() {
            for (uid, cell) in of_pods(cells, cgroups) {
                self.workloads.leave_out(&uid, (cell.role, cell.protocol), &cell.counts);
            }
        }
    }

    /// Takes over the counts of a pod's cell that is about to be recycled.
    pub(super) fn recycle(&mut self, identity: &Identity, cell: &CellSnapshot) {
        let Some(uid) = identity.pod_uid.as_deref() else { return };
        let names = self.names.as_ref();
        let names = names.map(|names| lock(names));
        if !self.pods.is_over(uid) {
            let id = identity.container_id.as_deref();
            let container = names.as_ref().zip(id).and_then(|(names, id)| names.container(uid, id));
            self.pods.keep(uid, container.unwrap_or_default(), cell);
        } else if let Some(names) = names {
            let of = (cell.role, cell.protocol);
            self.workloads.retire(uid, names.workload(uid), of, &cell.counts);
        }
    }

    /// The kept counts of pods that are shown, as cells.
    pub(super) fn kept(&mut self, names: Option<&Names>) -> Vec<(Arc<Identity>, CellSnapshot)> {
        let uids: HashSet<String> = self.pods.kept().map(|(key, _)| key.uid.clone()).collect();
        let shown: HashSet<String> = uids.into_iter().filter(|uid| self.pods.show(uid)).collect();
        let kept = self.pods.kept().filter(|(key, _)| shown.contains(&key.uid));
        kept.map(|(key, counts)| {
            let identity = Identity {
                kind: Kind::Pod,
                namespace: String::new(),
                pod: key.uid.clone(),
                container: key.container.clone(),
                pod_uid: Some(key.uid.clone()),
                container_id: None,
            };
            let cell = CellSnapshot {
                cgroup: 0,
                port: key.port,
                role: key.role,
                protocol: key.protocol,
                counts: counts.clone(),
            };
            (join(names, Arc::new(identity)), cell)
        })
        .collect()
    }

    /// How it is with the names, without any pod; nothing when nobody names pods.
    pub(super) fn about(&self, cgroups: &CgroupIndex) -> Option<Kubernetes> {
        self.names.as_ref().map(|names| about(&lock(names), cgroups))
    }

    /// What a scrape shows beside the series.
    pub(super) fn kubernetes(
        &mut self,
        names: &Names,
        cells: &[Found],
        cgroups: &CgroupIndex,
    ) -> Kubernetes {
        let here = cgroups.pods();
        let cells = of_pods(cells, cgroups);
        let counted = cells.iter().map(|(uid, _)| uid.as_str());
        let counted: HashSet<&str> = counted.filter(|uid| self.pods.show(uid)).collect();
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
        let in_cells =
            cells.iter().map(|(uid, cell)| (uid.as_str(), cell.role, cell.protocol, &cell.counts));
        let kept = self
            .pods
            .kept()
            .map(|(key, counts)| (key.uid.as_str(), key.role, key.protocol, counts));
        let of_workloads = in_cells.chain(kept).filter_map(|(uid, role, protocol, counts)| {
            Some((names.workload(uid)?, role, protocol, counts))
        });
        Kubernetes {
            totals: self.workloads.totals(|uid| names.workload(uid), of_workloads),
            pods,
            ..about(names, cgroups)
        }
    }
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
    Kubernetes { health: names.health(), unnamed, pods: Vec::new(), totals: Vec::new() }
}

/// The cells that belong to pods, with the pod's UID.
fn of_pods<'a>(cells: &'a [Found], cgroups: &CgroupIndex) -> Vec<(String, &'a CellSnapshot)> {
    let uid = |cell: &CellSnapshot| cgroups.resolve(cell.cgroup)?.pod_uid.clone();
    cells.iter().filter_map(|found| Some((uid(&found.cell)?, &found.cell))).collect()
}
