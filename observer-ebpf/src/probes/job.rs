//! What a segment program hands to the parser it tail-calls, carried in the packet's control buffer: it is private to
//! this run, whatever interrupts it. And since the verifier knows nothing of what is read from there, a loop that keeps
//! its position in it is followed only once per iteration.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff, btf_maps::ProgramArray, macros::btf_map, programs::SkBuffContext,
};
use observer_common::wire::loss::Loss;

use crate::accounting::losses::lost;

/// Parsers by `observer_common::flow::mode`.
#[btf_map]
static PARSERS: ProgramArray<8> = ProgramArray::new();

/// Payload still to be looked at.
#[derive(Clone, Copy)]
pub(super) struct Job {
    /// Offset of the next byte from the IP header; in a kept segment, from its first byte.
    pub(super) offset: u32,
    /// Bytes from there to the segment's end.
    pub(super) left: u32,
    /// The bytes are the client's.
    pub(super) request: bool,
    /// Sequence number of the byte at `offset`.
    pub(super) seq: u32,
    /// 0 for the packet at hand; 1 and up for the kept segment in place 0 and up.
    pub(super) kept: u32,
}

impl Job {
    /// Leaves the job in the control buffer.
    #[inline(always)]
    pub(super) fn put(&self, skb: *mut __sk_buff) {
        // SAFETY: the control buffer is a context field that `cgroup_skb` programs may write; the kernel restores it.
        unsafe {
            ptr::write_volatile(&raw mut (*skb).cb[0], self.offset);
            ptr::write_volatile(&raw mut (*skb).cb[1], self.left);
            ptr::write_volatile(&raw mut (*skb).cb[2], u32::from(self.request));
            ptr::write_volatile(&raw mut (*skb).cb[3], self.seq);
            ptr::write_volatile(&raw mut (*skb).cb[4], self.kept);
        }
    }

    /// The job that is in the control buffer.
    #[inline(always)]
    pub(super) fn take(skb: *mut __sk_buff) -> Self {
        // SAFETY: context fields.
        unsafe {
            Self {
                offset: ptr::read_volatile(&raw const (*skb).cb[0]),
                left: ptr::read_volatile(&raw const (*skb).cb[1]),
                request: ptr::read_volatile(&raw const (*skb).cb[2]) != 0,
                seq: ptr::read_volatile(&raw const (*skb).cb[3]),
                kept: ptr::read_volatile(&raw const (*skb).cb[4]),
            }
        }
    }

    /// Bytes left of the job in the control buffer. Unlike [`Self::take`] this and the next two leave `request` alone,
    /// whose two values would double the verifier's paths in every turn of a loop.
    #[inline(always)]
    pub(super) fn left(skb: *mut __sk_buff) -> u32 {
        // SAFETY: a context field.
        unsafe { ptr::read_volatile(&raw const (*skb).cb[1]) }
    }

    /// Offset of the job in the control buffer.
    #[inline(always)]
    pub(super) fn offset(skb: *mut __sk_buff) -> u32 {
        // SAFETY: a context field.
        unsafe { ptr::read_volatile(&raw const (*skb).cb[0]) }
    }

    /// Moves the job in the control buffer `bytes` further on; there are at least as many left.
    #[inline(always)]
    pub(super) fn advance(skb: *mut __sk_buff, bytes: u32) {
        // SAFETY: context fields, as in `put`.
        unsafe {
            ptr::write_volatile(&raw mut (*skb).cb[0], Self::offset(skb).wrapping_add(bytes));
            ptr::write_volatile(&raw mut (*skb).cb[1], Self::left(skb).wrapping_sub(bytes));
            let seq = ptr::read_volatile(&raw const (*skb).cb[3]);
            ptr::write_volatile(&raw mut (*skb).cb[3], seq.wrapping_add(bytes));
        }
    }

    /// The same job, `bytes` further on; there are at least as many left.
    #[inline(always)]
    pub(super) fn advanced(mut self, bytes: u32) -> Self {
        self.offset = self.offset.wrapping_add(bytes);
        self.seq = self.seq.wrapping_add(bytes);
        self.left = self.left.wrapping_sub(bytes);
        self
    }
}

/// Goes on in the parser at `slot`; returns only if the kernel refuses one more tail call, which is counted.
#[inline(always)]
pub(super) fn call(ctx: &SkBuffContext, slot: u8, job: &Job) {
    job.put(ctx.skb.skb);
    // SAFETY: the callee is a `cgroup_skb` program with the same context.
    unsafe { PARSERS.tail_call(ctx, u32::from(slot)) };
    lost(Loss::ParseLimit);
}
