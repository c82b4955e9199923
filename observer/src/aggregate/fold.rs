//! Folds cells by the identity of their cgroup: a container may have many cgroups, a replica has one series.

use std::{collections::HashMap, sync::Arc};

use observer_common::protocol::{Protocol, Role};

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
    let mut folded: HashMap<SeriesKey, Counts> = HashMap::new();
    for (identity, cell) in cells {
        let key = SeriesKey { identity, role: cell.role, protocol: cell.protocol, port: cell.port };
        folded.entry(key).or_default().add(&cell.counts);
    }
    let mut series: Vec<Series> =
        folded.into_iter().map(|(key, counts)| Series { key, counts }).collect();
    series.sort_by(|a, b| {
        let text = |s: &Series| (s.key.role, s.key.protocol, s.key.port);
        let (x, y) = (&a.key.identity, &b.key.identity);
        (&x.namespace, &x.pod, &x.container)
            .cmp(&(&y.namespace, &y.pod, &y.container))
            .then_with(|| text(a).cmp(&text(b)))
    });
    series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::identify;

    fn cell(cgroup: u64, opened: u64) -> CellSnapshot {
        CellSnapshot {
            cgroup,
            port: 80,
            role: Role::Server,
            protocol: Protocol::Tcp,
            counts: Counts { opened, active: 1, ..Counts::default() },
        }
    }

    #[test]
    fn cgroups_of_one_replica_are_one_series() {
        let a = Arc::new(identify("/system.slice/nginx.service"));
        let b = Arc::new(identify("/system.slice/nginx.service"));
        let c = Arc::new(identify("/system.slice/other.service"));
        let series = fold([(c, cell(3, 4)), (a, cell(1, 1)), (b, cell(2, 2))]);
        assert_eq!(series.len(), 2);
        assert_eq!(series[0].key.identity.pod, "nginx.service");
        assert_eq!((series[0].counts.opened, series[0].counts.active), (3, 2));
        assert_eq!(series[1].counts.opened, 4);
    }
}
