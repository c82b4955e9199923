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

/// Without a scraper, a dead cell's last counts are kept this long.
pub(super) const UNSCRAPED: Duration = Duration::from_mins(5);
/// A program that has read the index before the cell was unlinked has long ended after this time.
const QUIET: Duration = Duration::from_secs(2);

/// The cell of a cgroup that is gone, as a tick finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Index in the table.
    pub cell: u32,
    /// What it counts for.
    pub key: CellKey,
    /// Connections in it now.
    pub active: i64,
    /// A number that changes with every event that it counts.
    pub events: u64,
}

/// What to do with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove its key from the kernel's index.
    Unlink(u32, CellKey),
    /// It was used after all: give it back its key.
    Relink(u32, CellKey),
    /// Clear it and put it on the free list.
    Recycle(u32, CellKey),
}

#[derive(Debug)]
enum Stage {
    /// Waiting for a scrape that shows these events.
    Dead { since: Instant, shown: bool, events: u64 },
    /// Out of the index.
    Unlinked { since: Instant, key: CellKey, events: u64 },
}

/// The dying cells.
#[derive(Debug, Default)]
pub struct Expiry {
    stages: HashMap<u32, Stage>,
}

impl Expiry {
    /// Looks at the cells of all cgroups that are gone; the caller carries the actions out.
    pub fn tick(&mut self, now: Instant, cells: &[Dead]) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut stages = HashMap::new();
        for &Dead { cell, key, active, events } in cells {
            let stage = self.stages.remove(&cell);
            if active != 0 {
                if let Some(Stage::Unlinked { .. }) = stage {
                    actions.push(Action::Relink(cell, key));
                }
                continue;
            }
            let stage = match stage {
                None => Stage::Dead { since: now, shown: false, events },
                // Used once more: what a scrape has shown meanwhile may not be all.
                Some(Stage::Dead { events: before, .. }) if events != before => {
                    Stage::Dead { since: now, shown: false, events }
                }
                Some(Stage::Dead { since, shown, .. })
                    if shown || now.duration_since(since) >= UNSCRAPED =>
                {
                    actions.push(Action::Unlink(cell, key));
                    Stage::Unlinked { since: now, key, events }
                }
                Some(Stage::Unlinked { events: before, .. }) if events != before => {
                    actions.push(Action::Relink(cell, key));
                    Stage::Dead { since: now, shown: false, events }
                }
                Some(Stage::Unlinked { since, .. }) if now.duration_since(since) >= QUIET => {
                    actions.push(Action::Recycle(cell, key));
                    continue;
                }
                Some(stage) => stage,
            };
            stages.insert(cell, stage);
        }
        // What is left is not dead after all: a walk had missed its cgroup.
        for (cell, stage) in std::mem::replace(&mut self.stages, stages) {
            if let Stage::Unlinked { key, .. } = stage {
                actions.push(Action::Relink(cell, key));
            }
        }
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

    const KEY: CellKey = CellKey { cgroup: 9, port: 80, role: 0, protocol: 0, zero: 0 };

    fn dead(active: i64, events: u64) -> [Dead; 1] {
        [Dead { cell: 20, key: KEY, active, events }]
    }

    #[test]
    fn a_dead_cell_is_shown_unlinked_and_recycled() {
        let (mut expiry, start, done) = (Expiry::default(), Instant::now(), dead(0, 3));
        assert!(expiry.tick(start, &[]).is_empty(), "alive");
        assert!(expiry.tick(start, &done).is_empty());
        assert!(expiry.tick(start + Duration::from_secs(10), &done).is_empty(), "not shown yet");
        assert!(expiry.show(20));
        let unlinked = start + Duration::from_secs(11);
        assert_eq!(expiry.tick(unlinked, &done), [Action::Unlink(20, KEY)]);
        assert!(!expiry.show(20), "the series is over");
        assert!(expiry.tick(unlinked, &done).is_empty());
        assert_eq!(expiry.tick(unlinked + QUIET, &done), [Action::Recycle(20, KEY)]);
    }

    #[test]
    fn a_dead_cell_that_is_used_once_more_is_shown_once_more() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        expiry.tick(start, &dead(0, 3));
        assert!(expiry.show(20));
        let used = dead(0, 5);
        assert!(expiry.tick(start, &used).is_empty());
        assert!(expiry.tick(start, &used).is_empty(), "the last counts are not shown yet");
        assert!(expiry.show(20));
        assert_eq!(expiry.tick(start, &used), [Action::Unlink(20, KEY)]);
    }

    #[test]
    fn without_a_scraper_a_dead_cell_waits() {
        let (mut expiry, start, done) = (Expiry::default(), Instant::now(), dead(0, 3));
        expiry.tick(start, &done);
        assert_eq!(expiry.tick(start + UNSCRAPED, &done), [Action::Unlink(20, KEY)]);
    }

    #[test]
    fn open_connections_keep_a_cell() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let open = dead(1, 3);
        expiry.tick(start, &open);
        assert!(expiry.show(20));
        assert!(expiry.tick(start + UNSCRAPED, &open).is_empty());
    }

    #[test]
    fn a_cell_that_is_used_while_it_is_unlinked_comes_back() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let (done, used) = (dead(0, 3), dead(0, 4));
        expiry.tick(start, &done);
        expiry.show(20);
        expiry.tick(start, &done);
        assert_eq!(expiry.tick(start, &used), [Action::Relink(20, KEY)]);
        assert!(expiry.show(20));
        expiry.tick(start, &used);
        assert_eq!(expiry.tick(start, &dead(1, 5)), [Action::Relink(20, KEY)]);
    }

    #[test]
    fn a_cgroup_that_was_missed_by_a_walk_gets_its_cell_back() {
        let (mut expiry, start, done) = (Expiry::default(), Instant::now(), dead(0, 3));
        expiry.tick(start, &done);
        expiry.show(20);
        assert_eq!(expiry.tick(start, &done), [Action::Unlink(20, KEY)]);
        assert_eq!(expiry.tick(start, &[]), [Action::Relink(20, KEY)]);
        assert!(expiry.tick(start, &[]).is_empty());
        assert!(expiry.show(20));
    }
}
