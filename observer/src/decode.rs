//! From the kernel's words to the model: total functions, an error for what this version does not know.

use std::mem::offset_of;

use observer_common::{
    cell::{Cell, IDLE_BUCKETS, OVERFLOW_CELLS, overflow_cell},
    protocol::{Protocol, REASONS, RESET_CAUSES, Reason, ResetCause, Role},
};
use thiserror::Error;

use crate::{
    bpf::cells::CELL_WORDS,
    model::{CellSnapshot, Counts, Histogram},
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
    let word = |offset: usize| words[offset / 8];
    let mut counts = Counts {
        opened: word(offset_of!(Cell, opened)),
        adopted: word(offset_of!(Cell, adopted)),
        entered: word(offset_of!(Cell, entered)),
        left: word(offset_of!(Cell, left)),
        active: word(offset_of!(Cell, active)) as i64,
        closed: array(words, offset_of!(Cell, closed)),
        adopted_lifetime: Histogram::read(
            words,
            offset_of!(Cell, adopted_lifetime),
            word(offset_of!(Cell, adopted_lifetime_sum_ns)),
        ),
        lifetime: Histogram::read(
            words,
            offset_of!(Cell, lifetime),
            word(offset_of!(Cell, lifetime_sum_ns)),
        ),
        rtt: Histogram::read(words, offset_of!(Cell, rtt), word(offset_of!(Cell, rtt_sum_ns))),
        idle: std::array::from_fn(|reason| {
            Histogram::read(
                words,
                offset_of!(Cell, idle) + reason * IDLE_BUCKETS * 8,
                word(offset_of!(Cell, idle_sum_ns) + reason * 8),
            )
        }),
        idle_closes: word(offset_of!(Cell, idle_closes)),
        messages: array(words, offset_of!(Cell, messages)),
        errors: word(offset_of!(Cell, errors)),
        bytes: array(words, offset_of!(Cell, bytes)),
        retransmits: word(offset_of!(Cell, retransmits)),
        resets_received: word(offset_of!(Cell, resets_received)),
        resets_sent: array(words, offset_of!(Cell, resets_sent)),
        timeouts: array(words, offset_of!(Cell, timeouts)),
        failures: array(words, offset_of!(Cell, failures)),
    };
    // A number that this version does not know is still an end, and still a reset.
    counts.closed[Reason::Unknown as usize] +=
        rest::<{ Reason::ALL.len() }, REASONS>(words, offset_of!(Cell, closed));
    counts.resets_sent[ResetCause::Unspecified as usize] +=
        rest::<{ ResetCause::ALL.len() }, RESET_CAUSES>(words, offset_of!(Cell, resets_sent));
    counts
}

/// The first `N` of the words at `offset`.
fn array<const N: usize>(words: &[u64; CELL_WORDS], offset: usize) -> [u64; N] {
    std::array::from_fn(|i| words[offset / 8 + i])
}

/// The sum of the words at `offset` from `FROM` up to `TO`.
fn rest<const FROM: usize, const TO: usize>(words: &[u64; CELL_WORDS], offset: usize) -> u64 {
    words[offset / 8 + FROM..offset / 8 + TO].iter().sum()
}

impl<const N: usize> Histogram<N> {
    fn read(words: &[u64; CELL_WORDS], offset: usize, sum_ns: u64) -> Self {
        Self { sum_ns, buckets: array(words, offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            (offset_of!(Cell, idle) + 8 * (IDLE_BUCKETS * Reason::Peer as usize + 2), 11),
            (offset_of!(Cell, idle_sum_ns) + 8 * Reason::Peer as usize, 12),
            (offset_of!(Cell, resets_sent) + 8 * 15, 13),
        ] {
            words[offset / 8] = value;
        }
        let cell = cell(&words).unwrap();
        assert_eq!(
            (cell.cgroup, cell.port, cell.role, cell.protocol),
            (77, 8080, Role::Client, Protocol::WebSocket)
        );
        let c = &cell.counts;
        assert_eq!((c.opened, c.entered, c.left, c.active), (1, 2, 3, -1));
        assert_eq!((c.closed[Reason::Peer as usize], c.closed[Reason::Unknown as usize]), (5, 6));
        assert_eq!(
            (c.lifetime.sum_ns, c.messages, c.errors, c.lifetime.buckets[28]),
            (7, [0, 8], 9, 10)
        );
        assert_eq!(
            (c.idle[Reason::Peer as usize].sum_ns, c.idle[Reason::Peer as usize].buckets[2]),
            (12, 11)
        );
        assert_eq!(c.resets_sent[ResetCause::Unspecified as usize], 13);
        assert_eq!(cell.key().port, 8080);
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u32>().prop_map(u64::from), CELL_WORDS)) {
            let _ = cell(&words.try_into().unwrap());
        }
    }
}
