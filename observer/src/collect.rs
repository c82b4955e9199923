//! One pass from the kernel's counters to named series; the only place that knows both ends.

mod pass;
mod pods;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::maps::MapError;
use observer_common::{
    label::{Reason, Side},
    wire::{
        loss::Loss,
        slot::{self, IDLE_USED},
    },
};
use tracing::{info, warn};

use crate::{
    aggregate::{
        Action, Censuses, Clusters, Ending, Ends, Expiry, Series, SeriesKey, Tally, Unseen, fold,
        sentence,
    },
    attribute::{CgroupIndex, Identity, Names, OVERFLOW, UNATTRIBUTED},
    bpf::{ProbeState, Probes, programs::Probe},
    decode,
    model::{CellSnapshot, Counts},
};

use pass::{Found, Pass};
use pods::PodBooks;
pub use pods::{Kubernetes, NamedPod};

/// Everything a scrape shows.
#[derive(Debug)]
pub struct Snapshot {
    /// The series of all replicas.
    pub series: Vec<Series>,
    /// What was lost, by kind.
    pub losses: Vec<(Loss, u64)>,
    /// How each probe ended up.
    pub probes: Vec<(&'static Probe, ProbeState)>,
    /// How often the kernel skipped each program.
    pub misses: Vec<(&'static Probe, u64)>,
    /// Slots in use, and slots in all.
    pub cells: (u64, u64),
    /// Cells whose contents this version cannot read.
    pub undecodable: u64,
    /// Cgroup directories that the last walk did not read.
    pub cgroups_skipped: u64,
    /// Censuses that came to their end, and the time that they took; none if this kernel allows none.
    pub censuses: Option<(u64, Duration)>,
    /// What the API server's names add; nothing when nobody names pods.
    pub kubernetes: Option<Kubernetes>,
}

/// Reads, names and folds; recycles what is over.
pub struct Collector {
    probes: Probes,
    cgroups: CgroupIndex,
    expiry: Expiry,
    censuses: Censuses,
    /// Censuses that came to their end, and the time that they took.
    censuses_taken: (u64, Duration),
    census_failed: bool,
    clusters: Clusters,
    /// Counts of recycled cells whose cgroup was never known: their bucket must not shrink.
    nameless: HashMap<SeriesKey, Counts>,
    books: PodBooks,
    /// Whether the log has said that the table is nearly full.
    tight: bool,
}

impl Collector {
    /// A collector over attached probes; `cgroup_root` is the root of the whole tree, `names` are those of pods.
    #[must_use]
    pub fn new(probes: Probes, cgroup_root: &Path, names: Option<Arc<Mutex<Names>>>) -> Self {
        Self {
            probes,
            cgroups: CgroupIndex::new(cgroup_root.to_owned()),
            expiry: Expiry::default(),
            censuses: Censuses::default(),
            censuses_taken: (0, Duration::ZERO),
            census_failed: false,
            clusters: Clusters::default(),
            nameless: HashMap::new(),
            books: PodBooks::new(names),
            tight: false,
        }
    }

    /// Leaves what was counted up to now out of the workloads' totals: an earlier observer's were part of its own.
    ///
    /// # Errors
    /// If the cells cannot be read, for lack of memory.
    pub fn begin_totals(&mut self) -> io::Result<()> {
        self.refresh();
        let pass = self.read()?;
        self.books.begin_totals(&pass.cells, &self.cgroups);
        Ok(())
    }

    fn read(&mut self) -> io::Result<Pass> {
        pass::read(self.probes.slots())
    }

    /// Whether a walk has met the cgroup.
    #[must_use]
    pub fn knows(&self, cgroup: u64) -> bool {
        self.cgroups.resolve(cgroup).is_some()
    }

    /// Learns the names of new cgroups.
    pub fn refresh(&mut self) {
        if let Err(error) = self.cgroups.refresh() {
            warn!(%error, "cannot walk the cgroup tree; names stay as they were");
        }
    }

    /// What a scrape shows now.
    ///
    /// # Errors
    /// If the cells cannot be read, for lack of memory.
    pub fn snapshot(&mut self) -> io::Result<Snapshot> {
        let pass = self.read()?;
        if pass.cells.iter().any(|found| self.cgroups.resolve(found.key.cgroup).is_none()) {
            self.refresh();
        }
        // One state of the names for the whole scrape: no two pods may come to share one.
        let names = self.books.names();
        let names = names.as_deref().map(pods::lock);
        let names = names.as_deref();
        let kubernetes =
            names.map(|names| self.books.kubernetes(names, &pass.cells, &self.cgroups));
        let about_itself = self.about(&pass, kubernetes);
        let mut shown = Vec::with_capacity(pass.cells.len());
        let mut joined: HashMap<u64, Arc<Identity>> = HashMap::new();
        for Found { index, cell, .. } in pass.cells {
            let due = self.expiry.show(index);
            let identity = self.unnamed(cell.cgroup);
            if self.books.shows(&identity, due) {
                let name = joined.entry(cell.cgroup).or_insert_with(|| pods::join(names, identity));
                shown.push((Arc::clone(name), cell));
            }
        }
        shown.extend(self.books.kept(names));
        shown.extend(pass.overflow.into_iter().map(|cell| (Arc::clone(&OVERFLOW), cell)));
        shown.extend(
            self.nameless
                .iter()
                .map(|(key, counts)| (Arc::clone(&key.identity), nameless_cell(key, counts))),
        );
        Ok(Snapshot { series: fold(shown), ..about_itself })
    }

    /// What a scrape shows now of the observer itself, without any series.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn about_itself(&mut self) -> io::Result<Snapshot> {
        let pass = self.read()?;
        let kubernetes = self.books.about(&self.cgroups);
        Ok(self.about(&pass, kubernetes))
    }

    fn about(&mut self, pass: &Pass, kubernetes: Option<Kubernetes>) -> Snapshot {
        Snapshot {
            series: Vec::new(),
            losses: Loss::ALL.into_iter().zip(self.probes.losses()).collect(),
            probes: self.probes.states().to_vec(),
            misses: self.probes.misses(),
            cells: self.probes.slots().room(),
            undecodable: pass.undecodable,
            cgroups_skipped: self.cgroups.skipped(),
            censuses: self.probes.census().map(|_| self.censuses_taken),
            kubernetes,
        }
    }

    /// Regular work, about once a second: learns new cgroups while they live, recycles the cells of those that are gone.
    pub fn tick(&mut self, now: Instant) {
        self.refresh();
        let pass = match self.read() {
            Ok(pass) => pass,
            Err(error) => {
                warn!(%error, "cannot read the cells; those of dead cgroups stay as they are");
                return;
            }
        };
        self.tell_clusters(now, &pass);
        self.mind_the_room();
        let (mut open, mut ending) = (HashMap::new(), Vec::new());
        for found in &pass.cells {
            let Found { index, key, cell, .. } = found;
            let active = cell.counts.active();
            *open.entry(key.cgroup).or_insert(false) |= active != 0;
            if found.is_retired() || !self.cgroups.is_alive(key.cgroup) {
                let (retired, events) = (found.is_retired(), cell.counts.events());
                ending.push(Ending { cell: *index, retired, active, events });
            }
        }
        self.books.tick(now, &open, &self.cgroups);
        let actions = self.expiry.tick(now, &ending);
        let found: HashMap<u32, &Found> =
            pass.cells.iter().map(|found| (found.index, found)).collect();
        for &action in &actions {
            if let Err(error) = self.apply(action, &found) {
                warn!(%error, ?action, "cannot free a cell; it stays in use");
            }
        }
        if let Err(error) = self.settle_budgets(&pass, &actions) {
            warn!(%error, "cannot tell the kernel how many cells a cgroup has");
        }
        self.cgroups.forget_dead(|id| open.contains_key(&id));
    }

    /// Looks for ends that cluster, and says so in the log.
    fn tell_clusters(&mut self, now: Instant, pass: &Pass) {
        let names = self.books.names();
        let guard = names.as_deref().map(pods::lock);
        let mut idle = HashMap::new();
        for found in &pass.cells {
            if found.cell.counts.one(&slot::IDLE_CLOSES) != 0
                && let Some(identity) = self.cgroups.resolve(found.key.cgroup)
            {
                add_idle(&mut idle, &pods::join(guard.as_deref(), identity), &found.cell);
            }
        }
        drop(guard);
        for (whose, cluster) in self.clusters.news(now, idle) {
            let Ends { namespace, pod, .. } = &whose;
            info!(namespace, pod, role = whose.role.label(), "{}", sentence(&whose, cluster));
        }
    }

    /// Tells the kernel how many cells the cgroups have of which some were freed.
    fn settle_budgets(&mut self, pass: &Pass, actions: &[Action]) -> anyhow::Result<()> {
        let freed: HashSet<u32> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Free(cell) => Some(*cell),
                Action::Retire(_) => None,
            })
            .collect();
        if freed.is_empty() {
            return Ok(());
        }
        let cgroups = pass.cells.iter().filter(|found| freed.contains(&found.index));
        let mut budgets: HashMap<u64, u64> = cgroups.map(|found| (found.key.cgroup, 0)).collect();
        // Read anew: the kernel may have made cells since the pass.
        self.probes.slots().visit(|_, words| {
            let key = decode::key(|place| words.word(place));
            if let Some(cells) = budgets.get_mut(&key.cgroup) {
                *cells += u64::from(key.port != 0);
            }
        })?;
        Ok(self.probes.slots().set_budgets(budgets)?)
    }

    /// Takes a census of the sockets' states: connections that have ended without any hook telling end here.
    pub fn census(&mut self) {
        let taken = self.try_census();
        // Said once, and again when one was taken in between.
        if let (Err(error), false) = (&taken, self.census_failed) {
            warn!(%error, "cannot take a census of the sockets; ends that no hook tells stay unseen");
        }
        self.census_failed = taken.is_err();
    }

    fn try_census(&mut self) -> io::Result<()> {
        let began = Instant::now();
        let before = self.tallies()?;
        let Some(census) = self.probes.census() else { return Ok(()) };
        let found = census.walk()?;
        let after = self.tallies()?;
        let found = |cell: u32| found.get(cell as usize).copied().unwrap_or(0);
        for Unseen { cell, count } in self.censuses.compare(&before, found, &after) {
            self.probes.end_unseen(cell, count)?;
            warn!(
                count,
                cell, "connections have ended without any hook telling: closed as `unknown`"
            );
        }
        self.censuses_taken.0 += 1;
        self.censuses_taken.1 += began.elapsed();
        Ok(())
    }

    /// The books of all cells in use.
    fn tallies(&mut self) -> io::Result<HashMap<u32, Tally>> {
        let mut tallies = HashMap::new();
        for found in self.read()?.cells {
            let counts = &found.cell.counts;
            let tally = Tally { turnover: counts.turnover(), active: counts.active() };
            tallies.insert(found.index, tally);
        }
        Ok(tallies)
    }

    /// From three quarters of the table on, the programs do not tell ports apart: what is left belongs to cgroups that have
    /// no cell yet.
    fn mind_the_room(&mut self) {
        let (used, capacity) = self.probes.slots().room();
        let tight = used * 4 >= capacity * 3;
        if tight && !self.tight {
            warn!(
                used,
                "the table of cells is nearly full: new cells do not tell ports apart; see --cells"
            );
        } else if !tight && self.tight {
            info!(used, "the table of cells has room again");
        }
        self.tight = tight;
    }

    fn apply(&mut self, action: Action, cells: &HashMap<u32, &Found>) -> Result<(), MapError> {
        match action {
            Action::Retire(cell) => self.probes.slots().retire(cell, cells[&cell].key),
            Action::Free(cell) => {
                let found = cells[&cell];
                match self.cgroups.resolve(found.key.cgroup) {
                    Some(identity) if identity.pod_uid.is_none() => {}
                    identity => self.keep(&found.cell, identity.as_deref()),
                }
                self.probes.slots().free(cell, found.under)
            }
        }
    }

    /// Keeps the counts of a cell that is about to be freed: for its pod, or for those that nobody can name.
    fn keep(&mut self, cell: &CellSnapshot, pod: Option<&Identity>) {
        if let Some(pod) = pod {
            self.books.recycle(pod, cell);
        } else {
            let identity = Arc::clone(&UNATTRIBUTED);
            let key = SeriesKey { identity, role: cell.role, protocol: cell.protocol, port: 0 };
            self.nameless.entry(key).or_default().add(&cell.counts);
        }
    }

    /// The names of a cgroup, as far as they are known.
    #[must_use]
    pub fn identity(&self, cgroup: u64) -> Arc<Identity> {
        let names = self.books.names();
        pods::join(names.as_deref().map(pods::lock).as_deref(), self.unnamed(cgroup))
    }

    /// The names that the cgroup's path gives.
    fn unnamed(&self, cgroup: u64) -> Arc<Identity> {
        self.cgroups.resolve(cgroup).unwrap_or_else(|| Arc::clone(&UNATTRIBUTED))
    }

    /// The probes, for what only they can do.
    pub fn probes(&mut self) -> &mut Probes {
        &mut self.probes
    }
}

/// Adds the times that a cell's connections had idled when silence may have ended them.
fn add_idle(idle: &mut HashMap<Ends, [u64; IDLE_USED]>, identity: &Identity, cell: &CellSnapshot) {
    for &side in Side::ALL {
        let Some(histogram) = cell.counts.histogram(&slot::IDLE, side as usize) else { continue };
        // What this node closes in order is its own decision, and no news.
        let closed = |reason: Reason| cell.counts.count(&slot::CLOSED, reason as usize);
        let orderly = closed(Reason::Local) + closed(Reason::Aborted);
        if side == Side::Local && closed(Reason::ResetLocal) < orderly {
            continue;
        }
        let ends = Ends::new(identity, cell.role, cell.protocol, side);
        let sums = idle.entry(ends).or_insert([0; IDLE_USED]);
        for (sum, count) in sums.iter_mut().zip(histogram.buckets) {
            *sum += count;
        }
    }
}

/// Locks a collector. Each pass reads the counters anew: a panic in an earlier one leaves nothing half-done that matters.
pub fn lock(collector: &Mutex<Collector>) -> MutexGuard<'_, Collector> {
    collector.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nameless_cell(key: &SeriesKey, counts: &Counts) -> CellSnapshot {
    CellSnapshot {
        cgroup: 0,
        port: key.port,
        role: key.role,
        protocol: key.protocol,
        counts: counts.clone(),
    }
}
