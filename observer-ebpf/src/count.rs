//! The books: which cell a connection is counted in, and the moves between cells.
//!
//! Every function here keeps the invariants of `observer_common::cell`: a connection is opened once, closed once, and
//! is active in exactly one cell in between, whatever programs run at the same time on other processors. The word that
//! decides is `Conn::cell`, and before it is in any cell `Conn::kind`, changed by compare-and-swap: who wins updates the
//! counters.

use core::{mem::offset_of, ptr};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_smp_processor_id};
use observer_common::{
    cell::{
        Cell, CellKey, IDLE_BUCKETS, IDLE_CLOSE_NS, LIFETIME_BUCKETS, RTT_BUCKETS, SHARES, Traffic,
        idle_bucket, lifetime_bucket, overflow_cell, rtt_bucket,
    },
    conn::{Conn, NO_CELL, flag, kind},
    loss::Loss,
    protocol::{Protocol, REASONS, Reason},
};

use crate::{
    atomic,
    maps::{CELLS, FREE, INDEX, LOSS, TIGHT},
    record,
};

/// Counts a loss.
#[inline(always)]
pub(crate) fn lost(loss: Loss) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: a pointer into the map's value, aligned by its type.
        unsafe { atomic::add(counter, 1) }
    }
}

/// The cell with this index.
#[inline(always)]
pub(crate) fn cell(index: u32) -> Option<*mut Cell> {
    CELLS.get_ptr_mut(index)
}

#[inline(always)]
fn key(conn: &Conn, protocol: u8) -> CellKey {
    CellKey { cgroup: conn.cgroup, port: conn.port, role: conn.role, protocol, zero: 0 }
}

/// The index of the cell for `conn` speaking `protocol`; made if it does not exist, the overflow cell if that fails.
#[inline(always)]
pub(crate) fn cell_index(conn: &Conn, protocol: u8) -> u32 {
    let key = key(conn, protocol);
    // SAFETY: the value is copied out at once; a stale index is caught by nobody reusing a cell that is not idle.
    if let Some(index) = unsafe { INDEX.get(key) } {
        return *index;
    }
    let tight = TIGHT.get(0).is_some_and(|tight| *tight != 0);
    if !tight || key.port == 0 {
        return new_cell(&key);
    }
    let key = CellKey { port: 0, ..key };
    // SAFETY: as above.
    if let Some(index) = unsafe { INDEX.get(key) } {
        return *index;
    }
    new_cell(&key)
}

#[inline(always)]
fn new_cell(key: &CellKey) -> u32 {
    let overflow = overflow_cell(key.role, key.protocol);
    let Ok(Some(index)) = FREE.pop() else {
        lost(Loss::TableFull);
        return overflow;
    };
    let Some(cell) = cell(index) else {
        lost(Loss::TableFull);
        return overflow;
    };
    // SAFETY: a popped index is ours alone until it is published below.
    unsafe { (*cell).key = *key };
    if INDEX.insert(key, index, u64::from(BPF_NOEXIST)).is_ok() {
        return index;
    }
    // Another processor published the same key first, or the table refused: give the index back.
    // SAFETY: still ours.
    unsafe { (*cell).key = CellKey::default() };
    let _ = FREE.push(index, 0);
    // SAFETY: copied out at once.
    if let Some(index) = unsafe { INDEX.get(key) } {
        return *index;
    }
    lost(Loss::TableFull);
    overflow
}

/// Counts a connection as opened: its cgroup and port are known and it is established.
///
/// `inherited` is the cell that a listener's child has in its state already, or [`NO_CELL`]; it is checked, since the
/// daemon recycles cells.
#[inline(always)]
pub(crate) fn open(conn: &mut Conn, inherited: u32) {
    let wanted = key(conn, Protocol::Tcp as u8);
    let index = match cell(inherited) {
        // SAFETY: a pointer into the map's value; the key is written before the index is published.
        Some(cell) if unsafe { (*cell).key } == wanted => inherited,
        other => {
            if other.is_some() {
                // It may be another's by now.
                conn.cell = NO_CELL;
            }
            cell_index(conn, Protocol::Tcp as u8)
        }
    };
    // The first segment may be in a note, or on another processor and faster than the birth.
    if enter(conn, index, offset_of!(Cell, opened)) && conn.flow.protocol != Protocol::Tcp as u8 {
        transition(conn, Protocol::Tcp as u8);
    }
}

/// Counts a connection that is older than the programs.
#[inline(always)]
pub(crate) fn adopt(conn: &mut Conn) {
    let index = cell_index(conn, Protocol::Tcp as u8);
    enter(conn, index, offset_of!(Cell, adopted));
}

/// Changes the kind of a connection; false if it was another, or if another processor was first.
#[inline(always)]
pub(crate) fn advance(conn: &mut Conn, from: u32, to: u32) -> bool {
    // SAFETY: an aligned word of the storage.
    unsafe { atomic::compare_and_swap(&raw mut conn.kind, from, to) == from }
}

/// Puts an established connection into its first cell, where it counts in the word at `counter` and as active; false if
/// it is in one.
#[inline(always)]
fn enter(conn: &mut Conn, index: u32, counter: usize) -> bool {
    if !advance(conn, kind::ESTABLISHED, kind::COUNTED) {
        return false;
    }
    // An inherited one stays untouched: a segment on another processor may have moved the connection on already.
    if conn.cell == NO_CELL {
        // SAFETY: storage of a live socket.
        unsafe { ptr::write_volatile(&raw mut conn.cell, index) };
    }
    if let Some(cell) = cell(index) {
        // SAFETY: counters in a map value.
        unsafe {
            atomic::add(cell.byte_add(counter).cast(), 1);
            atomic::add(&raw mut (*cell).active, 1);
        }
    }
    true
}

/// Moves a counted connection to the cell of the protocol its flow has found. What is found in one step and has two
/// (HTTP/2, then gRPC) takes both, so that the counts do not depend on where segments end.
#[inline(always)]
pub(crate) fn transition(conn: &mut Conn, before: u8) {
    let found = conn.flow.protocol;
    if found == Protocol::Grpc as u8 && before == Protocol::Tcp as u8 {
        step(conn, Protocol::Http2 as u8);
    }
    step(conn, found);
    if conn.kind == kind::COUNTED {
        record::identified(conn);
    }
}

#[inline(always)]
fn step(conn: &mut Conn, protocol: u8) {
    // Not a mere look: of this and a birth on another processor one must see what the other has written.
    if !advance(conn, kind::COUNTED, kind::COUNTED) {
        return;
    }
    // SAFETY: storage of a live socket.
    let old = unsafe { ptr::read_volatile(&raw const conn.cell) };
    if old == NO_CELL {
        return;
    }
    let new = cell_index(conn, protocol);
    if new == old {
        return;
    }
    // SAFETY: an aligned word of the storage.
    if unsafe { atomic::compare_and_swap(&raw mut conn.cell, old, new) } != old {
        return;
    }
    if let Some(cell) = cell(new) {
        // SAFETY: counters in a map value.
        unsafe {
            atomic::add(&raw mut (*cell).entered, 1);
            atomic::add(&raw mut (*cell).active, 1);
        }
    }
    if let Some(cell) = cell(old) {
        // SAFETY: counters in a map value.
        unsafe {
            atomic::add(&raw mut (*cell).left, 1);
            atomic::add(&raw mut (*cell).active, u64::MAX);
        }
    }
}

/// Counts the end of a counted connection; false, which is a loss, if it is in no cell.
#[inline(always)]
pub(crate) fn close(conn: &mut Conn, reason: Reason, now: u64) -> bool {
    let Some(cell) = cell(take(conn)) else {
        lost(Loss::MisplacedEnd);
        return false;
    };
    conn.kind = kind::CLOSED;
    end(conn, cell, reason, now);
    true
}

/// Takes the connection out of its cell, and says which it was; [`NO_CELL`] if it was in none.
#[inline(always)]
fn take(conn: &mut Conn) -> u32 {
    // A move on another processor may be under way: it wins at most a few times, since protocols only advance.
    for _ in 0..4 {
        // SAFETY: storage of a live socket.
        let index = unsafe { ptr::read_volatile(&raw const conn.cell) };
        if index == NO_CELL {
            break;
        }
        // SAFETY: an aligned word of the storage.
        if unsafe { atomic::compare_and_swap(&raw mut conn.cell, index, NO_CELL) } == index {
            return index;
        }
    }
    NO_CELL
}

#[inline(always)]
fn end(conn: &Conn, cell: *mut Cell, reason: Reason, now: u64) {
    let lifetime = now.wrapping_sub(conn.born_ns);
    let bucket = lifetime_bucket(lifetime) as usize & (LIFETIME_BUCKETS - 1);
    let idle = idle_ns(conn, now);
    let silence = idle_bucket(idle) as usize & (IDLE_BUCKETS - 1);
    let reason_slot = reason as usize & (REASONS - 1);
    let cut = matches!(reason, Reason::Peer | Reason::ResetPeer | Reason::ResetLocal);
    let adopted = conn.flags & flag::ADOPTED != 0;
    let (sum, buckets) = if adopted {
        (offset_of!(Cell, adopted_lifetime_sum_ns), offset_of!(Cell, adopted_lifetime))
    } else {
        (offset_of!(Cell, lifetime_sum_ns), offset_of!(Cell, lifetime))
    };
    // SAFETY: counters in a map value; all indexes are masked.
    unsafe {
        atomic::add(&raw mut (*cell).closed[reason_slot], 1);
        atomic::add(&raw mut (*cell).active, u64::MAX);
        atomic::add(cell.byte_add(sum).cast(), lifetime);
        atomic::add(cell.byte_add(buckets + 8 * bucket).cast(), 1);
        atomic::add(&raw mut (*cell).idle_sum_ns[reason_slot], idle);
        atomic::add(&raw mut (*cell).idle[reason_slot][silence], 1);
        if cut && idle >= IDLE_CLOSE_NS {
            atomic::add(&raw mut (*cell).idle_closes, 1);
        }
    }
}

/// Time since the last payload in either direction, or since the birth without any. The payload's clock is coarse and
/// may be ahead of a reading by less than a tick.
#[inline(always)]
pub(crate) fn idle_ns(conn: &Conn, now: u64) -> u64 {
    let payload = conn.flow.payload_ns();
    now.saturating_sub(if payload == 0 { conn.born_ns } else { payload })
}

/// The cell of a counted connection, or the one a connecting socket would be born into.
#[inline(always)]
pub(crate) fn current(conn: &Conn) -> Option<*mut Cell> {
    // SAFETY: storage of a live socket.
    let index = unsafe { ptr::read_volatile(&raw const conn.cell) };
    if index == NO_CELL { cell(cell_index(conn, conn.flow.protocol)) } else { cell(index) }
}

/// Adds one to the word at `offset` (`offset_of!(Cell, …)`, plus 8 for each index) of the connection's cell.
#[inline(always)]
pub(crate) fn one(conn: &Conn, offset: usize) {
    if let Some(cell) = current(conn) {
        // SAFETY: callers name a counter within the cell; the verifier checks it.
        unsafe { atomic::add(cell.byte_add(offset).cast(), 1) }
    }
}

/// The cell that the connection is counted in, if it is in any.
#[inline(always)]
fn counted(conn: &Conn) -> Option<*mut Cell> {
    // SAFETY: storage of a live socket.
    cell(unsafe { ptr::read_volatile(&raw const conn.cell) })
}

/// This processor's share of the traffic of the connection's cell.
#[inline(always)]
fn traffic(conn: &Conn) -> Option<*mut Traffic> {
    let cell = counted(conn)?;
    // SAFETY: no arguments.
    let share = unsafe { bpf_get_smp_processor_id() } as usize & (SHARES - 1);
    // SAFETY: a part of the map's value; the index is masked.
    Some(unsafe { &raw mut (*cell).traffic[share] })
}

/// Adds payload bytes of the client's stream (`request`) or the server's.
#[inline(always)]
pub(crate) fn bytes(conn: &mut Conn, request: bool, bytes: u32) {
    let direction = conn.direction(request) & 1;
    conn.flow.stream_mut(request).bytes += u64::from(bytes);
    if let Some(traffic) = traffic(conn) {
        // SAFETY: a counter of a map value; the index is masked.
        unsafe { atomic::add(&raw mut (*traffic).bytes[direction], u64::from(bytes)) }
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
            // SAFETY: counters of a map value; the index is checked.
            unsafe {
                atomic::add(&raw mut (*cell).rtt_sum_ns, u64::from(us) * 1000);
                atomic::add(&raw mut (*cell).rtt[bucket], 1);
            }
        }
    }
}

/// Adds WebSocket messages of the client's stream (`request`) or the server's.
#[inline(always)]
pub(crate) fn messages(conn: &Conn, request: bool, messages: u64) {
    if let Some(traffic) = traffic(conn) {
        let direction = conn.direction(request) & 1;
        // SAFETY: a counter of a map value; the index is masked.
        unsafe { atomic::add(&raw mut (*traffic).messages[direction], messages) }
    }
}

/// Adds WebSocket protocol errors.
#[inline(always)]
pub(crate) fn errors(conn: &Conn, errors: u64) {
    if let Some(cell) = counted(conn) {
        // SAFETY: a counter of a map value.
        unsafe { atomic::add(&raw mut (*cell).errors, errors) }
    }
}
