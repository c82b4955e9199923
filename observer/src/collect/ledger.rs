//! The life of cells: under which names each is shown, when it is freed, and where its counts are kept.
//!
//! A cell is shown under the names of its cgroup, but for three kinds, which stay what they have become until they are freed:
//! one that a scrape has shown when nobody knew its cgroup, one whose replica is shown no more, and one that was idle for so
//! long that its port is told no more.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::pass::Found;
use crate::{
    aggregate::{
        Action, Ages, Ending, Expiry, Replica, Replicas, Series, SeriesKey, Used, without_port,
    },
    attribute::{CgroupIndex, Identity, UNATTRIBUTED},
    model::{CellSnapshot, Counts},
};

/// What a cell has become.
#[derive(Debug)]
enum Fixed {
    /// It belongs to those that nobody can name.
    Nameless,
    /// The series of its replica are over, with these counts; what comes later is nobody's.
    Over(Counts),
    /// It counts in what has no port.
    Idle,
}

/// Counts and whose they are, without the API server's names.
pub(super) type Owned = (Arc<Identity>, CellSnapshot);

/// What a scrape shows.
#[derive(Default)]
pub(super) struct Shown {
    /// With their ports.
    pub(super) series: Vec<Owned>,
    /// Those whose ports are told no more.
    pub(super) folded: Vec<Owned>,
}

/// What is to be done after a tick.
pub(super) struct Due {
    pub(super) actions: Vec<Action>,
    /// The replicas that are over, with all that they have counted.
    pub(super) over: Vec<Vec<Series>>,
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What is over is shown for so long.
    pub show_ended: Duration,
    /// A cell of a cgroup with many is idle for so long before it is freed.
    pub cell_age: Duration,
}

/// What is known of the cells beside what the kernel knows.
pub(super) struct Ledger {
    times: Times,
    fixed: HashMap<u32, Fixed>,
    /// When each cell was not there yet.
    born: HashMap<u32, SystemTime>,
    /// When the cells were read last: one that is new has counted nothing until then.
    read: SystemTime,
    replicas: Replicas,
    ages: Ages,
    expiry: Expiry,
}

impl Ledger {
    /// `since` is when the kernel side was not there yet.
    pub(super) fn new(times: Times, since: SystemTime) -> Self {
        Self {
            times,
            fixed: HashMap::new(),
            born: HashMap::new(),
            read: since,
            replicas: Replicas::default(),
            ages: Ages::default(),
            expiry: Expiry::default(),
        }
    }

    /// Tells the cells that were read at `now` since when they count.
    pub(super) fn date(&mut self, now: SystemTime, cells: &mut [Found]) {
        for found in cells {
            let born = self.born.entry(found.index).or_insert(self.read);
            found.cell.counts.since = Some(*born);
        }
        self.read = now;
    }

    /// Takes over what an earlier daemon has retired: idle cells of cgroups that live; the others' series are over.
    pub(super) fn take_over(&mut self, cells: &[Found], cgroups: &CgroupIndex) {
        for found in cells.iter().filter(|found| found.is_retired()) {
            let fixed = if cgroups.is_alive(found.key.cgroup) {
                Fixed::Idle
            } else {
                Fixed::Over(found.cell.counts.clone())
            };
            self.fixed.insert(found.index, fixed);
        }
    }

    /// What a scrape shows of these cells, and of those that were freed.
    pub(super) fn show(&mut self, cells: Vec<Found>, cgroups: &CgroupIndex) -> Shown {
        let mut shown = Shown::default();
        for Found { index, key, cell, .. } in cells {
            match (self.fixed.get(&index), cgroups.resolve(key.cgroup)) {
                (None, Some(identity)) => shown.series.push((identity, cell)),
                (Some(Fixed::Idle), Some(identity)) => shown.folded.push((identity, cell)),
                (Some(Fixed::Over(before)), _) => shown.series.extend(since(before, cell)),
                (fixed, _) => {
                    if fixed.is_none() {
                        self.fixed.insert(index, Fixed::Nameless);
                    }
                    shown.series.push(nameless(cell));
                }
            }
        }
        let owned = |(key, counts): (&SeriesKey, &Counts)| {
            let SeriesKey { role, protocol, port, path, .. } = *key;
            let cell =
                CellSnapshot { cgroup: 0, port, role, protocol, path, counts: counts.clone() };
            (Arc::clone(&key.identity), cell)
        };
        shown.series.extend(self.replicas.kept().map(owned));
        shown.folded.extend(self.replicas.folded().map(owned));
        shown
    }

    /// Whether a scrape must know this cell's cgroup to show it.
    pub(super) fn wants_name(&self, found: &Found) -> bool {
        matches!(self.fixed.get(&found.index), None | Some(Fixed::Idle))
    }

    /// Regular work, after a walk of the cgroup tree. `filling` says that the table is more than half full.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        cells: &[Found],
        cgroups: &mut CgroupIndex,
        filling: bool,
    ) -> Due {
        let over = self.end_replicas(now, cells, cgroups);
        let ports = cells.iter().filter(|found| {
            found.key.port != 0 && !found.is_retired() && cgroups.is_alive(found.key.cgroup)
        });
        let used: Vec<Used> = ports
            .map(|Found { index, key, cell, .. }| Used {
                cell: *index,
                cgroup: key.cgroup,
                active: cell.counts.active(),
                events: cell.counts.events(),
            })
            .collect();
        let idle = self.ages.tick(now, self.times.cell_age, filling, &used);
        for &cell in &idle {
            self.fixed.entry(cell).or_insert(Fixed::Idle);
        }
        let idle: HashSet<u32> = idle.into_iter().collect();
        let ending: Vec<Ending> = cells
            .iter()
            .filter(|found| {
                let dead = !cgroups.is_alive(found.key.cgroup);
                found.is_retired() || dead || idle.contains(&found.index)
            })
            .map(|found| Ending {
                cell: found.index,
                retired: found.is_retired(),
                active: found.cell.counts.active(),
                events: found.cell.counts.events(),
            })
            .collect();
        Due { actions: self.expiry.tick(now, &ending), over }
    }

    fn end_replicas(
        &mut self,
        now: Instant,
        cells: &[Found],
        cgroups: &mut CgroupIndex,
    ) -> Vec<Vec<Series>> {
        let named = cells.iter().filter(|found| self.wants_name(found));
        let named: Vec<(&Found, Arc<Identity>)> =
            named.filter_map(|found| Some((found, cgroups.resolve(found.key.cgroup)?))).collect();
        let mut counted: HashMap<Replica, bool> = HashMap::new();
        for (found, identity) in &named {
            let is_open = counted.entry(Replica::of(identity)).or_default();
            *is_open |= found.cell.counts.active() != 0;
        }
        let here: HashSet<Replica> =
            cgroups.alive().map(|identity| Replica::of(identity)).collect();
        let alive = |replica: &Replica| {
            here.contains(replica) || counted.get(replica).copied().unwrap_or_default()
        };
        let all = counted.keys().cloned().collect();
        let over = self.replicas.tick(now, self.times.show_ended, all, alive);
        let end = |(replica, mut rows): (Replica, Vec<Series>)| {
            for (found, identity) in &named {
                if Replica::of(identity) == replica {
                    let counts = found.cell.counts.clone();
                    rows.push(Series {
                        key: without_port(identity, &found.cell),
                        counts: counts.clone(),
                    });
                    self.fixed.insert(found.index, Fixed::Over(counts));
                    // What is opened there from now on is nobody's.
                    cgroups.forget(found.key.cgroup);
                }
            }
            rows
        };
        over.into_iter().map(end).collect()
    }

    /// Keeps the counts of a cell that is about to be freed. `identity` is its cgroup's, with the container's name if that
    /// is known.
    pub(super) fn free(&mut self, found: &Found, identity: Option<Arc<Identity>>) {
        self.born.remove(&found.index);
        let cell = || found.cell.clone();
        let nobodys = match (self.fixed.remove(&found.index), identity) {
            (None, Some(identity)) => return self.replicas.keep(&identity, &found.cell),
            (Some(Fixed::Idle), Some(identity)) => {
                return self.replicas.fold(&identity, &found.cell);
            }
            (Some(Fixed::Over(before)), _) => since(&before, cell()),
            (None | Some(Fixed::Nameless | Fixed::Idle), _) => Some(nameless(cell())),
        };
        if let Some((identity, cell)) = nobodys {
            self.replicas.keep(&identity, &cell);
        }
    }

    /// The UIDs of the pods of which counts are kept.
    pub(super) fn kept_pods(&self) -> HashSet<&str> {
        let keys = self.replicas.kept().chain(self.replicas.folded()).map(|(key, _)| key);
        keys.filter_map(|key| key.identity.pod_uid.as_deref()).collect()
    }
}

/// A cell that nobody can name: its port tells nothing.
fn nameless(cell: CellSnapshot) -> Owned {
    (Arc::clone(&UNATTRIBUTED), CellSnapshot { port: 0, ..cell })
}

/// What a cell has counted since then, if anything.
fn since(before: &Counts, mut cell: CellSnapshot) -> Option<Owned> {
    let changed = cell.counts != *before;
    cell.counts.add(&before.clone().map(u64::wrapping_neg));
    changed.then(|| nameless(cell))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use observer_common::{
        label::{Path, Role},
        protocol::Protocol,
        wire::slot::{self, CellKey, RETIRED},
    };
    use tempfile::TempDir;

    use super::*;

    const TIMES: Times =
        Times { show_ended: Duration::from_mins(1), cell_age: Duration::from_mins(10) };

    /// A tree of cgroups, and a ledger of cells in them.
    struct Node {
        tree: TempDir,
        cgroups: CgroupIndex,
        ledger: Ledger,
        now: Instant,
    }

    impl Node {
        fn new() -> Self {
            let tree = TempDir::new().unwrap();
            let cgroups = CgroupIndex::new(tree.path().to_owned());
            Self {
                tree,
                cgroups,
                ledger: Ledger::new(TIMES, SystemTime::UNIX_EPOCH),
                now: Instant::now(),
            }
        }

        fn cgroup(&mut self, path: &str) -> u64 {
            use std::os::unix::fs::MetadataExt as _;
            let path = self.tree.path().join(path);
            fs::create_dir_all(&path).unwrap();
            self.cgroups.refresh().unwrap();
            fs::metadata(&path).unwrap().ino()
        }

        fn remove(&self, path: &str) {
            fs::remove_dir_all(self.tree.path().join(path)).unwrap();
        }

        /// Ticks once, so long after the last time; what is freed is.
        fn tick(&mut self, after: Duration, cells: &mut Vec<Found>) -> Vec<Vec<Series>> {
            self.now += after;
            self.cgroups.refresh().unwrap();
            let Due { actions, over } = self.ledger.tick(self.now, cells, &mut self.cgroups, false);
            for action in actions {
                let index = |cell: u32| move |found: &Found| found.index == cell;
                match action {
                    Action::Retire(cell) => {
                        let found = cells.iter_mut().find(|found| index(cell)(found)).unwrap();
                        found.key.state = RETIRED;
                    }
                    Action::Free(cell) => {
                        let at = cells.iter().position(index(cell)).unwrap();
                        let found = cells.remove(at);
                        let identity = self.cgroups.resolve(found.key.cgroup);
                        self.ledger.free(&found, identity);
                    }
                }
            }
            over
        }

        /// Opened by pod and port, as a scrape shows it; what is folded has port `None`.
        fn shown(&mut self, cells: &[Found]) -> Vec<(String, Option<u16>, u64)> {
            let shown = self.ledger.show(cells.to_vec(), &self.cgroups);
            let row = |(identity, cell): Owned, port| {
                (identity.pod.clone(), port, cell.counts.one(&slot::OPENED))
            };
            let series = shown.series.into_iter().map(|owned| {
                let port = owned.1.port;
                row(owned, Some(port))
            });
            let folded = shown.folded.into_iter().map(|owned| row(owned, None));
            let mut rows: HashMap<_, u64> = HashMap::new();
            for (pod, port, opened) in series.chain(folded) {
                *rows.entry((pod, port)).or_default() += opened;
            }
            let mut rows: Vec<_> =
                rows.into_iter().map(|((pod, port), opened)| (pod, port, opened)).collect();
            rows.sort();
            rows
        }
    }

    fn found(index: u32, cgroup: u64, port: u16, opened: u64) -> Found {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        let (role, protocol, path) = (Role::Server, Protocol::Tcp, Path::External);
        let key = CellKey { cgroup, port, ..CellKey::default() };
        let cell = CellSnapshot { cgroup, port, role, protocol, path, counts };
        Found { index, key, under: [0; 2], cell }
    }

    fn open(found: &mut Found, more: u64) {
        found.cell.counts.words_mut(&slot::OPENED)[0] += more;
    }

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn a_replica_keeps_its_labels_until_it_is_over() {
        let mut node = Node::new();
        let cgroup = node.cgroup("a.service");
        let mut cells = vec![found(50, cgroup, 80, 5)];
        let row = |opened| vec![("a.service".to_owned(), Some(80), opened)];
        assert_eq!(node.shown(&cells), row(5));
        node.remove("a.service");
        // Retired, and freed; the counts stay.
        for _ in 0..5 {
            node.tick(second(), &mut cells);
            assert_eq!(node.shown(&cells), row(5));
        }
        assert!(cells.is_empty());
        // A restart goes on.
        let again = node.cgroup("a.service");
        cells.push(found(51, again, 80, 2));
        node.tick(second(), &mut cells);
        assert_eq!(node.shown(&cells), row(7));
        node.remove("a.service");
        node.tick(second(), &mut cells);
        assert!(node.tick(TIMES.show_ended / 2, &mut cells).is_empty());
        assert_eq!(node.shown(&cells), row(7));
        let over = node.tick(TIMES.show_ended, &mut cells);
        assert_eq!((over.len(), node.shown(&cells)), (1, vec![]));
        assert_eq!(over[0].iter().map(|row| row.counts.one(&slot::OPENED)).sum::<u64>(), 7);
    }

    #[test]
    fn what_a_listener_accepts_after_its_pod_is_nobodys_from_zero_on() {
        let mut node = Node::new();
        let cgroup = node.cgroup("a.service");
        let mut cells = vec![found(50, cgroup, 80, 5)];
        cells[0].cell.counts.words_mut(&slot::ACTIVE)[0] = 1;
        node.remove("a.service");
        node.tick(second(), &mut cells);
        assert!(
            cells[0].key.state != RETIRED && node.tick(TIMES.show_ended, &mut cells).is_empty()
        );
        cells[0].cell.counts.words_mut(&slot::ACTIVE)[0] = 0;
        // At rest since now.
        node.tick(second(), &mut cells);
        node.now += TIMES.show_ended;
        let mut latecomer = found(50, cgroup, 80, 5);
        let over = node.ledger.tick(node.now, &[latecomer.clone()], &mut node.cgroups, false).over;
        assert_eq!(over.len(), 1);
        assert_eq!(node.shown(&[latecomer.clone()]), vec![]);
        let nobodys = |opened| vec![("unattributed".to_owned(), Some(0), opened)];
        open(&mut latecomer, 2);
        assert_eq!(node.shown(&[latecomer.clone()]), nobodys(2), "not what the pod has shown");
        let mut cells = vec![latecomer, found(51, cgroup, 80, 3)];
        assert_eq!(node.shown(&cells), nobodys(5));
        for _ in 0..6 {
            node.tick(second(), &mut cells);
            assert_eq!(node.shown(&cells), nobodys(5));
        }
        assert!(cells.is_empty());
    }

    #[test]
    fn who_was_nobody_stays_nobody() {
        let mut node = Node::new();
        let cgroup = node.cgroup("a.service");
        node.cgroups.forget(cgroup);
        let mut cells = vec![found(50, cgroup, 80, 5)];
        let nobodys = vec![("unattributed".to_owned(), Some(0), 5)];
        assert_eq!(node.shown(&cells), nobodys);
        node.tick(second(), &mut cells);
        assert!(node.cgroups.is_alive(cgroup));
        assert_eq!(node.shown(&cells), nobodys, "it was shown so");
        cells.push(found(51, cgroup, 81, 1));
        node.tick(second(), &mut cells);
        let both = [vec![("a.service".to_owned(), Some(81), 1)], nobodys].concat();
        assert_eq!(node.shown(&cells), both);
    }

    #[test]
    fn an_idle_cell_loses_its_port_and_no_count() {
        let mut node = Node::new();
        let (scanner, other) = (node.cgroup("scan.service"), node.cgroup("other.service"));
        let mut cells: Vec<_> =
            (0..40).map(|n| found(50 + n, scanner, 100 + n as u16, 1)).collect();
        cells.push(found(200, other, 80, 9));
        node.tick(second(), &mut cells);
        open(&mut cells[0], 1);
        node.tick(TIMES.cell_age, &mut cells);
        // Retired: no series of their own any more, and no count lost.
        let expected = vec![
            ("other.service".to_owned(), Some(80), 9),
            ("scan.service".to_owned(), None, 39),
            ("scan.service".to_owned(), Some(100), 2),
        ];
        assert_eq!(node.shown(&cells), expected);
        for _ in 0..4 {
            node.tick(second(), &mut cells);
            assert_eq!(node.shown(&cells), expected);
        }
        assert_eq!(cells.len(), 2);
        // The port begins anew.
        cells.push(found(50, scanner, 101, 1));
        node.tick(second(), &mut cells);
        assert_eq!(node.shown(&cells)[3], ("scan.service".to_owned(), Some(101), 1));
    }

    #[test]
    fn a_cell_begins_when_it_was_not_there_yet() {
        let mut node = Node::new();
        let cgroup = node.cgroup("a.service");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut cells = vec![found(50, cgroup, 80, 5)];
        node.ledger.date(at(10), &mut cells);
        cells.push(found(51, cgroup, 81, 5));
        node.ledger.date(at(11), &mut cells);
        node.ledger.date(at(12), &mut cells);
        let since = |cell: usize| cells[cell].cell.counts.since;
        assert_eq!((since(0), since(1)), (Some(at(0)), Some(at(10))));
        // Of both together the first; what is kept of a freed one still has it.
        node.ledger.free(&cells[0], node.cgroups.resolve(cgroup));
        let shown = node.ledger.show(cells[1..].to_vec(), &node.cgroups);
        let begins: Vec<_> = shown.series.iter().map(|(_, cell)| cell.counts.since).collect();
        assert_eq!(begins, [Some(at(10)), Some(at(0))]);
    }

    #[test]
    fn what_an_earlier_daemon_has_retired_is_not_shown_again() {
        let mut node = Node::new();
        let cgroup = node.cgroup("a.service");
        let mut cells = vec![found(50, cgroup, 80, 5), found(51, u64::MAX, 80, 7)];
        for found in &mut cells {
            found.key.state = RETIRED;
        }
        node.ledger.take_over(&cells, &node.cgroups);
        assert_eq!(node.shown(&cells), vec![("a.service".to_owned(), None, 5)]);
        open(&mut cells[1], 1);
        for _ in 0..4 {
            node.tick(second(), &mut cells);
        }
        let rest = ("unattributed".to_owned(), Some(0), 1);
        assert_eq!(node.shown(&cells), vec![("a.service".to_owned(), None, 5), rest]);
    }
}
