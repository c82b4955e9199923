//! What the API server says of this node's pods, and the names that follow for their cgroups.
//!
//! ```text
//! cgroup path ── UID, container id ──▶ Names ──▶ namespace, pod, container, workload
//! ```
//!
//! - A pod that is not known (yet) keeps the names that its cgroup path gives: costs names, never counts.
//! - A pod that the API server has removed keeps its names until [`Names::forget`] is told that nobody counts for it.
//! - Two pods may have had one name, one after the other. The newer owns it; the older is then told by its UID, in its
//!   namespace. So no two pods ever share their labels, and their counts are never added up.
//! - A static pod's cgroup has the hash of its manifest for a UID; whoever fills [`Names`] gives that one.
//!
//! Pure: strings in, strings out. Who asks the API server is no concern of this module.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Identity;

/// Who looks after a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// The pod's namespace.
    pub namespace: String,
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `CronJob`, …; `StaticPod` for one that the kubelet started by itself,
    /// `Pod` for one that nobody looks after.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A pod as far as a name needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The UID that the pod's cgroup is named after.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Who looks after it, and its namespace.
    pub workload: Workload,
    /// Whether its phase is `Running`.
    pub running: bool,
    /// Whether its phase is `Succeeded` or `Failed`.
    pub ended: bool,
    /// Ports that do not count for whether its connections can be read.
    pub readable: Vec<u16>,
    /// Its containers of all sorts as far as they have been started, those that a restart has replaced included.
    pub containers: Vec<Container>,
}

/// A container of a pod. A restart makes a new one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id, without the runtime's name.
    pub id: String,
    /// The name in the pod's specification.
    pub name: String,
}

/// How many containers of a pod are remembered that the API server has forgotten: it names the last and the one before,
/// and counts of older ones may still wait for a scrape.
const OLD_CONTAINERS: usize = 32;

/// What can go wrong with the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// Listing the pods failed.
    List,
    /// Starting or continuing the watch failed.
    Watch,
    /// The API server no longer had what came after the last event (410): the pods are listed again.
    Expired,
}

impl Trouble {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::List, Self::Watch, Self::Expired];

    /// The value of the label `kind`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
            Self::Expired => "expired",
        }
    }
}

/// How the watch is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether names are as new as the API server's: the list is complete, and the watch has not failed since.
    pub current: bool,
    /// What went wrong, indexed by [`Trouble`].
    pub troubles: [u64; Trouble::ALL.len()],
    /// Pods that the API server has on this node.
    pub pods: u64,
}

/// The names of this node's pods.
#[derive(Debug, Default)]
pub struct Names {
    pods: HashMap<String, Known>,
    /// By namespace and name: the UID of the pod that has the name now, or had it last.
    owners: HashMap<(String, String), String>,
    /// While the pods are listed anew: those met so far.
    listing: Option<HashSet<String>>,
    /// Whether a list has been complete, and none has begun since.
    listed: bool,
    /// Whether the API server answers.
    answering: bool,
    troubles: [u64; Trouble::ALL.len()],
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    /// That of the pod, for all who have its identity.
    workload: Arc<Workload>,
    /// Whether the API server still has it.
    exists: bool,
}

impl Names {
    /// The pods are about to be listed anew.
    pub fn begin_list(&mut self) {
        self.listing = Some(HashSet::new());
        self.listed = false;
    }

    /// The list is complete: what was not in it does not exist any more.
    pub fn end_list(&mut self) {
        if let Some(met) = self.listing.take() {
            for (uid, known) in &mut self.pods {
                known.exists &= met.contains(uid);
            }
        }
        self.listed = true;
    }

    /// A pod of a list, or one that is new or has changed.
    pub fn apply(&mut self, mut pod: Pod) {
        if let Some(met) = &mut self.listing {
            met.insert(pod.uid.clone());
        }
        if let Some(before) = self.pods.get_mut(&pod.uid) {
            let old = std::mem::take(&mut before.pod.containers);
            remember(&mut pod.containers, old);
        }
        let name = (pod.workload.namespace.clone(), pod.name.clone());
        self.owners.insert(name, pod.uid.clone());
        let workload = Arc::new(pod.workload.clone());
        self.pods.insert(pod.uid.clone(), Known { pod, workload, exists: true });
    }

    /// A pod that the API server has removed. It keeps its names until it is forgotten.
    pub fn delete(&mut self, uid: &str) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.exists = false;
        }
    }

    /// Forgets the pods that do not exist any more and for which `in_use` is false.
    pub fn forget(&mut self, in_use: impl Fn(&str) -> bool) {
        let owners = &mut self.owners;
        self.pods.retain(|uid, known| {
            let keep = known.exists || in_use(uid);
            if !keep {
                let name = (known.pod.workload.namespace.clone(), known.pod.name.clone());
                if owners.get(&name) == Some(uid) {
                    owners.remove(&name);
                }
            }
            keep
        });
    }

    /// The identity with the API server's names, as far as they are known.
    #[must_use]
    pub fn join(&self, identity: &Arc<Identity>) -> Arc<Identity> {
        let known = identity.pod_uid.as_deref().and_then(|uid| self.pods.get(uid));
        let Some(Known { pod, workload, .. }) = known else { return Arc::clone(identity) };
        let id = identity.container_id.as_deref();
        let container = id.and_then(|id| container_of(pod, id)).unwrap_or(&identity.container);
        Arc::new(Identity {
            kind: identity.kind,
            namespace: pod.workload.namespace.clone(),
            pod: self.shown_name(pod).to_owned(),
            container: container.to_owned(),
            pod_uid: identity.pod_uid.clone(),
            // A restarted container has the labels of the one before it: they are one series.
            container_id: None,
            workload: Some(Arc::clone(workload)),
        })
    }

    /// The name of a pod's container, if both are known.
    #[must_use]
    pub fn container(&self, uid: &str, id: &str) -> Option<&str> {
        container_of(&self.pods.get(uid)?.pod, id)
    }

    /// Who looks after a pod, if it is known.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Workload> {
        self.pods.get(uid).map(|known| &known.pod.workload)
    }

    /// The ports of a pod that do not count for whether its connections can be read.
    #[must_use]
    pub fn readable(&self, uid: &str) -> &[u16] {
        self.pods.get(uid).map_or(&[], |known| &known.pod.readable)
    }

    /// Whether the pod has a name.
    #[must_use]
    pub fn knows(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// The pod, and the value of its label `pod`.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<(&Pod, &str)> {
        self.pods.get(uid).map(|known| (&known.pod, self.shown_name(&known.pod)))
    }

    /// The pod's own name, or its UID if a newer pod has the name.
    fn shown_name<'a>(&self, pod: &'a Pod) -> &'a str {
        // A tuple of owned strings has no borrowed form to look it up by.
        let name = (pod.workload.namespace.clone(), pod.name.clone());
        let owner = self.owners.get(&name).is_none_or(|uid| *uid == pod.uid);
        if owner { &pod.name } else { &pod.uid }
    }

    /// The pods that the API server has on this node, with the values of their labels `pod`.
    pub fn existing(&self) -> impl Iterator<Item = (&Pod, &str)> {
        let existing = self.pods.values().filter(|known| known.exists);
        existing.map(|known| (&known.pod, self.shown_name(&known.pod)))
    }

    /// The API server has answered a request.
    pub fn note_answer(&mut self) {
        self.answering = true;
    }

    /// Something went wrong; names stay as they were.
    pub fn note_trouble(&mut self, trouble: Trouble) {
        self.troubles[trouble as usize] += 1;
        self.answering = false;
    }

    /// How the watch is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            current: self.listed && self.answering,
            troubles: self.troubles,
            pods: self.pods.values().filter(|known| known.exists).count() as u64,
        }
    }
}

fn container_of<'a>(pod: &'a Pod, id: &str) -> Option<&'a str> {
    pod.containers.iter().find(|container| container.id == id).map(|found| found.name.as_str())
}

/// Adds to `current` those of `old` that it lacks, the newest ones.
fn remember(current: &mut Vec<Container>, old: Vec<Container>) {
    let known = current.len();
    for container in old {
        if current[..known].iter().all(|c| c.id != container.id) {
            current.push(container);
        }
    }
    current.truncate(known + OLD_CONTAINERS);
    current.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::super::identify;
    use super::*;

    const UID: &str = "57e67067-89e4-4001-bdd4-8632d39ea02b";
    const NEXT: &str = "57e67067-89e4-4001-bdd4-000000000002";

    fn id(number: u64) -> String {
        format!("{number:064x}")
    }

    fn pod(uid: &str, name: &str, containers: &[(u64, &str)]) -> Pod {
        let workload = Workload {
            namespace: "shop".to_owned(),
            kind: "StatefulSet".to_owned(),
            name: "web".to_owned(),
        };
        let containers = containers
            .iter()
            .map(|&(number, name)| Container { id: id(number), name: name.to_owned() })
            .collect();
        let (uid, name, readable) = (uid.to_owned(), name.to_owned(), Vec::new());
        Pod { uid, name, workload, running: true, ended: false, readable, containers }
    }

    fn identity(uid: &str, container: u64) -> Arc<Identity> {
        Arc::new(identify(&format!("/kubepods/pod{uid}/{}", id(container))))
    }

    fn labels(names: &Names, identity: &Arc<Identity>) -> [String; 3] {
        let joined = names.join(identity);
        [&joined.namespace, &joined.pod, &joined.container].map(Clone::clone)
    }

    #[test]
    fn an_unknown_pod_keeps_the_names_of_its_cgroup() {
        let names = Names::default();
        for identity in [identity(UID, 1), Arc::new(identify("/system.slice/a.service"))] {
            assert_eq!(names.join(&identity), identity);
        }
    }

    #[test]
    fn names_come_late_and_stay_until_nobody_needs_them() {
        let mut names = Names::default();
        names.apply(pod(UID, "web-0", &[]));
        // The kubelet tells of containers some time after it has started them.
        let short = &id(7)[..12];
        assert_eq!(labels(&names, &identity(UID, 7)), ["shop", "web-0", short]);
        names.apply(pod(UID, "web-0", &[(7, "app")]));
        assert_eq!(labels(&names, &identity(UID, 7)), ["shop", "web-0", "app"]);
        names.delete(UID);
        names.forget(|uid| uid == UID);
        assert_eq!(labels(&names, &identity(UID, 7)), ["shop", "web-0", "app"]);
        names.forget(|_| false);
        assert_eq!(labels(&names, &identity(UID, 7)), ["", UID, short]);
        assert!(names.pods.is_empty() && names.owners.is_empty());
    }

    #[test]
    fn the_pods_own_cgroup_has_no_container() {
        let mut names = Names::default();
        names.apply(pod(UID, "web-0", &[(7, "app")]));
        let own = Arc::new(identify(&format!("/kubepods/pod{UID}")));
        assert_eq!(labels(&names, &own), ["shop", "web-0", ""]);
    }

    #[test]
    fn a_restarted_container_has_the_labels_of_the_one_before() {
        let mut names = Names::default();
        for restart in 0..100 {
            names.apply(pod(UID, "web-0", &[(restart, "app"), (1_000 + restart, "sidecar")]));
        }
        let now = names.join(&identity(UID, 99));
        assert_eq!(names.join(&identity(UID, 90)), now, "one identity, hence one series");
        assert_eq!(names.container(UID, &id(1_090)), Some("sidecar"));
        assert_eq!(names.pods[UID].pod.containers.len(), 2 + OLD_CONTAINERS);
    }

    #[test]
    fn a_pod_under_the_name_of_another_owns_it() {
        let mut names = Names::default();
        names.apply(pod(UID, "web-0", &[(1, "app")]));
        names.delete(UID);
        assert_eq!(labels(&names, &identity(UID, 1)), ["shop", "web-0", "app"]);
        names.apply(pod(NEXT, "web-0", &[(2, "app")]));
        assert_eq!(labels(&names, &identity(UID, 1)), ["shop", UID, "app"]);
        assert_eq!(labels(&names, &identity(NEXT, 2)), ["shop", "web-0", "app"]);
        names.forget(|_| false);
        assert!(!names.knows(UID));
        assert_eq!(labels(&names, &identity(NEXT, 2)), ["shop", "web-0", "app"]);
        assert_eq!(names.owners.len(), 1);
    }

    #[test]
    fn a_list_tells_who_is_gone() {
        let mut names = Names::default();
        names.begin_list();
        names.apply(pod(UID, "web-0", &[]));
        names.apply(pod(NEXT, "web-1", &[]));
        names.end_list();
        assert_eq!(names.health().pods, 2);
        names.begin_list();
        names.apply(pod(NEXT, "web-1", &[]));
        assert_eq!(names.health().pods, 2, "not yet complete");
        names.end_list();
        assert_eq!(names.health().pods, 1);
        names.forget(|_| false);
        assert!(!names.knows(UID) && names.knows(NEXT));
    }

    #[test]
    fn names_are_current_while_a_complete_list_is_watched() {
        let mut names = Names::default();
        assert!(!names.health().current);
        names.begin_list();
        names.note_answer();
        assert!(!names.health().current, "not yet complete");
        names.end_list();
        assert!(names.health().current);
        names.note_trouble(Trouble::Watch);
        assert!(!names.health().current);
        names.note_answer();
        assert!(names.health().current);
        names.note_trouble(Trouble::Expired);
        assert_eq!(names.health().troubles, [0, 1, 1]);
    }
}
