//! The atomic instructions: one processor runs at a time, and may give way before each of them.

use aya_ebpf::host::point;
use observer_common::stream::CLAIMED;

use crate::fault::{self, Fault};

/// As the kernel programs' own.
///
/// # Safety
/// `counter` points into a map value and is aligned.
pub(crate) unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { *counter = (*counter).wrapping_add(value) }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn or(word: *mut u32, bits: u32) {
    // SAFETY: the caller's promise.
    unsafe { *word |= bits }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn xor(word: *mut u32, bits: u32) {
    // SAFETY: the caller's promise.
    unsafe { *word ^= bits }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn compare_and_swap(word: *mut u32, old: u32, new: u32) -> u32 {
    point();
    // SAFETY: the caller's promise.
    unsafe {
        let seen = *word;
        if seen == old {
            *word = new;
        }
        seen
    }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    point();
    // SAFETY: the caller's promise.
    unsafe {
        let seen = *word;
        *word = seen.wrapping_add(value);
        seen
    }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn compare_and_swap_long(word: *mut u64, old: u64, new: u64) -> u64 {
    point();
    // SAFETY: the caller's promise.
    unsafe {
        let seen = *word;
        if fault::is(Fault::BlindRelease) && (old, new) == (CLAIMED, 0) {
            *word = seen & !CLAIMED;
            return old;
        }
        if fault::is(Fault::SharedClaim) && (old, new) == (0, CLAIMED) && seen == CLAIMED {
            return old;
        }
        if seen == old {
            *word = new;
        }
        seen
    }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn exchange(word: *mut u32, new: u32) -> u32 {
    point();
    // SAFETY: the caller's promise.
    unsafe { word.replace(new) }
}

/// As the kernel programs' own.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn and(word: *mut u64, mask: u64) {
    point();
    // SAFETY: the caller's promise.
    unsafe { *word &= mask }
}
