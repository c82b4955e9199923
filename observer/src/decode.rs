//! From the kernel's words to the model: total functions, an error for what this version does not know.
//!
//! A cell is given as a function from a word's place to the word, so that a word that nobody asks for is not read.

use std::mem::offset_of;

use observer_common::{
    cell::{
        Cell, CellKey, IDLE_BUCKETS, IDLE_USED, OVERFLOW_CELLS, SHARES, Traffic, overflow_cell,
    },
    protocol::{Protocol, REASONS, RESET_CAUSES, Reason, ResetCause, Role},
};
use thiserror::Error;

use crate::model::{CellSnapshot, Counts, Histogram};

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
pub fn cell(word: impl Fn(usize) -> u64) -> Result<CellSnapshot, DecodeError> {
    let CellKey { cgroup, port, role, protocol, .. } = key(&word);
    Ok(CellSnapshot {
        cgroup,
        port,
        role: Role::from_wire(role).ok_or(DecodeError::Role(role))?,
        protocol: Protocol::from_wire(protocol).ok_or(DecodeError::Protocol(protocol))?,
        counts: counts(word),
    })
}

/// Reads what a cell counts for.
pub fn key(word: impl Fn(usize) -> u64) -> CellKey {
    let [p0, p1, role, protocol, ..] = word(1).to_le_bytes();
    CellKey { cgroup: word(0), port: u16::from_le_bytes([p0, p1]), role, protocol, zero: 0 }
}

/// Reads how many connections are in a cell now.
pub fn active(word: impl Fn(usize) -> u64) -> i64 {
    word(offset_of!(Cell, active) / 8) as i64
}

/// Reads the number of closes by the peer and resets after silence.
pub fn idle_closes(word: impl Fn(usize) -> u64) -> u64 {
    word(offset_of!(Cell, idle_closes) / 8)
}

/// Reads how many connections that ended so had idled how long, by bucket.
pub fn idle(word: impl Fn(usize) -> u64, reason: Reason) -> [u64; IDLE_USED] {
    let first = offset_of!(Cell, idle) + reason as usize * IDLE_BUCKETS * 8;
    array(|offset| word(offset / 8), first)
}

/// A number that changes whenever a connection comes to the cell, moves or ends.
pub fn turnover(word: impl Fn(usize) -> u64) -> u64 {
    let counters = [
        offset_of!(Cell, opened)..offset_of!(Cell, active),
        offset_of!(Cell, closed)..offset_of!(Cell, lifetime_sum_ns),
        offset_of!(Cell, adopted)..offset_of!(Cell, adopted) + 8,
    ];
    let places = counters.into_iter().flat_map(|range| range.step_by(8));
    places.fold(0, |sum, offset| sum.wrapping_add(word(offset / 8)))
}

/// A number that changes with every event that the cell counts: the sum of all its counters that only grow.
pub fn events(word: impl Fn(usize) -> u64) -> u64 {
    let counters = offset_of!(Cell, opened) / 8..size_of::<Cell>() / 8;
    counters
        .filter(|&place| place != offset_of!(Cell, active) / 8)
        .fold(0, |sum, place| sum.wrapping_add(word(place)))
}

/// Reads the overflow cell `index`; `None` if no role and protocol overflow into it.
#[must_use]
pub fn overflow(index: u32, word: impl Fn(usize) -> u64) -> Option<CellSnapshot> {
    debug_assert!(index < OVERFLOW_CELLS);
    let (role, protocol) = Role::ALL
        .iter()
        .flat_map(|&role| Protocol::ALL.iter().map(move |&protocol| (role, protocol)))
        .find(|&(role, protocol)| overflow_cell(role as u8, protocol as u8) == index)?;
    Some(CellSnapshot { cgroup: 0, port: 0, role, protocol, counts: counts(word) })
}

fn counts(word: impl Fn(usize) -> u64) -> Counts {
    let at = |offset: usize| word(offset / 8);
    let mut counts = Counts {
        opened: at(offset_of!(Cell, opened)),
        adopted: at(offset_of!(Cell, adopted)),
        entered: at(offset_of!(Cell, entered)),
        left: at(offset_of!(Cell, left)),
        active: active(&word),
        closed: array(at, offset_of!(Cell, closed)),
        lifetime: histogram(at, offset_of!(Cell, lifetime_sum_ns), offset_of!(Cell, lifetime)),
        adopted_lifetime: histogram(
            at,
            offset_of!(Cell, adopted_lifetime_sum_ns),
            offset_of!(Cell, adopted_lifetime),
        ),
        rtt: histogram(at, offset_of!(Cell, rtt_sum_ns), offset_of!(Cell, rtt)),
        idle: std::array::from_fn(|reason| {
            histogram(
                at,
                offset_of!(Cell, idle_sum_ns) + reason * 8,
                offset_of!(Cell, idle) + reason * IDLE_BUCKETS * 8,
            )
        }),
        idle_closes: idle_closes(&word),
        messages: traffic(at, offset_of!(Traffic, messages)),
        errors: at(offset_of!(Cell, errors)),
        bytes: traffic(at, offset_of!(Traffic, bytes)),
        retransmits: at(offset_of!(Cell, retransmits)),
        resets_received: at(offset_of!(Cell, resets_received)),
        resets_sent: array(at, offset_of!(Cell, resets_sent)),
        timeouts: array(at, offset_of!(Cell, timeouts)),
        failures: array(at, offset_of!(Cell, failures)),
    };
    // A number that this version does not know is still an end, and still a reset.
    counts.closed[Reason::Unknown as usize] +=
        rest::<{ Reason::ALL.len() }, REASONS>(at, offset_of!(Cell, closed));
    counts.resets_sent[ResetCause::Unspecified as usize] +=
        rest::<{ ResetCause::ALL.len() }, RESET_CAUSES>(at, offset_of!(Cell, resets_sent));
    counts
}

/// The first `N` of the words at `offset`.
fn array<const N: usize>(at: impl Fn(usize) -> u64, offset: usize) -> [u64; N] {
    std::array::from_fn(|i| at(offset + 8 * i))
}

/// The sums over all shares of the two words at `offset` within each.
fn traffic(at: impl Fn(usize) -> u64, offset: usize) -> [u64; 2] {
    let first = offset_of!(Cell, traffic) + offset;
    let share = |index: usize| first + index * size_of::<Traffic>();
    std::array::from_fn(|direction| (0..SHARES).map(|index| at(share(index) + 8 * direction)).sum())
}

/// The sum of the words at `offset` from `FROM` up to `TO`.
fn rest<const FROM: usize, const TO: usize>(at: impl Fn(usize) -> u64, offset: usize) -> u64 {
    (FROM..TO).map(|i| at(offset + 8 * i)).sum()
}

fn histogram<const N: usize>(
    at: impl Fn(usize) -> u64,
    sum_ns: usize,
    buckets: usize,
) -> Histogram<N> {
    Histogram::new(at(sum_ns), array(&at, buckets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CELL_WORDS: usize = size_of::<Cell>() / 8;

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
            (offset_of!(Cell, traffic) + offset_of!(Traffic, messages) + 8, 3),
            (offset_of!(Cell, traffic) + 3 * 128 + offset_of!(Traffic, messages) + 8, 5),
            (offset_of!(Cell, traffic) + 128 + offset_of!(Traffic, bytes), 14),
            (offset_of!(Cell, errors), 9),
            (offset_of!(Cell, lifetime) + 8 * 28, 10),
            (offset_of!(Cell, idle) + 8 * (IDLE_BUCKETS * Reason::Peer as usize + 2), 11),
            (offset_of!(Cell, idle_sum_ns) + 8 * Reason::Peer as usize, 12),
            (offset_of!(Cell, resets_sent) + 8 * 15, 13),
        ] {
            words[offset / 8] = value;
        }
        let cell = cell(|place| words[place]).unwrap();
        assert_eq!(
            (cell.cgroup, cell.port, cell.role, cell.protocol),
            (77, 8080, Role::Client, Protocol::WebSocket)
        );
        let c = &cell.counts;
        assert_eq!((c.opened, c.entered, c.left, c.active), (1, 2, 3, -1));
        assert_eq!((c.closed[Reason::Peer as usize], c.closed[Reason::Unknown as usize]), (5, 6));
        assert_eq!(
            (c.lifetime.sum_ns(), c.messages, c.errors, c.lifetime.buckets().unwrap()[28]),
            (7, [0, 8], 9, 10)
        );
        assert_eq!(c.bytes, [14, 0]);
        let idle = &c.idle[Reason::Peer as usize];
        assert_eq!((idle.sum_ns(), idle.buckets().unwrap()[2]), (12, 11));
        assert_eq!(c.idle[Reason::Local as usize].buckets(), None);
        assert_eq!(c.resets_sent[ResetCause::Unspecified as usize], 13);
        let key = key(|place| words[place]);
        assert_eq!((key.cgroup, key.port, key.role, key.protocol), (77, 8080, 1, 5));
    }

    #[test]
    fn an_event_changes_the_sum_and_a_move_does_too() {
        let mut words = [0; CELL_WORDS];
        let mut before = events(|place| words[place]);
        for counter in [offset_of!(Cell, opened), offset_of!(Cell, left), offset_of!(Cell, rtt)] {
            words[counter / 8] += 1;
            words[offset_of!(Cell, active) / 8] =
                words[offset_of!(Cell, active) / 8].wrapping_sub(1);
            let after = events(|place| words[place]);
            assert_ne!(after, before);
            before = after;
        }
    }

    #[test]
    fn connections_change_the_turnover_and_their_traffic_does_not() {
        let mut words = [0; CELL_WORDS];
        for (offset, counts) in [
            (offset_of!(Cell, opened), true),
            (offset_of!(Cell, entered), true),
            (offset_of!(Cell, left), true),
            (offset_of!(Cell, active), false),
            (offset_of!(Cell, closed), true),
            (offset_of!(Cell, closed) + 8 * (REASONS - 1), true),
            (offset_of!(Cell, lifetime_sum_ns), false),
            (offset_of!(Cell, adopted), true),
            (offset_of!(Cell, adopted_lifetime_sum_ns), false),
            (offset_of!(Cell, traffic), false),
        ] {
            let before = turnover(|place| words[place]);
            words[offset / 8] += 1;
            let after = turnover(|place| words[place]);
            assert_eq!(after - before, u64::from(counts), "the word at {offset}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u32>().prop_map(u64::from), CELL_WORDS)) {
            let _ = cell(|place| words[place]);
        }
    }
}
