//! From the kernel's words to the model: total functions, an error for what this version does not know.

use observer_common::{
    cell::{LIFETIME_BUCKETS, OVERFLOW_CELLS, overflow_cell},
    protocol::{Protocol, REASONS, Reason, Role},
};
use thiserror::Error;

use crate::{
    bpf::cells::CELL_WORDS,
    model::{CellSnapshot, Counts},
};

/// A word that this version cannot read: the kernel's maps are another version's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Unknown role number.
    #[error("unknown role {0}")]
    Role(u8),
    /// Unknown protocol number.
    #[error("unknown protocol {0}")]
    Protocol(u8),
}

/// Reads a cell, in the order of `observer_common::cell::Cell`.
///
/// # Errors
/// If role or protocol are numbers of another version.
pub fn cell(words: &[u64; CELL_WORDS]) -> Result<CellSnapshot, DecodeError> {
    let [p0, p1, role, protocol, ..] = words[1].to_le_bytes();
    Ok(CellSnapshot {
        cgroup: words[0],
        port: u16::from_le_bytes([p0, p1]),
        role: Role::from_wire(role).ok_or(DecodeError::Role(role))?,
        protocol: Protocol::from_wire(protocol).ok_or(DecodeError::Protocol(protocol))?,
        counts: counts(words),
    })
}

/// Reads the overflow cell `index`; `None` if no role and protocol overflow into it.
#[must_use]
pub fn overflow(index: u32, words: &[u64; CELL_WORDS]) -> Option<CellSnapshot> {
    debug_assert!(index < OVERFLOW_CELLS);
    let (role, protocol) = Role::ALL
        .iter()
        .flat_map(|&role| Protocol::ALL.iter().map(move |&protocol| (role, protocol)))
        .find(|&(role, protocol)| overflow_cell(role as u8, protocol as u8) == index)?;
    Some(CellSnapshot { cgroup: 0, port: 0, role, protocol, counts: counts(words) })
}

fn counts(words: &[u64; CELL_WORDS]) -> Counts {
    let mut rest = words[2..].iter().copied();
    let mut next = || rest.next().unwrap_or(0);
    let mut counts = Counts { opened: next(), entered: next(), left: next(), active: next() as i64, ..Counts::default() };
    let closed: [u64; REASONS] = std::array::from_fn(|_| next());
    for (mine, theirs) in counts.closed.iter_mut().zip(closed) {
        *mine = theirs;
    }
    // A reason that this version does not know is still an end.
    counts.closed[Reason::Unknown as usize] += closed[Reason::ALL.len()..].iter().sum::<u64>();
    counts.lifetime_sum_ns = next();
    counts.messages = [next(), next()];
    counts.errors = next();
    let lifetime: [u64; LIFETIME_BUCKETS] = std::array::from_fn(|_| next());
    for (mine, theirs) in counts.lifetime.iter_mut().zip(lifetime) {
        *mine = theirs;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_common::cell::Cell;
    use proptest::prelude::*;
    use std::mem::offset_of;

    #[test]
    fn words_are_read_where_the_kernel_writes_them() {
        let mut words = [0; CELL_WORDS];
        words[0] = 77;
        words[1] = u64::from_le_bytes([0x90, 0x1f, 1, 5, 0, 0, 0, 0]);
        for (offset, value) in [
            (offset_of!(Cell, opened), 1),
            (offset_of!(Cell, entered), 2),
            (offset_of!(Cell, left), 3),
            (offset_of!(Cell, active), u64::MAX),
            (offset_of!(Cell, closed) + 8 * Reason::Peer as usize, 5),
            (offset_of!(Cell, closed) + 8 * 7, 6),
            (offset_of!(Cell, lifetime_sum_ns), 7),
            (offset_of!(Cell, messages) + 8, 8),
            (offset_of!(Cell, errors), 9),
            (offset_of!(Cell, lifetime) + 8 * 28, 10),
        ] {
            words[offset / 8] = value;
        }
        let cell = cell(&words).unwrap();
        assert_eq!((cell.cgroup, cell.port, cell.role, cell.protocol), (77, 8080, Role::Client, Protocol::WebSocket));
        let c = &cell.counts;
        assert_eq!((c.opened, c.entered, c.left, c.active), (1, 2, 3, -1));
        assert_eq!((c.closed[Reason::Peer as usize], c.closed[Reason::Unknown as usize]), (5, 6));
        assert_eq!((c.lifetime_sum_ns, c.messages, c.errors, c.lifetime[28]), (7, [0, 8], 9, 10));
        assert_eq!(cell.key().port, 8080);
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u32>().prop_map(u64::from), CELL_WORDS)) {
            let _ = cell(&words.try_into().unwrap());
        }
    }
}
