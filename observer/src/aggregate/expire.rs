//! Frees cells without losing a count, or one that is still used.
//!
//! A cell that is to end is first *retired*, so that the kernel starts no new connection in it, and *freed* when it has kept
//! quiet for a while. A retired cell never comes back: what is opened for its key meanwhile is in another one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A program that has read the index before the cell was retired has long ended after this time.
const QUIET: Duration = Duration::from_secs(2);

/// A cell that is to end, as a tick finds it.
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

/// The cells that are about to end.
#[derive(Debug, Default)]
pub struct Expiry {
    /// Of the retired: their events, and since when they are as many.
    retired: HashMap<u32, (u64, Instant)>,
}

impl Expiry {
    /// Looks at the cells that are to end; the caller carries the actions out.
    pub fn tick(&mut self, now: Instant, cells: &[Ending]) -> Vec<Action> {
        let before = std::mem::take(&mut self.retired);
        let mut actions = Vec::new();
        for &Ending { cell, retired, active, events } in cells {
            if !retired {
                if active == 0 {
                    actions.push(Action::Retire(cell));
                }
                continue;
            }
            let since = match before.get(&cell) {
                Some(&(events_before, since)) if active == 0 && events == events_before => since,
                _ => now,
            };
            if active == 0 && now.duration_since(since) >= QUIET {
                actions.push(Action::Free(cell));
            } else {
                self.retired.insert(cell, (events, since));
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Ending = Ending { cell: 20, retired: false, active: 0, events: 3 };
    const RETIRED: Ending = Ending { retired: true, ..DEAD };

    #[test]
    fn a_cell_is_retired_and_freed() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        assert_eq!(expiry.tick(start, &[DEAD]), [Action::Retire(20)]);
        let told = start + Duration::from_secs(1);
        assert!(expiry.tick(told, &[RETIRED]).is_empty());
        assert!(expiry.tick(told + QUIET / 2, &[RETIRED]).is_empty());
        assert_eq!(expiry.tick(told + QUIET, &[RETIRED]), [Action::Free(20)]);
        assert!(expiry.retired.is_empty());
    }

    #[test]
    fn open_connections_keep_a_cell() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        assert!(expiry.tick(start, &[Ending { active: 1, ..DEAD }]).is_empty());
        assert!(expiry.tick(start + 9 * QUIET, &[Ending { active: 1, ..RETIRED }]).is_empty());
    }

    #[test]
    fn a_retired_cell_is_freed_when_it_rests() {
        let (mut expiry, start) = (Expiry::default(), Instant::now());
        assert!(expiry.tick(start, &[RETIRED]).is_empty());
        let used = [Ending { active: 1, events: 4, ..RETIRED }];
        assert!(expiry.tick(start + QUIET, &used).is_empty(), "used");
        let over = [Ending { events: 5, ..RETIRED }];
        assert!(expiry.tick(start + 2 * QUIET, &over).is_empty(), "used just now");
        assert_eq!(expiry.tick(start + 3 * QUIET, &over), [Action::Free(20)]);
    }
}
