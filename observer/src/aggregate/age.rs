//! Finds idle cells of cgroups that live: a cgroup that has used many ports once shall not keep their cells for ever.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Cells of a cgroup that never age while the table has room.
const FEW: usize = 16;

/// A cell that tells its port, as a tick finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Index in the table.
    pub cell: u32,
    /// Whose.
    pub cgroup: u64,
    /// Connections in it now.
    pub active: i64,
    /// A number that changes with every event that it counts.
    pub events: u64,
}

/// Since when cells are idle.
#[derive(Debug, Default)]
pub struct Ages {
    /// By cell: its events, and since when they are as many.
    since: HashMap<u32, (u64, Instant)>,
}

impl Ages {
    /// Looks at the cells with ports of living cgroups; returns those that have counted nothing for `age` and are of a
    /// cgroup with many, or of any if the table is `filling`.
    pub fn tick(&mut self, now: Instant, age: Duration, filling: bool, cells: &[Used]) -> Vec<u32> {
        let mut of_cgroup: HashMap<u64, usize> = HashMap::new();
        for used in cells {
            *of_cgroup.entry(used.cgroup).or_default() += 1;
        }
        let before = std::mem::take(&mut self.since);
        let mut idle = Vec::new();
        for used in cells {
            let since = match before.get(&used.cell) {
                Some(&(events, since)) if events == used.events => since,
                _ => now,
            };
            self.since.insert(used.cell, (used.events, since));
            let is_idle = used.active == 0 && now.duration_since(since) >= age;
            if is_idle && (filling || of_cgroup[&used.cgroup] > FEW) {
                idle.push(used.cell);
            }
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_mins(10);

    /// So many cells of a cgroup, the first of which is 100 times its number.
    fn cells(cgroup: u64, count: u32) -> Vec<Used> {
        let first = cgroup as u32 * 100;
        (first..first + count).map(|cell| Used { cell, cgroup, active: 0, events: 3 }).collect()
    }

    #[test]
    fn idle_cells_of_a_cgroup_that_has_many_age() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let all = [cells(1, 17), cells(2, 16)].concat();
        assert!(ages.tick(start, AGE, false, &all).is_empty());
        assert!(ages.tick(start + AGE / 2, AGE, false, &all).is_empty());
        let found = ages.tick(start + AGE, AGE, false, &all);
        assert_eq!(found, (100..117).collect::<Vec<_>>(), "and nobody else's");
        assert_eq!(ages.tick(start + AGE, AGE, true, &all).len(), 33, "while the table is filling");
    }

    #[test]
    fn a_cell_in_use_does_not_age() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let mut all = cells(1, 20);
        ages.tick(start, AGE, false, &all);
        all[3].events += 1;
        all[4].active = 1;
        let found = ages.tick(start + AGE, AGE, false, &all);
        assert!(found.len() == 18 && !found.contains(&103) && !found.contains(&104), "{found:?}");
        assert!(
            ages.tick(start + AGE * 3 / 2, AGE, false, &all).len() == 18,
            "its age begins anew"
        );
        assert!(ages.tick(start + AGE * 2, AGE, false, &all).contains(&103));
    }
}
