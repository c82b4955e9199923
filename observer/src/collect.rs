//! One pass from the kernel's counters to named series; the only place that knows both ends.

mod ledger;
mod open;
mod pass;
mod pods;
mod trust;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aya::maps::MapError;
use observer_common::{
    protocol::Protocol,
    wire::{loss::Loss, slot},
};
use tracing::{info, warn};

use crate::{
    aggregate::{
        Action, Cut, Ends, IdleCuts, Reconciliations, Series, Tally, Unseen, Watch, fold, sentence,
    },
    attribute::{CgroupIndex, Identity, Names, OVERFLOW, UNATTRIBUTED},
    bpf::{ProbeState, Probes, programs::Probe},
    decode,
    records::{Event, Record},
};

pub use ledger::Times;
use ledger::{Ledger, Shown};
pub use open::OpenCell;
use pass::{Found, Pass};
use pods::PodBooks;
pub use pods::{ExistingPod, Kubernetes, NamedPod};
use trust::Judge;
pub use trust::{Beginning, Terms, Trust};

/// So many ticks apart the kernel is told of the cgroups that have no cells.
const BUDGETS_EVERY: u64 = 60;

/// Everything a scrape shows.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The series of all replicas.
    pub series: Vec<Series>,
    /// What replicas have counted beside these, whose ports are told no more.
    pub folded: Vec<Series>,
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
    /// Reconciliations that came to their end, and the time that they took; none if this kernel allows none.
    pub reconciliations: Option<(u64, Duration)>,
    /// The pods of which something is not known.
    pub trust: Vec<Trust>,
    /// Timers that cut silent connections of replicas that have series.
    pub cuts: Vec<(Ends, Cut)>,
    /// What the API server's names add; nothing when nobody names pods.
    pub kubernetes: Option<Kubernetes>,
}

/// Reads, names and folds; frees what is over.
pub struct Collector {
    probes: Probes,
    cgroups: CgroupIndex,
    ledger: Ledger,
    reconciliations: Reconciliations,
    /// Reconciliations that came to their end, and the time that they took.
    reconciliations_taken: (u64, Duration),
    reconciliation_failed: bool,
    idle: IdleCuts,
    watch: Watch,
    books: PodBooks,
    judge: Judge,
    /// Whether the log has said that the table is nearly full.
    tight: bool,
    ticks: u64,
}

impl Collector {
    /// A collector over attached probes; `cgroups` are those of the whole tree, `names` are those of pods.
    #[must_use]
    pub fn new(
        probes: Probes,
        cgroups: CgroupIndex,
        names: Option<Arc<Mutex<Names>>>,
        times: Times,
        terms: Terms,
    ) -> Self {
        Self {
            ledger: Ledger::new(times, probes.since()),
            probes,
            cgroups,
            reconciliations: Reconciliations::default(),
            reconciliations_taken: (0, Duration::ZERO),
            reconciliation_failed: false,
            idle: IdleCuts::default(),
            watch: Watch::default(),
            books: PodBooks::new(names, SystemTime::now()),
            judge: Judge::new(Instant::now(), terms),
            tight: false,
            ticks: 0,
        }
    }

    /// Takes over the cells of an earlier observer. What they have counted up to now is left out of the workloads' totals: it
    /// was part of that observer's own.
    ///
    /// # Errors
    /// If the cells cannot be read, for lack of memory.
    pub fn take_over(&mut self) -> io::Result<()> {
        self.refresh();
        let pass = self.read()?;
        self.ledger.take_over(&pass.cells, &self.cgroups);
        let Shown { series, folded } = self.ledger.show(pass.cells, &self.cgroups);
        self.books.begin_totals(&[series, folded].concat());
        Ok(())
    }

    fn read(&mut self) -> io::Result<Pass> {
        let mut pass = pass::read(self.probes.slots())?;
        self.ledger.date(SystemTime::now(), &mut pass.cells);
        for cell in &mut pass.overflow {
            cell.counts.since = Some(self.probes.since());
        }
        Ok(pass)
    }

    /// Learns the names of these cgroups, if a walk that was not tried may tell them.
    pub fn look_for(&mut self, cgroups: impl IntoIterator<Item = u64>) {
        if self.cgroups.asks_for_refresh(cgroups) {
            self.refresh();
        }
    }

    /// Learns the names of new cgroups.
    pub fn refresh(&mut self) {
        if let Err(error) = self.cgroups.refresh() {
            warn!(%error, "cannot walk the cgroup tree; names stay as they were");
        }
        if let Err(error) = self.probes.replicas().tell(self.cgroups.numbers()) {
            warn!(%error, "cannot tell the kernel programs of all cgroups");
        }
    }

    /// What a scrape shows now.
    ///
    /// # Errors
    /// If the cells cannot be read, for lack of memory.
    pub fn snapshot(&mut self) -> io::Result<Snapshot> {
        let mut pass = self.read()?;
        let nameless = pass.cells.iter().filter(|found| self.ledger.wants_name(found));
        let nameless: Vec<u64> = nameless.map(|found| found.key.cgroup).collect();
        self.look_for(nameless);
        let cells = std::mem::take(&mut pass.cells);
        let shown = self.ledger.show(cells, &self.cgroups);
        // One state of the names for the whole scrape: no two pods may come to share one.
        let names = self.books.names();
        let names = names.as_deref().map(pods::lock);
        let names = names.as_deref();
        let trust = self.judge.judge(Instant::now(), &shown, &self.cgroups, names);
        let kubernetes = names.map(|names| self.books.kubernetes(names, &shown, &self.cgroups));
        let about_itself = self.about(&pass, kubernetes);
        let mut joined = HashMap::new();
        let mut join = |identity: Arc<Identity>| {
            let name = joined.entry(Arc::as_ptr(&identity)).or_insert_with(|| {
                // Kept with its name, so that no other identity comes to its address.
                (pods::join(names, Arc::clone(&identity)), identity)
            });
            Arc::clone(&name.0)
        };
        let mut with_names = |(identity, cell)| (join(identity), cell);
        let overflow = pass.overflow.into_iter().map(|cell| (Arc::clone(&OVERFLOW), cell));
        let series =
            shown.series.into_iter().map(&mut with_names).chain(overflow).collect::<Vec<_>>();
        let folded = fold(shown.folded.into_iter().map(with_names));
        let series = fold(series);
        let cuts = self.cuts_of(&series);
        Ok(Snapshot { series, folded, trust, cuts, ..about_itself })
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
            folded: Vec::new(),
            trust: Vec::new(),
            cuts: Vec::new(),
            losses: Loss::ALL.into_iter().zip(self.probes.losses()).collect(),
            probes: self.probes.states().to_vec(),
            misses: self.probes.misses(),
            cells: self.probes.slots().room(),
            undecodable: pass.undecodable,
            cgroups_skipped: self.cgroups.skipped(),
            reconciliations: self.probes.reconciliation().map(|_| self.reconciliations_taken),
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
        self.watch(&pass);
        self.tell_cuts(now);
        self.mind_the_room();
        let (used, capacity) = self.probes.slots().room();
        let filling = used * 2 > capacity;
        let due = self.ledger.tick(now, &pass.cells, &mut self.cgroups, filling);
        let identities: Vec<Arc<Identity>> =
            pass.cells.iter().filter_map(|found| self.cgroups.resolve(found.key.cgroup)).collect();
        let uids = identities.iter().filter_map(|identity| identity.pod_uid.as_deref());
        let counted = uids.chain(self.ledger.kept_pods()).collect();
        self.books.tick(&due.over, &counted, &self.cgroups);
        let found: HashMap<u32, &Found> =
            pass.cells.iter().map(|found| (found.index, found)).collect();
        for &action in &due.actions {
            if let Err(error) = self.apply(action, &found) {
                warn!(%error, ?action, "cannot free a cell; it stays in use");
            }
        }
        if let Err(error) = self.settle_budgets(&pass, &due.actions) {
            warn!(%error, "cannot tell the kernel how many cells a cgroup has");
        }
        let counted: HashSet<u64> = pass.cells.iter().map(|found| found.key.cgroup).collect();
        self.cgroups.forget_dead(|id| counted.contains(&id));
        self.ticks += 1;
    }

    /// A connection has ended: it may be one that a timer has cut.
    pub fn note(&mut self, record: &Record, identity: &Identity) {
        let Event::Ended { reason, .. } = record.event else { return };
        // One that is older than the programs and has not spoken since may have been silent for longer.
        let is_known = !record.adopted || record.idle < record.lifetime;
        if let Some(side) = Ends::cut_by(reason).filter(|_| is_known) {
            let whose = Ends::new(identity, record.role, record.protocol, side);
            self.idle.note(Instant::now(), whose, record.idle, record.peer.ip());
        }
    }

    /// Whether records are needed to find timers.
    #[must_use]
    pub const fn watches(&self) -> bool {
        self.watch.is_on()
    }

    fn watch(&mut self, pass: &Pass) {
        let lasting = |found: &&Found| {
            [Protocol::WebSocket, Protocol::Grpc, Protocol::Upgrade].contains(&found.cell.protocol)
        };
        let is_used = pass.cells.iter().filter(lasting).any(|found| found.cell.counts.active() > 0);
        let ends = pass.cells.iter().map(|found| found.cell.counts.sum(&slot::CLOSED)).sum();
        let lost = self.probes.losses()[Loss::RingFull as usize];
        if self.watch.tick(is_used, ends, lost) {
            self.idle.lose();
        }
    }

    /// The timers that are found.
    #[must_use]
    pub fn cuts(&self) -> Vec<(Ends, Cut)> {
        let mut cuts = self.idle.cuts();
        cuts.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
        cuts
    }

    /// Those of replicas that are shown.
    fn cuts_of(&self, series: &[Series]) -> Vec<(Ends, Cut)> {
        let mut cuts = self.cuts();
        if !cuts.is_empty() {
            let shown: HashSet<(&str, &str)> = series
                .iter()
                .map(|row| (row.key.identity.namespace.as_str(), row.key.identity.pod.as_str()))
                .collect();
            cuts.retain(|(whose, _)| shown.contains(&(&whose.namespace, &whose.pod)));
        }
        cuts
    }

    /// Says in the log which timers are new.
    fn tell_cuts(&mut self, now: Instant) {
        for (whose, cut) in self.idle.news(now) {
            let Ends { namespace, pod, .. } = &whose;
            info!(namespace, pod, role = whose.role.label(), "{}", sentence(&whose, cut));
        }
    }

    /// Tells the kernel how many cells the cgroups have of which some were freed; and now and then of those that have none.
    fn settle_budgets(&mut self, pass: &Pass, actions: &[Action]) -> anyhow::Result<()> {
        let freed: HashSet<u32> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Free(cell) => Some(*cell),
                Action::Retire(_) => None,
            })
            .collect();
        let cgroups = pass.cells.iter().filter(|found| freed.contains(&found.index));
        let mut budgets: HashMap<u64, u64> = cgroups.map(|found| (found.key.cgroup, 0)).collect();
        if self.ticks.is_multiple_of(BUDGETS_EVERY) {
            let counted: HashSet<u64> = pass.cells.iter().map(|found| found.key.cgroup).collect();
            let all = self.probes.slots().budgets();
            budgets.extend(all.filter(|id| !counted.contains(id)).map(|id| (id, 0)));
        }
        if budgets.is_empty() {
            return Ok(());
        }
        // Read anew: the kernel may have made cells since the pass.
        self.probes.slots().visit(|_, words| {
            let key = decode::key(|place| words.word(place));
            if let Some(cells) = budgets.get_mut(&key.cgroup) {
                *cells += u64::from(key.port != 0);
            }
        })?;
        Ok(self.probes.slots().set_budgets(budgets)?)
    }

    /// Holds the books against the states of the sockets: connections that have ended without any hook telling end here.
    pub fn reconcile(&mut self) {
        let taken = self.try_reconcile();
        // Said once, and again when one was taken in between.
        if let (Err(error), false) = (&taken, self.reconciliation_failed) {
            warn!(%error, "cannot reconcile the books with the sockets; ends that no hook tells stay unseen");
        }
        self.reconciliation_failed = taken.is_err();
    }

    fn try_reconcile(&mut self) -> io::Result<()> {
        let began = Instant::now();
        let before = self.tallies()?;
        let Some(reconciliation) = self.probes.reconciliation() else { return Ok(()) };
        let found = reconciliation.walk()?;
        let after = self.tallies()?;
        let found = |cell: u32| found.get(cell as usize).copied().unwrap_or(0);
        for Unseen { cell, count } in self.reconciliations.compare(&before, found, &after) {
            self.probes.end_unseen(cell, count)?;
            warn!(
                count,
                cell, "connections have ended without any hook telling: closed as `unknown`"
            );
        }
        self.reconciliations_taken.0 += 1;
        self.reconciliations_taken.1 += began.elapsed();
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

    /// When the table is nearly full, the programs do not tell ports apart: what is left belongs to cgroups that have
    /// no cell yet.
    fn mind_the_room(&mut self) {
        let (used, capacity) = self.probes.slots().room();
        let tight = slot::is_nearly_full(used, capacity);
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
                let identity = self.cgroups.resolve(found.key.cgroup);
                let identity = identity.map(|identity| self.books.with_container(identity));
                self.ledger.free(found, identity);
                self.probes.slots().free(cell, found.under)
            }
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

/// Locks a collector. Each pass reads the counters anew: a panic in an earlier one leaves nothing half-done that matters.
pub fn lock(collector: &Mutex<Collector>) -> MutexGuard<'_, Collector> {
    collector.lock().unwrap_or_else(PoisonError::into_inner)
}
