//! Adds to the counters of the cell that a connection is counted in.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use observer_common::{
    counters::Counter,
    label::{Direction, ResetCause},
    wire::{
        conn::{Conn, NO_CELL},
        slot::{self, RTT_BUCKETS, SHARE_WORDS, SHARES, SHARES_AT, Slot, rtt_bucket},
    },
};

use super::{slots, transitions};
use crate::atomic;

/// The cell of a counted connection, or the one a connecting socket would be born into.
#[inline(always)]
fn current(conn: &Conn) -> Option<*mut Slot> {
    // SAFETY: storage of a live socket.
    let index = unsafe { ptr::read_volatile(&raw const conn.cell) };
    slots::slot(if index == NO_CELL {
        slots::find_or_make(transitions::key(conn, conn.flow.protocol))
    } else {
        index
    })
}

/// The cell that the connection is counted in, if it is in any.
#[inline(always)]
fn counted(conn: &Conn) -> Option<*mut Slot> {
    // SAFETY: storage of a live socket.
    slots::slot(unsafe { ptr::read_volatile(&raw const conn.cell) })
}

/// Adds one to a counter of the connection's cell.
#[inline(always)]
pub(crate) fn one(conn: &Conn, counter: &Counter, combination: usize) {
    if let Some(cell) = current(conn) {
        slots::add(cell, counter, combination, 1);
    }
}

/// Counts a reset that was sent.
#[inline(always)]
pub(crate) fn reset_sent(conn: &Conn, cause: u8) {
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

/// Adds payload bytes of the client's stream (`request`) or the server's.
#[inline(always)]
pub(crate) fn bytes(conn: &mut Conn, request: bool, bytes: u32) {
    let direction = conn.direction(request);
    conn.flow.stream_mut(request).bytes += u64::from(bytes);
    if let Some(cell) = counted(conn) {
        share(cell, &slot::BYTES, direction, u64::from(bytes));
    }
}

/// Adds payload bytes of a stream that was once ahead: they may be the missing ones. Which are is not known, but their
/// number is: once all have come, each was counted once.
#[inline(always)]
pub(crate) fn fill_hole(conn: &mut Conn, request: bool, bytes_come: u32) {
    let stream = conn.flow.stream_mut(request);
    let filled = if bytes_come < stream.hole { bytes_come } else { stream.hole };
    stream.hole -= filled;
    bytes(conn, request, filled);
}

/// Adds a sample of the round-trip time in microseconds.
#[inline(always)]
pub(crate) fn rtt(conn: &Conn, us: u32) {
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

/// Adds to a counter in the shares of the protocol's block.
#[inline(always)]
pub(crate) fn protocol_share(conn: &Conn, counter: &Counter, combination: usize, value: u64) {
    if let Some(block) = counted(conn).and_then(slots::protocol) {
        share(block, counter, combination, value);
    }
}

/// Adds to a counter of the protocol's block.
#[inline(always)]
pub(crate) fn protocol(conn: &Conn, counter: &Counter, combination: usize, value: u64) {
    if let Some(block) = counted(conn).and_then(slots::protocol) {
        slots::add(block, counter, combination, value);
    }
}

const _: () = assert!(Direction::Received as usize == 0 && Direction::Sent as usize == 1);
