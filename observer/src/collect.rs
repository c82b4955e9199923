//! One pass from the kernel's counters to named series; the only place that knows both ends.

mod pods;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use observer_common::{cell::OVERFLOW_CELLS, loss::Loss};
use tracing::{info, warn};

use crate::{
    aggregate::{Action, Expiry, Seen, Series, SeriesKey, fold},
    attribute::{CgroupIndex, Identity, Names, OVERFLOW, UNATTRIBUTED},
    bpf::{ProbeState, Probes, cells::CELL_WORDS, programs::Probe},
    decode,
    model::{CellSnapshot, Counts},
};

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
    /// Cells in use, and cells in all.
    pub cells: (u64, u64),
    /// Cells whose contents this version cannot read.
    pub undecodable: u64,
    /// Cgroup directories that the last walk did not read.
    pub cgroups_skipped: u64,
    /// What the API server's names add; nothing when nobody names pods.
    pub kubernetes: Option<Kubernetes>,
}

/// Reads, names and folds; recycles what is over.
pub struct Collector {
    probes: Probes,
    cgroups: CgroupIndex,
    expiry: Expiry,
    /// Counts of recycled cells whose cgroup was never known: their bucket must not shrink.
    nameless: HashMap<SeriesKey, Counts>,
    books: PodBooks,
    /// Whether the programs were told that the table is nearly full.
    tight: bool,
}

/// The used cells of one pass.
struct Pass {
    cells: Vec<(u32, CellSnapshot)>,
    overflow: Vec<CellSnapshot>,
    undecodable: u64,
}

impl Collector {
    /// A collector over attached probes; `cgroup_root` is the root of the whole tree, `names` are those of pods.
    #[must_use]
    pub fn new(probes: Probes, cgroup_root: &Path, names: Option<Arc<Mutex<Names>>>) -> Self {
        Self {
            probes,
            cgroups: CgroupIndex::new(cgroup_root.to_owned()),
            expiry: Expiry::default(),
            nameless: HashMap::new(),
            books: PodBooks::new(names),
            tight: false,
        }
    }

    fn read(&mut self) -> Pass {
        let table = self.probes.cells();
        let mut pass = Pass { cells: Vec::new(), overflow: Vec::new(), undecodable: 0 };
        let mut words = [0; CELL_WORDS];
        for index in 0..table.capacity() {
            if index < OVERFLOW_CELLS {
                table.read_any(index, &mut words);
                pass.overflow.extend(
                    decode::overflow(index, &words).filter(|cell| cell.counts != Counts::default()),
                );
            } else if table.read(index, &mut words) {
                match decode::cell(&words) {
                    Ok(cell) => pass.cells.push((index, cell)),
                    Err(_) => pass.undecodable += 1,
                }
            }
        }
        pass
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
    pub fn snapshot(&mut self) -> Snapshot {
        let pass = self.read();
        if pass.cells.iter().any(|(_, cell)| self.cgroups.resolve(cell.cgroup).is_none()) {
            self.refresh();
        }
        let used = pass.cells.len() as u64;
        let kubernetes = self.books.kubernetes(&pass.cells, &self.cgroups);
        let mut named = Vec::with_capacity(pass.cells.len());
        for (index, cell) in pass.cells {
            let due = self.expiry.show(index);
            let identity = self.unnamed(cell.cgroup);
            if self.books.shows(&identity, due) {
                named.push((self.books.join(identity), cell));
            }
        }
        named.extend(self.books.kept());
        named.extend(pass.overflow.into_iter().map(|cell| (Arc::clone(&OVERFLOW), cell)));
        named.extend(
            self.nameless
                .iter()
                .map(|(key, counts)| (Arc::clone(&key.identity), nameless_cell(key, counts))),
        );
        Snapshot {
            series: fold(named),
            losses: Loss::ALL.into_iter().zip(self.probes.losses()).collect(),
            probes: self.probes.states().to_vec(),
            misses: self.probes.misses(),
            cells: (used, u64::from(self.probes.cells().capacity() - OVERFLOW_CELLS)),
            undecodable: pass.undecodable,
            cgroups_skipped: self.cgroups.skipped(),
            kubernetes,
        }
    }

    /// Regular work, about once a second: learns new cgroups while they live, recycles the cells of those that are gone.
    pub fn tick(&mut self, now: Instant) {
        self.refresh();
        let pass = self.read();
        let seen = pass.cells.iter().map(|(cell, snapshot)| Seen {
            cell: *cell,
            snapshot,
            alive: self.cgroups.is_alive(snapshot.cgroup),
        });
        let actions = self.expiry.tick(now, seen);
        self.mind_the_room(pass.cells.len());
        self.books.tick(now, &pass.cells, &self.cgroups);
        for action in actions {
            if let Err(error) = self.apply(action, &pass.cells) {
                warn!(%error, ?action, "cannot recycle a cell; it stays in use");
            }
        }
        let in_use: std::collections::HashSet<u64> =
            pass.cells.iter().map(|(_, cell)| cell.cgroup).collect();
        self.cgroups.forget_dead(|id| in_use.contains(&id));
    }

    /// From three quarters of the table on, ports are no longer told apart: what is left belongs to cgroups that have no
    /// cell yet.
    fn mind_the_room(&mut self, used: usize) {
        let usable = (self.probes.cells().capacity() - OVERFLOW_CELLS) as usize;
        let tight = used * 4 >= usable * 3;
        if tight == self.tight {
            return;
        }
        match self.probes.set_tight(tight) {
            Ok(()) if tight => {
                warn!(
                    used,
                    "the table of cells is nearly full: new cells do not tell ports apart; see --cells"
                );
            }
            Ok(()) => info!(used, "the table of cells has room again"),
            Err(error) => warn!(%error, "cannot tell the programs how full the table is"),
        }
        self.tight = tight;
    }

    fn apply(
        &mut self,
        action: Action,
        cells: &[(u32, CellSnapshot)],
    ) -> Result<(), aya::maps::MapError> {
        match action {
            Action::Unlink(_, key) => self.probes.cells().unlink(key),
            Action::Relink(cell, key) => self.probes.cells().relink(cell, key),
            Action::Recycle(index) => {
                if let Some((_, cell)) = cells.iter().find(|(i, _)| *i == index) {
                    if let Some(identity) = self.cgroups.resolve(cell.cgroup) {
                        self.books.recycle(&identity, cell);
                    } else {
                        let identity = Arc::clone(&UNATTRIBUTED);
                        let (role, protocol) = (cell.role, cell.protocol);
                        let key = SeriesKey { identity, role, protocol, port: 0 };
                        self.nameless.entry(key).or_default().add(&cell.counts);
                    }
                }
                self.probes.cells().recycle(index)
            }
        }
    }

    /// The names of a cgroup, as far as they are known.
    #[must_use]
    pub fn identity(&self, cgroup: u64) -> Arc<Identity> {
        self.books.join(self.unnamed(cgroup))
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

fn nameless_cell(key: &SeriesKey, counts: &Counts) -> CellSnapshot {
    CellSnapshot {
        cgroup: 0,
        port: key.port,
        role: key.role,
        protocol: key.protocol,
        counts: counts.clone(),
    }
}
