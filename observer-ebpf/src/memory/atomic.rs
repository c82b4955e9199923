//! BPF's atomic instructions (kernel 5.12 for those with a result; `core::sync::atomic` has none on this target).

use core::arch::asm;

/// Adds `value` to the counter at `counter`.
///
/// # Safety
/// `counter` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: one instruction that touches the eight bytes the caller vouches for.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) counter, v = in(reg) value) }
}

/// Sets `bits` in the word at `word` (kernel 5.12).
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn or(word: *mut u32, bits: u32) {
    // SAFETY: one instruction that touches the four bytes the caller vouches for.
    unsafe {
        asm!("lock *(u32 *)({p} + 0) |= w1", p = in(reg) word, in("r1") u64::from(bits));
    }
}

/// Flips `bits` in the word at `word` (kernel 5.12).
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn xor(word: *mut u32, bits: u32) {
    // SAFETY: one instruction that touches the four bytes the caller vouches for.
    unsafe {
        asm!("lock *(u32 *)({p} + 0) ^= w1", p = in(reg) word, in("r1") u64::from(bits));
    }
}

/// Replaces `*word` by `new` if it equals `old`; returns what was there.
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn compare_and_swap(word: *mut u32, old: u32, new: u32) -> u32 {
    let seen: u64;
    // SAFETY: one instruction that touches the four bytes the caller vouches for; r0 is its implicit operand.
    unsafe {
        asm!("w0 = cmpxchg32_32({p} + 0, w0, w1)", p = in(reg) word, inout("r0") u64::from(old) => seen, in("r1") u64::from(new));
    }
    seen as u32
}

/// Adds `value` to the word at `word`; returns what was there (kernel 5.12).
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    let mut seen = value;
    // SAFETY: one instruction that touches the eight bytes the caller vouches for.
    unsafe {
        asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", p = in(reg) word, v = inout(reg) seen);
    }
    seen
}

/// As [`compare_and_swap`], of eight bytes.
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn compare_and_swap_long(word: *mut u64, old: u64, new: u64) -> u64 {
    let seen: u64;
    // SAFETY: one instruction that touches the eight bytes the caller vouches for; r0 is its implicit operand.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, r1)", p = in(reg) word, inout("r0") old => seen, in("r1") new);
    }
    seen
}

/// Replaces the word at `word` by `new`; returns what was there (kernel 5.12). A full barrier.
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u32, new: u32) -> u32 {
    let seen: u64;
    // SAFETY: one instruction that touches the four bytes the caller vouches for.
    unsafe {
        asm!("w1 = xchg32_32({p} + 0, w1)", p = in(reg) word, inout("r1") u64::from(new) => seen);
    }
    seen as u32
}

/// Clears all bits in the word at `word` but `mask` (kernel 5.12).
///
/// # Safety
/// `word` points into a map value and is aligned.
#[inline(always)]
pub(crate) unsafe fn and(word: *mut u64, mask: u64) {
    // SAFETY: one instruction that touches the eight bytes the caller vouches for.
    unsafe {
        asm!("lock *(u64 *)({p} + 0) &= {m}", p = in(reg) word, m = in(reg) mask);
    }
}
