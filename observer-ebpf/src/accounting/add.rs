//! Adds to the counters of the cell that a connection is counted in.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use observer_common::{
    counters::Counter,
    label::{Direction, Failure, ResetCause, Timeout},
    recorder::Recorder,
    wire::{
        conn::NO_CELL,
        slot::{self, RTT_BUCKETS, SHARE_WORDS, SHARES, SHARES_AT, Slot, rtt_bucket},
    },
};

use super::{slots, transitions};
use crate::memory::{atomic, shared::Shared};

/// The cell of a counted connection, or the one a connecting socket would be born into.
#[inline(always)]
fn current(conn: Shared) -> Option<*mut Slot> {
    let index = conn.cell();
    slots::slot(if index == NO_CELL {
        slots::find_or_make(transitions::key(conn, conn.facts().protocol))
    } else {
        index
    })
}

/// The cell that the connection is counted in, if it is in any.
#[inline(always)]
fn counted(conn: Shared) -> Option<*mut Slot> {
    slots::slot(conn.cell())
}

/// Adds one to a counter of the connection's cell.
#[inline(always)]
pub(crate) fn one(conn: Shared, counter: &Counter, combination: usize) {
    if let Some(cell) = current(conn) {
        slots::add(cell, counter, combination, 1);
    }
}

/// Counts a failed attempt to connect.
#[inline(always)]
pub(crate) fn failure(conn: Shared, failure: Failure) {
    if let Some(cell) = current(conn) {
        slots::add(cell, &slot::FAILED, failure as usize, 1);
        if failure == Failure::TimedOut {
            slots::add(cell, &slot::TIMEOUTS, Timeout::Connect as usize, 1);
        }
    }
}

/// Counts a reset that was sent.
#[inline(always)]
pub(crate) fn reset_sent(conn: Shared, cause: u8) {
    const { assert!(ResetCause::ALL.len() <= slot::RESETS_SENT.combinations) }
    if let Some(ends) = current(conn).and_then(slots::ends) {
        slots::add(ends, &slot::RESETS_SENT, usize::from(cause), 1);
    }
}

/// Adds to a counter in the shares of a slot.
#[inline(always)]
fn share(slot: *mut Slot, counter: &Counter, combination: usize, value: u64) {
    // SAFETY: no arguments.
    let share = unsafe { bpf_get_smp_processor_id() } as usize & (SHARES - 1);
    let first = 8 * (SHARES_AT + share * SHARE_WORDS);
    // SAFETY: the counter lies within a share, as its table asserts; both indexes are masked.
    unsafe { atomic::add(slot.byte_add(first + counter.at(combination)).cast(), value) }
}

/// Adds payload bytes that went in a direction.
#[inline(always)]
pub(crate) fn bytes(conn: Shared, direction: usize, bytes: u64) {
    if let Some(cell) = counted(conn) {
        share(cell, &slot::BYTES, direction, bytes);
    }
}

/// Adds a sample of the round-trip time in microseconds.
#[inline(always)]
pub(crate) fn rtt(conn: Shared, us: u32) {
    if let Some(cell) = counted(conn) {
        let bucket = rtt_bucket(us) as usize;
        if bucket < RTT_BUCKETS {
            slots::add(cell, &slot::ROUND_TRIP, 0, u64::from(us) * 1000);
            // SAFETY: a word of the histogram; the bucket is checked.
            unsafe {
                atomic::add(cell.byte_add(slot::ROUND_TRIP.offset() + 8 * (1 + bucket)).cast(), 1);
            }
        }
    }
}

/// Counts in the block of the connection's protocol.
pub(crate) struct ProtocolBlock(pub(crate) Shared);

impl Recorder for ProtocolBlock {
    #[inline(always)]
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        if let Some(block) = counted(self.0).and_then(slots::protocol) {
            Block(block).add(counter, combination, value);
        }
    }
}

/// Counts in a block that exists.
pub(crate) struct Block(*mut Slot);

impl Block {
    /// The block of the connection's protocol, if there is one.
    #[inline(always)]
    pub(crate) fn of(conn: Shared) -> Option<Self> {
        counted(conn).and_then(slots::existing_protocol).map(Self)
    }
}

impl Recorder for Block {
    #[inline(always)]
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        if counter.shared {
            share(self.0, counter, combination, value);
        } else {
            slots::add(self.0, counter, combination, value);
        }
    }
}

const _: () = assert!(Direction::Received as usize == 0 && Direction::Sent as usize == 1);
