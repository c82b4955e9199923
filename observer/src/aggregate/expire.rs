//! Lets go of the cells of cgroups that are gone, without losing a count or freeing a cell that is still used.
//!
//! A cell whose cgroup is gone and whose last connection has ended is first *shown* once more, so that its last counts
//! reach a scrape; then *unlinked*, so that the kernel starts no new connection in it; and, if it has kept quiet for a
//! while after that, *recycled*.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use observer_common::cell::CellKey;

use crate::model::{CellSnapshot, Counts};

/// Without a scraper, a dead cell's last counts are kept this long.
pub(super) const UNSCRAPED: Duration = Duration::from_mins(5);
/// A program that has read the index before the cell was unlinked has long ended after this time.
const QUIET: Duration = Duration::from_secs(2);

/// A cell as a tick finds it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Index in the table.
    pub cell: u32,
    /// Its counts.
    pub snapshot: &'a CellSnapshot,
    /// Whether its cgroup still exists.
    pub alive: bool,
}

/// What to do with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove its key from the kernel's index.
    Unlink(u32, CellKey),
    /// It was used after all: give it back its key.
    Relink(u32, CellKey),
    /// Clear it and put it on the free list.
    Recycle(u32),
}

#[derive(Debug)]
enum Stage {
    /// Waiting for a scrape.
    Dead { since: Instant, shown: bool },
    /// Out of the index.
    Unlinked { since: Instant, counts: Box<Counts> },
}

/// The dying cells.
#[derive(Debug, Default)]
pub struct Expiry {
    stages: HashMap<u32, Stage>,
}

impl Expiry {
    /// Looks at all used cells; the caller carries the actions out.
    pub fn tick<'a>(
        &mut self,
        now: Instant,
        cells: impl IntoIterator<Item = Seen<'a>>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut stages = HashMap::new();
        for seen in cells {
            if seen.alive || seen.snapshot.counts.active != 0 {
                if let Some(Stage::Unlinked { .. }) = self.stages.remove(&seen.cell) {
                    actions.push(Action::Relink(seen.cell, seen.snapshot.key()));
                }
                continue;
            }
            let stage = match self.stages.remove(&seen.cell) {
                None => Stage::Dead { since: now, shown: false },
                Some(Stage::Dead { since, shown })
                    if shown || now.duration_since(since) >= UNSCRAPED =>
                {
                    actions.push(Action::Unlink(seen.cell, seen.snapshot.key()));
                    Stage::Unlinked { since: now, counts: Box::new(seen.snapshot.counts.clone()) }
                }
                Some(Stage::Unlinked { counts, .. }) if *counts != seen.snapshot.counts => {
                    actions.push(Action::Relink(seen.cell, seen.snapshot.key()));
                    Stage::Dead { since: now, shown: false }
                }
                Some(Stage::Unlinked { since, .. }) if now.duration_since(since) >= QUIET => {
                    actions.push(Action::Recycle(seen.cell));
                    continue;
                }
                Some(stage) => stage,
            };
            stages.insert(seen.cell, stage);
        }
        self.stages = stages;
        actions
    }

    /// Whether a scrape shows this cell, and remembers that it did.
    pub fn show(&mut self, cell: u32) -> bool {
        match self.stages.get_mut(&cell) {
            Some(Stage::Unlinked { .. }) => false,
            Some(Stage::Dead { shown, .. }) => {
                *shown = true;
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_common::protocol::{Protocol, Role};

    fn snapshot(active: i64, opened: u64) -> CellSnapshot {
        CellSnapshot {
            cgroup: 9,
            port: 80,
            role: Role::Server,
            protocol: Protocol::Tcp,
            counts: Counts { opened, active, ..Counts::default() },
        }
    }

    fn tick(
        expiry: &mut Expiry,
        now: Instant,
        snapshot: &CellSnapshot,
        alive: bool,
    ) -> Vec<Action> {
        expiry.tick(now, [Seen { cell: 20, snapshot, alive }])
    }

    #[test]
    fn a_dead_cell_is_shown_unlinked_and_recycled() {
        let (mut expiry, start, done) = (Expiry::default(), Instant::now(), snapshot(0, 3));
        assert!(tick(&mut expiry, start, &done, true).is_empty());
        assert!(tick(&mut expiry, start, &done, false).is_empty());
        assert!(
            tick(&mut expiry, start + Duration::from_secs(10), &done, false).is_empty(),
            "not shown yet"
        );
        assert!(expiry.show(20));
        let unlinked = start + Duration::from_secs(11);
        assert_eq!(tick(&mut expiry, unlinked, &done, false), [Action::Unlink(20, done.key())]);
        assert!(!expiry.show(20), "the series is over");
        assert!(tick(&mut expiry, unlinked, &done, false).is_empty());
        assert_eq!(tick(&mut expiry, unlinked + QUIET, &done, false), [Action::Recycle(20)]);
    }

    #[test]
    fn without_a_scraper_a_dead_cell_waits() {
        let (mut expiry, start, done) = (Expiry::default(), Instant::now(), snapshot(0, 3));
        tick(&mut expiry, start, &done, false);
        assert_eq!(
            tick(&mut expiry, start + UNSCRAPED, &done, false),
            [Action::Unlink(20, done.key())]
        );
    }

    #[test]
    fn open_connections_keep_a_cell() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let open = snapshot(1, 3);
        tick(&mut expiry, start, &open, false);
        assert!(expiry.show(20));
        assert!(tick(&mut expiry, start + UNSCRAPED, &open, false).is_empty());
    }

    #[test]
    fn a_cell_that_is_used_while_it_is_unlinked_comes_back() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let (done, used) = (snapshot(0, 3), snapshot(0, 4));
        tick(&mut expiry, start, &done, false);
        expiry.show(20);
        tick(&mut expiry, start, &done, false);
        assert_eq!(tick(&mut expiry, start, &used, false), [Action::Relink(20, used.key())]);
        assert!(expiry.show(20));
        tick(&mut expiry, start, &used, false);
        assert_eq!(
            tick(&mut expiry, start, &snapshot(1, 5), false),
            [Action::Relink(20, used.key())]
        );
    }
}
