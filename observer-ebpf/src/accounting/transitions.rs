//! The way of a connection through the cells.
//!
//! Every function here keeps the invariants of `observer_common::wire::slot`: a connection is opened once, closed once, and
//! is active in exactly one cell in between, whatever programs run at the same time on other processors. The word that
//! decides is `Conn::cell`, and before it is in any cell `Conn::phase`, changed by compare-and-swap: who wins updates the
//! counters.

use observer_common::{
    counters::Counter,
    label::{Path, Reason},
    protocol::{Protocol, http1::exchange::Facts},
    wire::{
        conn::{NO_CELL, flag, phase},
        loss::Loss,
        slot::{
            self, CellKey, IDLE_BUCKETS, IDLE_CLOSE_NS, LIFETIME_BUCKETS, Slot, idle_bucket,
            lifetime_bucket,
        },
    },
};

use super::{
    losses::lost,
    records,
    slots::{self, find_or_make},
};
use crate::memory::{atomic, registers::masked, shared::Shared};

/// The cell that `conn` belongs to when it speaks `protocol`.
#[inline(always)]
pub(crate) fn key(conn: Shared, protocol: u8) -> CellKey {
    let path = u8::from(conn.has(flag::INTERNAL)) * Path::Internal as u8;
    let (cgroup, port, role) = (conn.cgroup(), conn.port(), conn.plain_role());
    CellKey { cgroup, port, role, protocol, path, zero: 0, state: 0 }
}

/// Counts a connection as opened: its cgroup and port are known and it is established.
///
/// `inherited` is the cell that a listener's child has in its state already, or [`NO_CELL`]; it is checked, since the
/// daemon recycles cells.
#[inline(always)]
pub(crate) fn open(conn: Shared, inherited: u32) {
    let wanted = key(conn, Protocol::Tcp as u8);
    let index = match slots::slot(inherited) {
        // SAFETY: a pointer into the map's value; the key is written before the index is published.
        Some(cell) if unsafe { (*cell).key } == wanted => inherited,
        other => {
            if other.is_some() {
                // It may be another's by now.
                conn.set_cell(NO_CELL);
            }
            find_or_make(wanted)
        }
    };
    // The first segment may be in a note, or on another processor and faster than the birth.
    if enter(conn, index, &slot::OPENED) && conn.facts().protocol != Protocol::Tcp as u8 {
        transition(conn, Protocol::Tcp as u8);
    }
}

/// Counts a connection that is older than the programs.
#[inline(always)]
pub(crate) fn adopt(conn: Shared) {
    let index = find_or_make(key(conn, Protocol::Tcp as u8));
    enter(conn, index, &slot::ADOPTED);
}

/// Puts an established connection into its first cell, where it counts in `counter` and as active; false if
/// it is in one.
#[inline(always)]
fn enter(conn: Shared, index: u32, counter: &Counter) -> bool {
    if !conn.advance(phase::ESTABLISHED, phase::COUNTED) {
        return false;
    }
    // An inherited one stays untouched: a segment on another processor may have moved the connection on already.
    if conn.cell() == NO_CELL {
        conn.publish_cell(index);
    }
    if let Some(cell) = slots::slot(index) {
        slots::add(cell, counter, 0, 1);
        slots::add(cell, &slot::ACTIVE, 0, 1);
    }
    true
}

/// Moves a counted connection to the cell of the protocol that its bytes have told. What is found in one step and has two
/// (HTTP/2, then gRPC) takes both, so that the counts do not depend on where segments end.
#[inline(always)]
pub(crate) fn transition(conn: Shared, before: u8) {
    let found = conn.facts().protocol;
    let mut next = if found == Protocol::Grpc as u8 && before == Protocol::Tcp as u8 {
        Protocol::Http2 as u8
    } else {
        found
    };
    // A loop, for what is inlined twice is verified twice.
    for _ in 0..2 {
        step(conn, next);
        if next == found {
            break;
        }
        next = found;
    }
    if conn.phase() == phase::COUNTED {
        records::identified(conn);
    }
}

/// What an adopted connection speaks is settled; it was counted in the cell `found_in` until now.
#[inline(always)]
pub(crate) fn settle(found_in: u32) {
    if let Some(cell) = slots::slot(found_in) {
        slots::add(cell, &slot::SETTLED, 0, 1);
    }
}

/// Moves an adopted connection, whose protocol has been recognised in mid-stream, from the cell that it was found in.
#[inline(always)]
pub(crate) fn recognise(conn: Shared, found_in: u32) {
    settle(found_in);
    transition(conn, Protocol::Tcp as u8);
    if let Some(cell) = slots::slot(conn.cell()) {
        slots::add(cell, &slot::RECOGNISED, 0, 1);
    }
}

#[inline(always)]
fn step(conn: Shared, protocol: u8) {
    // Not a mere look: of this and a birth on another processor one must see what the other has written.
    if !conn.is_settled_in(phase::COUNTED) {
        return;
    }
    let old = conn.cell();
    if old == NO_CELL {
        return;
    }
    let new = find_or_make(key(conn, protocol));
    if new == old {
        return;
    }
    if conn.swap_cell(old, new) != old {
        return;
    }
    if let Some(cell) = slots::slot(new) {
        slots::add(cell, &slot::ENTERED, 0, 1);
        slots::add(cell, &slot::ACTIVE, 0, 1);
    }
    if let Some(cell) = slots::slot(old) {
        slots::add(cell, &slot::LEFT, 0, 1);
        slots::add(cell, &slot::ACTIVE, 0, u64::MAX);
    }
}

/// Counts the end of a counted connection; false, which is a loss, if it is in no cell.
#[inline(always)]
pub(crate) fn close(conn: Shared, reason: Reason, now: u64) -> bool {
    let Some(cell) = slots::slot(take(conn)) else {
        lost(Loss::MisplacedEnd);
        return false;
    };
    conn.set_phase(phase::CLOSED);
    if conn.has(flag::ADOPTED) {
        leave_unsettled(conn, cell);
    }
    end(conn, cell, reason, now);
    true
}

/// An adopted connection is over; of what it has spoken nothing is expected any more.
#[inline(always)]
fn leave_unsettled(conn: Shared, cell: *mut Slot) {
    // Somebody may write another byte of the facts at the same time.
    for _ in 0..4 {
        let word = conn.facts_word();
        let facts = Facts::from_word(word);
        if facts.guessing == 0 {
            return;
        }
        if conn.swap_facts(word, Facts { guessing: 0, ..facts }) {
            slots::add(cell, &slot::SETTLED, 0, 1);
            return;
        }
    }
}

/// Takes the connection out of its cell, and says which it was; [`NO_CELL`] if it was in none.
#[inline(always)]
fn take(conn: Shared) -> u32 {
    // A move on another processor may be under way: it wins at most a few times, since protocols only advance.
    for _ in 0..4 {
        let index = conn.cell();
        if index == NO_CELL {
            break;
        }
        if conn.swap_cell(index, NO_CELL) == index {
            return index;
        }
    }
    NO_CELL
}

#[inline(always)]
fn end(conn: Shared, cell: *mut Slot, reason: Reason, now: u64) {
    let lifetime = now.wrapping_sub(conn.born_ns());
    let bucket = masked::<LIFETIME_BUCKETS>(lifetime_bucket(lifetime).into()) as usize;
    slots::add(cell, &slot::CLOSED, reason as usize, 1);
    slots::add(cell, &slot::ACTIVE, 0, u64::MAX);
    if reason == Reason::ResetPeer {
        slots::add(cell, &slot::RESETS_RECEIVED, 0, 1);
    }
    let ends = slots::ends(cell);
    if !conn.has(flag::ADOPTED) {
        observe(cell, &slot::LIFETIME, 0, lifetime, bucket);
    } else if let Some(ends) = ends {
        observe(ends, &slot::ADOPTED_LIFETIME, 0, lifetime, bucket);
    }
    let (Some(ends), Some(side)) = (ends, reason.side()) else { return };
    let idle = idle_ns(conn, now);
    let bucket = masked::<IDLE_BUCKETS>(idle_bucket(idle).into()) as usize;
    observe(ends, &slot::IDLE, side as usize, idle, bucket);
    let cut = matches!(reason, Reason::Peer | Reason::ResetPeer | Reason::ResetLocal);
    if cut && idle >= IDLE_CLOSE_NS {
        slots::add(ends, &slot::IDLE_CLOSES, 0, 1);
    }
}

/// Adds an observation to a histogram; the bucket is within it.
#[inline(always)]
fn observe(slot: *mut Slot, histogram: &Counter, combination: usize, ns: u64, bucket: usize) {
    slots::add(slot, histogram, combination, ns);
    // SAFETY: a word of the histogram; callers mask the bucket.
    unsafe {
        atomic::add(slot.byte_add(histogram.at(combination) + 8 * (1 + bucket)).cast(), 1);
    }
}

/// Time since the last payload in either direction, or since the birth without any. The payload's clock is coarse: it may be
/// ahead of a reading by less than a tick, and behind the birth, which only payload of an adopted connection can be.
#[inline(always)]
fn idle_ns(conn: Shared, now: u64) -> u64 {
    let (payload, born) = (conn.payload_ns(), conn.born_ns());
    let from = if payload < born && !conn.has(flag::ADOPTED) { born } else { payload };
    now.saturating_sub(from)
}
