//! Finds and makes slots: the cell of a combination, and the slots under it.
//!
//! How full the table is, and how much of it a cgroup has, is known where a slot is made: both are words that are changed by
//! atomic instructions here. When the table is nearly full, and from [`CELLS_PER_CGROUP`] cells of a cgroup on, ports
//! are no longer told apart.

use core::{mem::offset_of, ptr};

use aya_ebpf::bindings::BPF_NOEXIST;
use observer_common::{
    counters::Counter,
    wire::{
        loss::Loss,
        slot::{CELLS_PER_CGROUP, CellKey, OVERFLOW_CELLS, Slot, is_nearly_full, overflow_cell},
    },
};

use super::losses::lost;
use crate::{
    maps::{BUDGETS, FREE, INDEX, SLOTS, TABLE, TABLE_CAPACITY, TABLE_USED},
    memory::atomic,
};

/// The slot with this index.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<*mut Slot> {
    SLOTS.get_ptr_mut(index)
}

/// Adds to a counter of a slot that holds its block.
#[inline(always)]
pub(crate) fn add(slot: *mut Slot, counter: &Counter, combination: usize, value: u64) {
    // SAFETY: the counter lies within the slot, as its table asserts; the combination is masked.
    unsafe { atomic::add(slot.byte_add(counter.at(combination)).cast(), value) }
}

/// The index of the cell of a key; made if it does not exist, the overflow cell if that fails.
#[inline(always)]
pub(crate) fn find_or_make(mut key: CellKey) -> u32 {
    if let Some(index) = find(&key) {
        return index;
    }
    if key.port != 0 && !(is_roomy() && charge(key.cgroup)) {
        key.port = 0;
        if let Some(index) = find(&key) {
            return index;
        }
    }
    make(&key)
}

#[inline(always)]
fn find(key: &CellKey) -> Option<u32> {
    // SAFETY: the value is copied out at once; a freed slot is reused only after a time in which no program runs on.
    unsafe { INDEX.get(key) }.copied()
}

#[inline(always)]
fn make(key: &CellKey) -> u32 {
    let overflow = overflow_cell(key.role, key.protocol);
    let Some((index, slot)) = take() else {
        discharge(key);
        return overflow;
    };
    // SAFETY: a taken slot is ours alone until it is published below.
    unsafe { (*slot).key = *key };
    if INDEX.insert(key, index, u64::from(BPF_NOEXIST)).is_ok() {
        return index;
    }
    // Another processor published the same key first, or the table refused: give the slot back.
    // SAFETY: still ours.
    unsafe { (*slot).key = CellKey::default() };
    give_back(index);
    discharge(key);
    if let Some(index) = find(key) {
        return index;
    }
    lost(Loss::TableFull);
    overflow
}

/// The slot for ends under a cell, made if there is none.
#[inline(always)]
pub(crate) fn ends(cell: *mut Slot) -> Option<*mut Slot> {
    under(cell, offset_of!(Slot, ends), OVERFLOW_CELLS)
}

/// The slot of its protocol under a cell, made if there is none.
#[inline(always)]
pub(crate) fn protocol(cell: *mut Slot) -> Option<*mut Slot> {
    under(cell, offset_of!(Slot, protocol), 2 * OVERFLOW_CELLS)
}

/// The slot of its protocol under a cell, if there is one.
#[inline(always)]
pub(crate) fn existing_protocol(cell: *mut Slot) -> Option<*mut Slot> {
    // SAFETY: an aligned word of a map value.
    match unsafe { ptr::read_volatile(&raw const (*cell).protocol) } {
        0 => None,
        index => slot(index),
    }
}

/// The slot that the word at `link` of a cell names; the one of the overflow cell's if none can be made.
#[inline(always)]
fn under(cell: *mut Slot, link: usize, overflows: u32) -> Option<*mut Slot> {
    // SAFETY: a word within the slot.
    let link: *mut u32 = unsafe { cell.byte_add(link).cast() };
    // SAFETY: an aligned word of a map value.
    let linked = unsafe { ptr::read_volatile(link) };
    if linked != 0 {
        return slot(linked);
    }
    let Some((index, _)) = take() else {
        // SAFETY: the key is written before the cell is published.
        let key = unsafe { (*cell).key };
        return slot(overflows + overflow_cell(key.role, key.protocol));
    };
    // SAFETY: an aligned word of a map value.
    let before = unsafe { atomic::compare_and_swap(link, 0, index) };
    if before == 0 {
        return slot(index);
    }
    give_back(index);
    slot(before)
}

/// Takes a free slot, which is all zeroes. That there is none is a loss.
#[inline(always)]
fn take() -> Option<(u32, *mut Slot)> {
    let taken = match FREE.pop() {
        Ok(Some(index)) => slot(index).map(|slot| (index, slot)),
        _ => None,
    };
    if taken.is_none() {
        lost(Loss::TableFull);
    } else if let Some(used) = TABLE.get_ptr_mut(TABLE_USED) {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(used, 1) };
    }
    taken
}

#[inline(always)]
fn give_back(index: u32) {
    let _ = FREE.push(index, 0);
    if let Some(used) = TABLE.get_ptr_mut(TABLE_USED) {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(used, u64::MAX) };
    }
}

/// Whether the table is not nearly full.
#[inline(always)]
fn is_roomy() -> bool {
    let word = |index| TABLE.get(index).map_or(0, |word| *word);
    !is_nearly_full(word(TABLE_USED), word(TABLE_CAPACITY))
}

/// Charges a cgroup for one more cell; false if it has as many as it may have.
#[inline(always)]
fn charge(cgroup: u64) -> bool {
    let Some(cells) = budget(cgroup) else { return false };
    // SAFETY: an aligned word of a map value.
    if unsafe { atomic::fetch_add(cells, 1) } < u64::from(CELLS_PER_CGROUP) {
        return true;
    }
    // SAFETY: as above.
    unsafe { atomic::add(cells, u64::MAX) };
    false
}

/// Takes back what [`charge`] has charged for a cell that was not made.
#[inline(always)]
fn discharge(key: &CellKey) {
    if key.port != 0
        && let Some(cells) = BUDGETS.get_ptr_mut(key.cgroup)
    {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(cells, u64::MAX) };
    }
}

#[inline(always)]
fn budget(cgroup: u64) -> Option<*mut u64> {
    let known = BUDGETS.get_ptr_mut(cgroup);
    if known.is_some() {
        return known;
    }
    // Another processor may be faster: then it is there as well.
    let _ = BUDGETS.insert(cgroup, 0, u64::from(BPF_NOEXIST));
    BUDGETS.get_ptr_mut(cgroup)
}
