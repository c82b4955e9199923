//! What the daemon knows, in domain types: no wire numbers, no maps, no text formats.

use observer_common::{
    cell::{CellKey, LIFETIME_USED},
    protocol::{Protocol, Reason, Role},
};

/// The counts of one cell, or of several folded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections born here.
    pub opened: u64,
    /// Connections that became this protocol.
    pub entered: u64,
    /// Connections that left for another protocol.
    pub left: u64,
    /// Connections here now.
    pub active: i64,
    /// Connections that ended here, indexed by [`Reason`].
    pub closed: [u64; Reason::ALL.len()],
    /// Sum of the lifetimes of the ended, nanoseconds.
    pub lifetime_sum_ns: u64,
    /// Lifetimes of the ended by bucket, see `observer_common::cell`.
    pub lifetime: [u64; LIFETIME_USED],
    /// WebSocket messages received and sent.
    pub messages: [u64; 2],
    /// WebSocket frames that break the protocol.
    pub errors: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            opened: 0,
            entered: 0,
            left: 0,
            active: 0,
            closed: [0; Reason::ALL.len()],
            lifetime_sum_ns: 0,
            lifetime: [0; LIFETIME_USED],
            messages: [0; 2],
            errors: 0,
        }
    }
}

impl Counts {
    /// All connections that ended here.
    #[must_use]
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Adds the counts of another cell.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.entered += other.entered;
        self.left += other.left;
        self.active += other.active;
        self.lifetime_sum_ns = self.lifetime_sum_ns.wrapping_add(other.lifetime_sum_ns);
        self.errors += other.errors;
        let pairs = self.closed.iter_mut().zip(&other.closed);
        let pairs = pairs.chain(self.lifetime.iter_mut().zip(&other.lifetime));
        for (mine, theirs) in pairs.chain(self.messages.iter_mut().zip(&other.messages)) {
            *mine += theirs;
        }
    }
}

/// One cell as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSnapshot {
    /// Cgroup id; 0 for an overflow cell.
    pub cgroup: u64,
    /// The server's port.
    pub port: u16,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// The counts.
    pub counts: Counts,
}

impl CellSnapshot {
    /// The key under which the kernel finds the cell.
    #[must_use]
    pub fn key(&self) -> CellKey {
        CellKey { cgroup: self.cgroup, port: self.port, role: self.role as u8, protocol: self.protocol as u8, zero: 0 }
    }
}
