//! Finds connections that have ended without any hook telling, by a reconciliation: the state of a socket goes with the socket,
//! so a cell in which more connections are active than sockets have their state there counts some that are over.
//!
//! The comparison holds only for a cell that is at rest: no connection came, moved or went from before the reconciliation to
//! after it. A program that has taken a connection out of a cell and not counted that yet looks the same for a moment, so
//! what is missing must be missing in two reconciliations, with the cell at rest from the first to the second.

use std::collections::HashMap;

/// The books of a cell at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// A number that changes whenever a connection comes, moves or goes.
    pub turnover: u64,
    /// Connections in it.
    pub active: i64,
}

/// Connections that are active in a cell, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Index of the cell.
    pub cell: u32,
    /// How many.
    pub count: u64,
}

/// What the last reconciliation has left open.
#[derive(Debug, Default)]
pub struct Reconciliations {
    /// By cell: its turnover, and how many states were missing.
    suspects: HashMap<u32, (u64, u64)>,
}

impl Reconciliations {
    /// Compares the books `before` and `after` a reconciliation with the number of states that it `found` in each cell.
    pub fn compare(
        &mut self,
        before: &HashMap<u32, Tally>,
        found: impl Fn(u32) -> u64,
        after: &HashMap<u32, Tally>,
    ) -> Vec<Unseen> {
        let mut unseen = Vec::new();
        let mut suspects = HashMap::new();
        for (&cell, tally) in after {
            if before.get(&cell) != Some(tally) {
                continue;
            }
            let missing = u64::try_from(tally.active).unwrap_or(0).saturating_sub(found(cell));
            if missing == 0 {
                continue;
            }
            let suspect = (tally.turnover, missing);
            if self.suspects.get(&cell) == Some(&suspect) {
                unseen.push(Unseen { cell, count: missing });
            } else {
                suspects.insert(cell, suspect);
            }
        }
        self.suspects = suspects;
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: u32 = 20;

    fn books(turnover: u64, active: i64) -> HashMap<u32, Tally> {
        HashMap::from([(CELL, Tally { turnover, active })])
    }

    fn at_rest(
        reconciliations: &mut Reconciliations,
        turnover: u64,
        active: i64,
        found: u64,
    ) -> Vec<Unseen> {
        let books = books(turnover, active);
        reconciliations.compare(&books, |_| found, &books)
    }

    #[test]
    fn what_is_missing_twice_has_ended_unseen() {
        let mut reconciliations = Reconciliations::default();
        assert!(at_rest(&mut reconciliations, 9, 5, 5).is_empty());
        assert!(at_rest(&mut reconciliations, 9, 5, 3).is_empty(), "it may be about to be counted");
        assert_eq!(at_rest(&mut reconciliations, 9, 5, 3), [Unseen { cell: CELL, count: 2 }]);
        // The caller has counted it: the books are others now.
        assert!(at_rest(&mut reconciliations, 11, 3, 3).is_empty());
    }

    #[test]
    fn what_changes_between_two_reconciliations_begins_anew() {
        let mut reconciliations = Reconciliations::default();
        assert!(at_rest(&mut reconciliations, 9, 5, 4).is_empty());
        assert!(at_rest(&mut reconciliations, 10, 6, 5).is_empty(), "one more came");
        assert!(at_rest(&mut reconciliations, 10, 6, 4).is_empty(), "one more is missing");
        assert!(at_rest(&mut reconciliations, 10, 6, 6).is_empty(), "none is");
        assert!(at_rest(&mut reconciliations, 10, 6, 4).is_empty());
    }

    #[test]
    fn a_cell_that_is_not_at_rest_tells_nothing() {
        let mut reconciliations = Reconciliations::default();
        for turnover in 0..4 {
            let (before, after) = (books(turnover, 5), books(turnover + 1, 5));
            assert!(reconciliations.compare(&before, |_| 0, &after).is_empty());
        }
        assert!(
            reconciliations.compare(&HashMap::new(), |_| 0, &books(9, 5)).is_empty(),
            "a new one"
        );
    }

    #[test]
    fn more_states_than_connections_are_births_under_way() {
        let mut reconciliations = Reconciliations::default();
        for _ in 0..3 {
            assert!(at_rest(&mut reconciliations, 9, 5, 6).is_empty());
            assert!(at_rest(&mut reconciliations, 9, -1, 0).is_empty());
        }
    }
}
