//! What is seen of each pod that tells whether its users can be known.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use observer_common::{
    label::{Path, Role},
    protocol::Protocol,
    wire::slot,
};

use super::ledger::Shown;
use crate::{
    aggregate::{Evidence, Withheld, Withholding},
    attribute::{CgroupIndex, Names},
    model::CellSnapshot,
};

/// A pod of which something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The labels of its series.
    pub namespace: String,
    /// Likewise.
    pub pod: String,
    /// Why its users are not told, if they are not.
    pub withheld: Option<Withheld>,
    /// Server connections of which it is not known what they carry, if there ever was one.
    pub unread: Option<u64>,
}

/// How the kernel side began.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// How old it is.
    pub age: Duration,
    /// The cgroup that was the newest then.
    pub newest_cgroup: u64,
    /// Whether all that was open then was looked for.
    pub visited_all: bool,
    /// Otherwise: cgroups whose sockets were seen.
    pub visited: HashSet<u64>,
}

/// What is to be known of pods, and when.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How the kernel side began.
    pub beginning: Beginning,
    /// After this time what is open has spoken.
    pub settling: Duration,
    /// Ports of all pods that do not count.
    pub left_out: BTreeSet<u16>,
}

/// Judges the pods.
pub(super) struct Judge {
    withholding: Withholding,
    terms: Terms,
}

impl Judge {
    pub(super) fn new(now: Instant, terms: Terms) -> Self {
        let withholding = Withholding::new(now, terms.beginning.age, terms.settling);
        Self { withholding, terms }
    }

    /// The pods of which something is not known, in the order of their names.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        shown: &Shown,
        cgroups: &CgroupIndex,
        names: Option<&Names>,
    ) -> Vec<Trust> {
        let mut pods = self.standing(cgroups);
        for (identity, cell) in shown.series.iter().chain(&shown.folded) {
            if let Some(uid) = identity.pod_uid.as_deref() {
                let seen = pods.entry(uid).or_default();
                let is_left_out = self.terms.left_out.contains(&cell.port)
                    || names.is_some_and(|names| names.readable(uid).contains(&cell.port));
                if !is_left_out {
                    see(seen, cell);
                }
            }
        }
        self.withholding.forget(|uid| pods.contains_key(uid));
        let mut unknown: Vec<Trust> = pods
            .into_iter()
            .filter_map(|(uid, seen)| {
                let withheld = self.withholding.judge(now, uid, &seen);
                let unread = seen.unread();
                if withheld.is_none() && unread.is_none() {
                    return None;
                }
                let (namespace, pod) = match names.and_then(|names| names.pod(uid)) {
                    Some((pod, shown)) => (pod.workload.namespace.clone(), shown.to_owned()),
                    None => (String::new(), uid.to_owned()),
                };
                Some(Trust { namespace, pod, withheld, unread })
            })
            .collect();
        unknown.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        unknown
    }

    /// The pods that are here, and how old they are.
    fn standing<'a>(&self, cgroups: &'a CgroupIndex) -> HashMap<&'a str, Evidence> {
        let Beginning { newest_cgroup, visited_all, visited, .. } = &self.terms.beginning;
        let mut pods: HashMap<&str, Evidence> = HashMap::new();
        for (id, uid) in cgroups.of_pods() {
            let seen = pods.entry(uid).or_default();
            // The kernel gives cgroups numbers that grow.
            seen.older |= id <= *newest_cgroup;
            seen.visited |= *visited_all || visited.contains(&id);
        }
        pods
    }
}

/// Takes note of what a cell tells.
fn see(seen: &mut Evidence, cell: &CellSnapshot) {
    if cell.role == Role::Client {
        return;
    }
    let counts = &cell.counts;
    let came = counts.one(&slot::ENTERED);
    match cell.protocol {
        // They are found here; what they are recognised as is elsewhere.
        Protocol::Tcp => {
            let found = counts.one(&slot::ADOPTED);
            seen.unrecognised += found.saturating_sub(counts.one(&slot::SETTLED));
        }
        // Users come from outside. What is opaque inside may be readable there, or the other way round.
        Protocol::Tls if cell.path == Path::External => {
            seen.were_unreadable += came;
            seen.unreadable += counts.active().max(0).cast_unsigned();
        }
        Protocol::Tls => {}
        _ => seen.were_readable += came,
    }
}
