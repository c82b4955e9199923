//! Folds cells by the identity of their cgroup: a container may have many cgroups, a replica has one series.

use std::{collections::HashMap, sync::Arc};

use observer_common::{
    label::{Path, Role},
    protocol::Protocol,
};

use crate::{
    attribute::Identity,
    model::{CellSnapshot, Counts},
};

/// What one series counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// The replica.
    pub identity: Arc<Identity>,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// The server's port, 0 when ports are not told apart.
    pub port: u16,
    /// Where the other ends are.
    pub path: Path,
}

/// One series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// What it counts for.
    pub key: SeriesKey,
    /// The counts.
    pub counts: Counts,
}

/// Folds cells into series, sorted by label values so that two scrapes of the same state are the same text.
#[must_use]
pub fn fold(cells: impl IntoIterator<Item = (Arc<Identity>, CellSnapshot)>) -> Vec<Series> {
    let mut cells: Vec<_> = cells.into_iter().collect();
    let ranks = ranks(&cells);
    let place = |(identity, cell): &(Arc<Identity>, CellSnapshot)| {
        (ranks[&Arc::as_ptr(identity)], cell.role, cell.protocol, cell.port, cell.path)
    };
    cells.sort_by_cached_key(place);
    let mut series: Vec<Series> = Vec::with_capacity(cells.len());
    let mut last = None;
    for cell in cells {
        let here = Some(place(&cell));
        let (identity, CellSnapshot { role, protocol, port, path, counts, .. }) = cell;
        match series.last_mut() {
            Some(series) if last == here => series.counts.add(&counts),
            _ => series
                .push(Series { key: SeriesKey { identity, role, protocol, port, path }, counts }),
        }
        last = here;
    }
    series
}

/// The place of each identity in the order of names; those of equal names share one. Names are compared for each
/// identity, of which there are fewer than cells.
fn ranks(cells: &[(Arc<Identity>, CellSnapshot)]) -> HashMap<*const Identity, usize> {
    let by_address: HashMap<_, _> =
        cells.iter().map(|(identity, _)| (Arc::as_ptr(identity), &**identity)).collect();
    let mut sorted: Vec<_> = by_address.into_iter().collect();
    sorted.sort_unstable_by(|(_, a), (_, b)| names(a).cmp(&names(b)));
    let same_name = sorted.chunk_by(|(_, a), (_, b)| names(a) == names(b));
    same_name
        .enumerate()
        .flat_map(|(rank, same)| same.iter().map(move |(address, _)| (*address, rank)))
        .collect()
}

fn names(identity: &Identity) -> [&str; 3] {
    [&identity.namespace, &identity.pod, &identity.container]
}

#[cfg(test)]
mod tests {
    use observer_common::wire::slot;

    use super::*;
    use crate::attribute::identify;

    fn cell(cgroup: u64, opened: u64) -> CellSnapshot {
        let mut counts = Counts::default();
        counts.words_mut(&slot::OPENED)[0] = opened;
        counts.words_mut(&slot::ACTIVE)[0] = 1;
        let (role, protocol, path) = (Role::Server, Protocol::Tcp, Path::External);
        CellSnapshot { cgroup, port: 80, role, protocol, path, counts }
    }

    #[test]
    fn cgroups_of_one_replica_are_one_series() {
        let a = Arc::new(identify("/system.slice/nginx.service"));
        let b = Arc::new(identify("/system.slice/nginx.service"));
        let c = Arc::new(identify("/system.slice/other.service"));
        let series = fold([(c, cell(3, 4)), (a, cell(1, 1)), (b, cell(2, 2))]);
        assert_eq!(series.len(), 2);
        assert_eq!(series[0].key.identity.pod, "nginx.service");
        assert_eq!((series[0].counts.one(&slot::OPENED), series[0].counts.active()), (3, 2));
        assert_eq!(series[1].counts.one(&slot::OPENED), 4);
    }
}
