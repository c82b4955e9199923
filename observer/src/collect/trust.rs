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

#[cfg(test)]
mod tests {
    use std::fs;

    use observer_common::counters::Counter;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        attribute::{Pod, Workload, identify},
        model::Counts,
    };

    const UID: &str = "57e67067-89e4-4001-bdd4-8632d39ea02b";

    fn cell(
        role: Role,
        path: Path,
        protocol: Protocol,
        port: u16,
        words: &[(&Counter, u64)],
    ) -> CellSnapshot {
        let mut counts = Counts::default();
        for (counter, count) in words {
            counts.words_mut(counter)[0] = *count;
        }
        CellSnapshot { cgroup: 1, port, role, protocol, path, counts }
    }

    fn seen(cells: &[CellSnapshot]) -> Evidence {
        let mut seen = Evidence::default();
        for cell in cells {
            see(&mut seen, cell);
        }
        seen
    }

    #[test]
    fn cells_tell_what_could_be_read_and_what_is_not_recognised() {
        use Path::{External, Internal};
        use Protocol::{Http1, Tcp, Tls, WebSocket};
        use Role::{Client, Server};
        let came = |count| [(&slot::ENTERED, count), (&slot::ACTIVE, 1)];
        let opaque = cell(Server, External, Tls, 443, &came(2));
        let expected = Evidence { unreadable: 1, were_unreadable: 2, ..Evidence::default() };
        assert_eq!(seen(&[opaque]), expected);
        let readable = [
            cell(Server, External, Http1, 80, &came(3)),
            cell(Server, Internal, WebSocket, 80, &came(1)),
        ];
        assert_eq!(seen(&readable), Evidence { were_readable: 4, ..Evidence::default() });
        let found = [(&slot::ADOPTED, 5), (&slot::SETTLED, 2)];
        let older = cell(Server, External, Tcp, 80, &found);
        assert_eq!(seen(&[older]), Evidence { unrecognised: 3, ..Evidence::default() });
        let nothing = [
            cell(Client, External, Tls, 443, &came(2)),
            cell(Client, External, Tcp, 80, &found),
            cell(Server, Internal, Tls, 443, &came(2)),
            cell(Server, External, Tcp, 80, &[(&slot::OPENED, 9)]),
        ];
        assert_eq!(seen(&nothing), Evidence::default());
    }

    #[test]
    fn a_pod_is_judged_by_its_cgroups_and_told_by_its_name() {
        let tree = TempDir::new().unwrap();
        let path = format!("kubepods/pod{UID}/{}", "a".repeat(64));
        fs::create_dir_all(tree.path().join(&path)).unwrap();
        let mut cgroups = CgroupIndex::new(tree.path().to_owned());
        cgroups.refresh().unwrap();
        let newest = cgroups.of_pods().map(|(id, _)| id).max().unwrap();
        let oldest = cgroups.of_pods().map(|(id, _)| id).min().unwrap();
        let now = Instant::now();
        let judge = |newest_cgroup, visited: &[u64], left_out: &[u16], cells: &[CellSnapshot]| {
            let visited = visited.iter().copied().collect();
            let beginning = Beginning { newest_cgroup, visited, ..Beginning::default() };
            let settling = Duration::from_mins(1);
            let left_out = left_out.iter().copied().collect();
            let mut judge = Judge::new(now, Terms { beginning, settling, left_out });
            let identity = std::sync::Arc::new(identify(&path));
            let series = cells.iter().map(|cell| (identity.clone(), cell.clone())).collect();
            let shown = Shown { series, folded: Vec::new() };
            let mut names = Names::default();
            names.apply(Pod {
                uid: UID.to_owned(),
                name: "web-0".to_owned(),
                workload: Workload {
                    namespace: "shop".to_owned(),
                    kind: "StatefulSet".to_owned(),
                    name: "web".to_owned(),
                },
                running: true,
                ended: false,
                readable: vec![9443],
                containers: Vec::new(),
            });
            let trust = judge.judge(now, &shown, &cgroups, Some(&names));
            trust.first().map(|pod| {
                assert_eq!((pod.namespace.as_str(), pod.pod.as_str()), ("shop", "web-0"));
                (pod.withheld, pod.unread)
            })
        };
        assert_eq!(judge(newest, &[], &[], &[]), Some((Some(Withheld::Settling), None)));
        assert_eq!(
            judge(oldest, &[], &[], &[]),
            Some((Some(Withheld::Settling), None)),
            "the pod's own is older"
        );
        assert_eq!(judge(oldest - 1, &[], &[], &[]), None);
        assert_eq!(judge(newest, &[newest], &[], &[]), None, "its sockets were seen");
        let opaque = |port| {
            let came = [(&slot::ENTERED, 1), (&slot::ACTIVE, 1)];
            [cell(Role::Server, Path::External, Protocol::Tls, port, &came)]
        };
        let blind = Some((Some(Withheld::Blind), Some(1)));
        assert_eq!(judge(0, &[], &[], &opaque(443)), blind);
        assert_eq!(judge(0, &[], &[443], &opaque(443)), None, "left out for all");
        assert_eq!(judge(0, &[], &[443], &opaque(9443)), None, "left out by the pod");
    }
}
