//! What a listing of open connections needs to know of the cells, and the names that a filter can mean.

use std::{collections::HashMap, io, sync::Arc};

use observer_common::{label::Role, protocol::Protocol, wire::slot::overflow_cell};

use super::{Collector, pods};
use crate::{
    attribute::{Identity, OVERFLOW, UNATTRIBUTED},
    model::CellSnapshot,
};

/// A cell as those see it that are counted in it.
#[derive(Clone, Debug)]
pub struct OpenCell {
    /// The cgroup's id; 0 for an overflow cell.
    pub cgroup: u64,
    /// Its names.
    pub identity: Arc<Identity>,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// The server's port.
    pub port: u16,
    /// Connections that are open.
    pub active: u64,
}

impl OpenCell {
    fn new(cell: &CellSnapshot, identity: Arc<Identity>) -> Self {
        Self {
            cgroup: cell.cgroup,
            identity,
            role: cell.role,
            protocol: cell.protocol,
            port: cell.port,
            active: cell.counts.active().max(0).cast_unsigned(),
        }
    }
}

impl Collector {
    /// The cells by their index.
    ///
    /// # Errors
    /// If the cells cannot be read, for lack of memory.
    pub fn open_cells(&mut self) -> io::Result<HashMap<u32, OpenCell>> {
        let pass = self.read()?;
        let names = self.books.names();
        let names = names.as_deref().map(pods::lock);
        let own = pass.cells.iter().map(|found| {
            let identity = self.cgroups.resolve(found.key.cgroup);
            let identity = identity.unwrap_or_else(|| Arc::clone(&UNATTRIBUTED));
            let identity = pods::join(names.as_deref(), identity);
            (found.index, OpenCell::new(&found.cell, identity))
        });
        let overflow = pass.overflow.iter().map(|cell| {
            let index = overflow_cell(cell.role as u8, cell.protocol as u8);
            (index, OpenCell::new(cell, Arc::clone(&OVERFLOW)))
        });
        Ok(own.chain(overflow).collect())
    }

    /// Who has a cgroup on this node, several times if several.
    #[must_use]
    pub fn identities(&self) -> Vec<Arc<Identity>> {
        let names = self.books.names();
        let names = names.as_deref().map(pods::lock);
        let alive = self.cgroups.alive().map(Arc::clone);
        alive.map(|identity| pods::join(names.as_deref(), identity)).collect()
    }
}
