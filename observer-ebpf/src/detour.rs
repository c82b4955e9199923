//! Another build of the same programs, for the tests of updates: its code is other, what it counts is the same.

use core::ptr;

/// 1 if segments are read by parsers that are tail-called alone. Set before loading.
#[unsafe(no_mangle)]
static DETOUR: u8 = 0;

/// Whether this is the other build. The verifier knows the answer, and removes what it rules out.
#[inline(always)]
pub(crate) fn detour() -> bool {
    // SAFETY: initialised, and never written once the programs are loaded.
    unsafe { ptr::read_volatile(&raw const DETOUR) != 0 }
}
