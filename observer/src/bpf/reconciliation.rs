//! The reconciliation: how many states of sockets are counted in each cell, by a walk over all of them.

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::Map;

use super::{cells::MapMemory, sys};

/// The iterator over the states, and what it writes.
pub struct Reconciliation {
    program: OwnedFd,
    states: OwnedFd,
    /// States that all walks have found, by cell.
    found: MapMemory,
    /// Walks that came to their end.
    walks: MapMemory,
}

impl Reconciliation {
    /// `program` is the iterator; the maps are those of its names in the object.
    ///
    /// # Errors
    /// If a map is not what it should be.
    pub(super) fn new(
        program: OwnedFd,
        conns: &Map,
        reconciliation: &Map,
        walks: &Map,
    ) -> io::Result<Self> {
        let Map::SkStorage(states) = conns else {
            return Err(io::Error::other("not the storage of sockets"));
        };
        Ok(Self {
            program,
            states: states.fd().as_fd().try_clone_to_owned()?,
            found: MapMemory::new(reconciliation)?,
            walks: MapMemory::new(walks)?,
        })
    }

    /// Walks over all states; how many are counted in each cell. A state that is there all the while is found once.
    ///
    /// # Errors
    /// What the kernel says: above a million sockets (`MAX_ITER_OBJECTS`) it breaks off. What a walk has found that did not
    /// come to its end is not told.
    pub fn walk(&self) -> io::Result<Vec<u64>> {
        let before = self.found.all();
        let walks = self.walks.word(0);
        let mut nothing = Vec::new();
        sys::iterate(self.program.as_fd(), self.states.as_fd())?.read_to_end(&mut nothing)?;
        if self.walks.word(0) == walks {
            return Err(io::Error::other("the iterator did not run"));
        }
        let after = self.found.all();
        Ok(after.into_iter().zip(before).map(|(after, before)| after - before).collect())
    }
}
