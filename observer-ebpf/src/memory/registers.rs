//! Single instructions on registers, which LLVM must not fold into others and the verifier must see.

use core::arch::asm;

/// `number`, which is below `LIMIT`, a power of two, so that the verifier sees it: LLVM would drop a mask that changes nothing.
#[inline(always)]
pub(crate) fn masked<const LIMIT: usize>(mut number: u64) -> u64 {
    // SAFETY: one instruction on a register.
    unsafe { asm!("{0} &= {1}", inout(reg) number, const LIMIT - 1) };
    number
}

/// The same number, without what LLVM knows of where it comes from.
#[inline(always)]
pub(crate) fn hidden(mut number: u64) -> u64 {
    // SAFETY: a register is copied to itself. (Without an instruction, two line records would share one.)
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number
}

/// Two words, whatever they are aligned to: for an unaligned read LLVM would emit a load for each byte.
///
/// # Safety
/// 16 bytes at `start + offset` can be read.
#[inline(always)]
pub(crate) unsafe fn two_words(start: *const u8, offset: u64) -> [u64; 2] {
    let (low, high): (u64, u64);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{low} = *(u64 *)({at} + 0)",
            "{high} = *(u64 *)({at} + 8)",
            at = in(reg) start.add(offset as usize),
            low = out(reg) low,
            high = lateout(reg) high,
        );
    }
    [low, high]
}

/// The four bytes at `start + offset`, whatever they are aligned to: for an unaligned read LLVM would emit a load for each byte.
///
/// # Safety
/// Four bytes at `start + offset` can be read.
#[inline(always)]
pub(crate) unsafe fn word(start: usize, offset: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{word} = *(u32 *)({at} + 0)", at = in(reg) start + offset, word = out(reg) word);
    }
    word as u32
}
