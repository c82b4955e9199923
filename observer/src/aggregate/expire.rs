//! Frees the cells of cgroups that are gone, without losing a count or freeing a cell that is still used.
//!
//! A cell whose cgroup is gone and whose last connection has ended is first *shown* once more, so that its last counts
//! reach a scrape; then *retired*, so that the kernel starts no new connection in it; and *freed* when it has kept quiet
//! for a while after that. A retired cell never comes back: what is opened for its key meanwhile is in another one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Without a scraper, a dead cell's last counts are kept this long.
pub(super) const UNSCRAPED: Duration = Duration::from_mins(5);
/// A program that has read the index before the cell was retired has long ended after this time.
const QUIET: Duration = Duration::from_secs(2);

/// A cell that is to end, as a tick finds it: its cgroup is gone, or it is retired already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Index in the table.
    pub cell: u32,
    /// Whether it is retired, be it by an earlier daemon.
    pub retired: bool,
    /// Connections in it now.
    pub active: i64,
    /// A number that changes with every event that it counts.
    pub events: u64,
}

/// What to do with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let no connection begin in it any more.
    Retire(u32),
    /// Clear it and put it on the free list.
    Free(u32),
}

#[derive(Debug)]
enum Stage {
    /// Waiting for a scrape that shows these events.
    Dead { since: Instant, shown: bool, events: u64 },
    /// Waiting for rest.
    Retired { since: Instant, events: u64 },
}

/// The cells that are about to end.
#[derive(Debug, Default)]
pub struct Expiry {
    stages: HashMap<u32, Stage>,
}

impl Expiry {
    /// Looks at the cells that are to end; the caller carries the actions out.
    pub fn tick(&mut self, now: Instant, cells: &[Ending]) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut stages = HashMap::new();
        for &Ending { cell, retired, active, events } in cells {
            let stage = match self.stages.remove(&cell) {
                Some(Stage::Retired { since, events: before })
                    if active == 0 && events == before =>
                {
                    if now.duration_since(since) >= QUIET {
                        actions.push(Action::Free(cell));
                        continue;
                    }
                    Stage::Retired { since, events }
                }
                Some(Stage::Retired { .. }) => Stage::Retired { since: now, events },
                _ if retired => Stage::Retired { since: now, events },
                _ if active != 0 => continue,
                // Used once more: what a scrape has shown meanwhile may not be all.
                Some(Stage::Dead { since, shown, events: before }) if events == before => {
                    if shown || now.duration_since(since) >= UNSCRAPED {
                        actions.push(Action::Retire(cell));
                        Stage::Retired { since: now, events }
                    } else {
                        Stage::Dead { since, shown, events }
                    }
                }
                _ => Stage::Dead { since: now, shown: false, events },
            };
            stages.insert(cell, stage);
        }
        self.stages = stages;
        actions
    }

    /// Whether a scrape shows this cell, and remembers that it did.
    pub fn show(&mut self, cell: u32) -> bool {
        match self.stages.get_mut(&cell) {
            Some(Stage::Retired { .. }) => false,
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

    const DEAD: Ending = Ending { cell: 20, retired: false, active: 0, events: 3 };
    const RETIRED: Ending = Ending { retired: true, ..DEAD };

    #[test]
    fn a_dead_cell_is_shown_retired_and_freed() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        assert!(expiry.tick(start, &[]).is_empty(), "alive");
        assert!(expiry.tick(start, &[DEAD]).is_empty());
        assert!(expiry.tick(start + Duration::from_secs(10), &[DEAD]).is_empty(), "not shown yet");
        assert!(expiry.show(20));
        let retired = start + Duration::from_secs(11);
        assert_eq!(expiry.tick(retired, &[DEAD]), [Action::Retire(20)]);
        assert!(!expiry.show(20), "the series is over");
        assert!(expiry.tick(retired, &[RETIRED]).is_empty());
        assert_eq!(expiry.tick(retired + QUIET, &[RETIRED]), [Action::Free(20)]);
    }

    #[test]
    fn a_dead_cell_that_is_used_once_more_is_shown_once_more() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        expiry.tick(start, &[DEAD]);
        assert!(expiry.show(20));
        let used = [Ending { events: 5, ..DEAD }];
        assert!(expiry.tick(start, &used).is_empty());
        assert!(expiry.tick(start, &used).is_empty(), "the last counts are not shown yet");
        assert!(expiry.show(20));
        assert_eq!(expiry.tick(start, &used), [Action::Retire(20)]);
    }

    #[test]
    fn without_a_scraper_a_dead_cell_waits() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        expiry.tick(start, &[DEAD]);
        assert_eq!(expiry.tick(start + UNSCRAPED, &[DEAD]), [Action::Retire(20)]);
    }

    #[test]
    fn open_connections_keep_a_cell() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        let open = [Ending { active: 1, ..DEAD }];
        expiry.tick(start, &open);
        assert!(expiry.show(20));
        assert!(expiry.tick(start + UNSCRAPED, &open).is_empty());
    }

    #[test]
    fn a_retired_cell_is_freed_when_it_rests() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        // By an earlier daemon, whose last move may not be long ago.
        assert!(expiry.tick(start, &[RETIRED]).is_empty());
        let used = [Ending { active: 1, events: 4, ..RETIRED }];
        assert!(expiry.tick(start + QUIET, &used).is_empty(), "used");
        let over = [Ending { events: 5, ..RETIRED }];
        assert!(expiry.tick(start + 2 * QUIET, &over).is_empty(), "used just now");
        assert_eq!(expiry.tick(start + 3 * QUIET, &over), [Action::Free(20)]);
    }
}
