//! The kernel's tick.

use aya_ebpf::helpers::generated::bpf_jiffies64;

/// The lower half of `jiffies`: a word that the verifier reads in place of a call (kernel 5.6). The coarse clock advances with
/// it, so that nobody need ask for the time again before it changes.
#[inline(always)]
pub(crate) fn tick() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() as u32 }
}
