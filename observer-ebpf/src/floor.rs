//! The floor of what the programs cost: the same programs at the same hooks, doing nothing.

use core::ptr;

/// 1 if each program returns at once. Set before loading, by the bench.
#[unsafe(no_mangle)]
static EMPTY: u8 = 0;

/// Whether this program is to return at once. The verifier knows the answer, and removes what it rules out.
#[inline(always)]
pub(crate) fn empty() -> bool {
    // SAFETY: initialised, and never written once the programs are loaded.
    unsafe { ptr::read_volatile(&raw const EMPTY) != 0 }
}
