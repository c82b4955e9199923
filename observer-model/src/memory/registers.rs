//! What the kernel programs do by single instructions for the verifier's sake.

/// `number`, which is below `LIMIT`, a power of two.
pub(crate) fn masked<const LIMIT: usize>(number: u64) -> u64 {
    number & (LIMIT as u64 - 1)
}

/// The same number.
pub(crate) fn hidden(number: u64) -> u64 {
    number
}

/// Two words, whatever they are aligned to.
///
/// # Safety
/// 16 bytes at `start + offset` can be read.
pub(crate) unsafe fn two_words(start: *const u8, offset: u64) -> [u64; 2] {
    // SAFETY: the caller's promise.
    unsafe { start.add(offset as usize).cast::<[u64; 2]>().read_unaligned() }
}

/// The four bytes at `start + offset`, whatever they are aligned to.
///
/// # Safety
/// Four bytes at `start + offset` can be read.
pub(crate) unsafe fn word(start: usize, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ((start + offset) as *const u32).read_unaligned() }
}
