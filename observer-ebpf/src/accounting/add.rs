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

/// Counts what a parser has found in a stream of a connection.
pub(crate) struct ForConnection {
    conn: Shared,
    direction: usize,
    block: Option<*mut Slot>,
}

impl ForConnection {
    /// For the client's stream (`request`) or the server's.
    #[inline(always)]
    pub(crate) fn new(conn: Shared, request: bool) -> Self {
        Self { conn, direction: conn.direction(request), block: None }
    }
}

impl Recorder for ForConnection {
    #[inline(always)]
    fn direction(&self) -> usize {
        self.direction
    }

    #[inline(always)]
    fn hold(&mut self) {
        self.block = counted(self.conn).and_then(slots::protocol);
    }

    #[inline(always)]
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        if let Some(block) = self.block {
            add_to(block, counter, combination, value);
        }
    }

    #[inline(always)]
    fn mismatch(&mut self, actual: u8) {
        if let Some(cell) = counted(self.conn) {
            slots::add(cell, &slot::MISMATCHES, usize::from(actual), 1);
        }
    }
}

/// Counts what a parser has found, in the block of the connection's protocol as far as there is one already.
pub(crate) struct Existing {
    block: *mut Slot,
    direction: usize,
}

impl Existing {
    /// As [`ForConnection`], if there is a block.
    #[inline(always)]
    pub(crate) fn of(conn: Shared, direction: usize) -> Option<Self> {
        let block = counted(conn).and_then(slots::existing_protocol)?;
        Some(Self { block, direction })
    }
}

impl Recorder for Existing {
    #[inline(always)]
    fn direction(&self) -> usize {
        self.direction
    }

    #[inline(always)]
    fn hold(&mut self) {}

    #[inline(always)]
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        add_to(self.block, counter, combination, value);
    }

    #[inline(always)]
    fn mismatch(&mut self, _: u8) {}
}

/// Counts what a room has to say of a connection that has left the cell.
pub(crate) struct ForEnded {
    cell: *mut Slot,
    block: Option<*mut Slot>,
}

impl ForEnded {
    #[inline(always)]
    pub(crate) fn new(cell: *mut Slot) -> Self {
        Self { cell, block: None }
    }
}

impl Recorder for ForEnded {
    #[inline(always)]
    fn direction(&self) -> usize {
        0
    }

    #[inline(always)]
    fn hold(&mut self) {
        self.block = slots::protocol(self.cell);
    }

    #[inline(always)]
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        if let Some(block) = self.block {
            add_to(block, counter, combination, value);
        }
    }

    #[inline(always)]
    fn mismatch(&mut self, _: u8) {}
}

#[inline(always)]
fn add_to(block: *mut Slot, counter: &Counter, combination: usize, value: u64) {
    if counter.shared {
        share(block, counter, combination, value);
    } else {
        slots::add(block, counter, combination, value);
    }
}

const _: () = assert!(Direction::Received as usize == 0 && Direction::Sent as usize == 1);
