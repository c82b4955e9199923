//! Tells the kernel programs which cgroups belong together: see `observer_common::wire::replica`.

use std::collections::HashMap as Known;

use aya::maps::{HashMap, Map, MapData, MapError};

/// What the programs have been told.
pub struct Replicas {
    map: HashMap<MapData, u64, u64>,
    told: Known<u64, u64>,
}

impl Replicas {
    /// Over the map, which an earlier daemon may have filled.
    ///
    /// # Errors
    /// If the map is not what it should be.
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        let map = HashMap::try_from(map)?;
        let told = map.iter().filter_map(Result::ok).collect();
        Ok(Self { map, told })
    }

    /// Tells of all cgroups that there are, each with the number of whom it belongs to.
    ///
    /// # Errors
    /// If the kernel refuses one: what the programs know of the others is right all the same.
    pub fn tell(&mut self, cgroups: impl IntoIterator<Item = (u64, u64)>) -> Result<(), MapError> {
        let mut gone = std::mem::take(&mut self.told);
        let mut outcome = Ok(());
        for (cgroup, number) in cgroups {
            if gone.remove(&cgroup) != Some(number)
                && let Err(error) = self.map.insert(cgroup, number, 0)
            {
                outcome = Err(error);
                continue;
            }
            self.told.insert(cgroup, number);
        }
        for cgroup in gone.into_keys() {
            match self.map.remove(&cgroup) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}
