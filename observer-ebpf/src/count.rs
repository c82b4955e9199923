//! The books: which cell a connection is counted in, and the moves between cells.
//!
//! Every function here keeps the invariants of `observer_common::cell`: a connection is opened once, closed once, and
//! is active in exactly one cell in between, whatever programs run at the same time on other processors. The word that
//! decides is `Conn::cell`, changed by compare-and-swap: who wins updates the counters.

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use observer_common::{
    cell::{Cell, CellKey, lifetime_bucket, overflow_cell},
    conn::{Conn, NO_CELL, kind},
    loss::Loss,
    protocol::{Protocol, REASONS},
};

use crate::{
    atomic,
    maps::{CELLS, FREE, INDEX, LOSS},
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
/// `cached` may name the cell to use; it is checked, since the daemon recycles cells.
#[inline(always)]
pub(crate) fn open(conn: &mut Conn, cached: u32) {
    let wanted = key(conn, Protocol::Tcp as u8);
    let index = match cell(cached) {
        // SAFETY: a pointer into the map's value; the key is written before the index is published.
        Some(cell) if unsafe { (*cell).key } == wanted => cached,
        _ => cell_index(conn, Protocol::Tcp as u8),
    };
    conn.kind = kind::COUNTED;
    // SAFETY: storage of a live socket.
    unsafe { ptr::write_volatile(&raw mut conn.cell, index) };
    if let Some(cell) = cell(index) {
        // SAFETY: counters in a map value.
        unsafe {
            atomic::add(&raw mut (*cell).opened, 1);
            atomic::add(&raw mut (*cell).active, 1);
        }
    }
}

/// Moves a counted connection to the cell of the protocol its flow has found.
#[inline(always)]
pub(crate) fn transition(conn: &mut Conn) {
    // SAFETY: storage of a live socket.
    let old = unsafe { ptr::read_volatile(&raw const conn.cell) };
    if conn.kind != kind::COUNTED || old == NO_CELL {
        return;
    }
    let new = cell_index(conn, conn.flow.protocol);
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

/// Counts the end of a counted connection; false if somebody else did.
#[inline(always)]
pub(crate) fn close(conn: &mut Conn, reason: u8, lifetime_ns: u64) -> bool {
    // A move on another processor may be under way: it wins at most a few times, since protocols only advance.
    for _ in 0..4 {
        // SAFETY: storage of a live socket.
        let index = unsafe { ptr::read_volatile(&raw const conn.cell) };
        if index == NO_CELL {
            return false;
        }
        // SAFETY: an aligned word of the storage.
        if unsafe { atomic::compare_and_swap(&raw mut conn.cell, index, NO_CELL) } != index {
            continue;
        }
        conn.kind = kind::CLOSED;
        if let Some(cell) = cell(index) {
            let bucket = lifetime_bucket(lifetime_ns) as usize & 31;
            // SAFETY: counters in a map value; both indexes are masked.
            unsafe {
                atomic::add(&raw mut (*cell).closed[reason as usize & (REASONS - 1)], 1);
                atomic::add(&raw mut (*cell).active, u64::MAX);
                atomic::add(&raw mut (*cell).lifetime_sum_ns, lifetime_ns);
                atomic::add(&raw mut (*cell).lifetime[bucket], 1);
            }
        }
        return true;
    }
    false
}

/// Adds to the WebSocket counters of the connection's cell.
#[inline(always)]
pub(crate) fn frames(conn: &Conn, direction: usize, messages: u64, errors: u64) {
    // SAFETY: storage of a live socket.
    let index = unsafe { ptr::read_volatile(&raw const conn.cell) };
    if let Some(cell) = cell(index) {
        // SAFETY: counters in a map value; the index is masked.
        unsafe {
            if messages != 0 {
                atomic::add(&raw mut (*cell).messages[direction & 1], messages);
            }
            if errors != 0 {
                atomic::add(&raw mut (*cell).errors, errors);
            }
        }
    }
}
