//! What a segment program hands to the program it tail-calls, carried in the packet's control buffer: it is private to
//! this run, whatever interrupts it. And since the verifier knows nothing of what is read from there, a loop that keeps
//! its position in it is followed only once per iteration.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff, btf_maps::ProgramArray, macros::btf_map, programs::SkBuffContext,
};
use observer_common::stream::program::PLACES;

/// Programs by `observer_common::stream::program`.
#[btf_map]
static PARSERS: ProgramArray<PLACES> = ProgramArray::new();

/// Tail calls in one run, of the 33 that the kernel allows, after which no more parsers are called: what is left is kept, and
/// goes on at the connection's next event.
const PARSING_CALLS: u32 = 27;
/// Tail calls in one run: one less than any kernel allows.
const CALLS: u32 = 31;

/// Why a segment is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Why {
    /// It is ahead of its predecessor.
    Early = 0,
    /// It is in sequence, but others have to be read before it, or an answer has to come.
    Parked = 1,
    /// The rest of a segment in sequence that is counted already.
    Rest = 2,
    /// Somebody else works on its stream.
    Busy = 3,
    /// It completes a handshake, at the listener's hook.
    FirstPayload = 4,
}

/// Payload still to be looked at.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    /// Offset of the next byte from the IP header; in a kept segment, from the start of its block.
    pub(crate) offset: u32,
    /// Bytes from there to the segment's end.
    pub(crate) left: u32,
    /// The bytes are the client's.
    pub(crate) request: bool,
    /// Sequence number of the byte at `offset`.
    pub(crate) seq: u32,
    /// 0 for the packet at hand; else the kept segment: its index plus one.
    pub(crate) kept: u32,
}

const REQUEST: u32 = 1;
const WHY_SHIFT: u32 = 1;
const WHY_MASK: u32 = 7;
const TURN: u32 = 1 << 4;
const TURNS: u32 = 7 << 4;
const CALLS_SHIFT: u32 = 8;

#[inline(always)]
fn read(skb: *mut __sk_buff, word: usize) -> u32 {
    // SAFETY: the control buffer is a context field.
    unsafe { ptr::read_volatile((&raw const (*skb).cb).cast::<u32>().add(word)) }
}

#[inline(always)]
fn write(skb: *mut __sk_buff, word: usize, value: u32) {
    // SAFETY: the control buffer is a context field that `cgroup_skb` programs may write; the kernel restores it.
    unsafe { ptr::write_volatile((&raw mut (*skb).cb).cast::<u32>().add(word), value) }
}

/// Takes the job out of the control buffer before a look-up of another socket: there the kernel keeps what it knows of the
/// packet's route, and a bit of a sequence number would pass for that of a packet of a VRF (`inet_sdif`, `inet6_sdif`).
#[inline(always)]
pub(crate) fn clear(skb: *mut __sk_buff) {
    for word in 0..5 {
        write(skb, word, 0);
    }
}

impl Job {
    /// Leaves the job in the control buffer; none of this run's tail calls has been made.
    #[inline(always)]
    pub(crate) fn begin(&self, skb: *mut __sk_buff) {
        write(skb, 2, u32::from(self.request));
        self.put(skb);
    }

    /// Leaves the job in the control buffer, that of the same stream.
    #[inline(always)]
    pub(crate) fn put(&self, skb: *mut __sk_buff) {
        write(skb, 0, self.offset);
        write(skb, 1, self.left);
        write(skb, 3, self.seq);
        write(skb, 4, self.kept);
    }

    /// The job that is in the control buffer.
    #[inline(always)]
    pub(crate) fn take(skb: *mut __sk_buff) -> Self {
        Self {
            offset: read(skb, 0),
            left: read(skb, 1),
            request: Self::is_request(skb),
            seq: read(skb, 3),
            kept: read(skb, 4),
        }
    }

    /// Whether the job in the control buffer is the client's stream.
    #[inline(always)]
    pub(crate) fn is_request(skb: *mut __sk_buff) -> bool {
        read(skb, 2) & REQUEST != 0
    }

    /// Bytes left of the job in the control buffer. Unlike [`Self::take`] this and the next ones leave `request` alone,
    /// whose two values would double the verifier's paths in every turn of a loop.
    #[inline(always)]
    pub(crate) fn left(skb: *mut __sk_buff) -> u32 {
        read(skb, 1)
    }

    /// Offset of the job in the control buffer.
    #[inline(always)]
    pub(crate) fn offset(skb: *mut __sk_buff) -> u32 {
        read(skb, 0)
    }

    /// The kept segment of the job in the control buffer.
    #[inline(always)]
    pub(crate) fn kept(skb: *mut __sk_buff) -> u32 {
        read(skb, 4)
    }

    /// Moves the job in the control buffer `bytes` further on; there are at least as many left.
    #[inline(always)]
    pub(crate) fn advance(skb: *mut __sk_buff, bytes: u32) {
        write(skb, 0, read(skb, 0).wrapping_add(bytes));
        write(skb, 1, read(skb, 1).wrapping_sub(bytes));
        write(skb, 3, read(skb, 3).wrapping_add(bytes));
    }
}

/// Says why the segment of the job is to be kept.
#[inline(always)]
pub(crate) fn because(skb: *mut __sk_buff, why: Why) {
    let word = read(skb, 2) & !(WHY_MASK << WHY_SHIFT);
    write(skb, 2, word | (why as u32) << WHY_SHIFT);
}

/// Why the segment of the job is to be kept: a [`Why`].
#[inline(always)]
pub(crate) fn why(skb: *mut __sk_buff) -> u32 {
    read(skb, 2) >> WHY_SHIFT & WHY_MASK
}

/// Makes the other stream the one that the next program works on; false if this run has done so often enough, for holes in both
/// streams would otherwise send it to and fro.
#[inline(always)]
pub(crate) fn turn(skb: *mut __sk_buff) -> bool {
    let word = read(skb, 2);
    if word & TURNS == TURNS {
        return false;
    }
    write(skb, 2, word.wrapping_add(TURN) ^ REQUEST);
    true
}

/// Whether one more parser may be called in this run.
#[inline(always)]
pub(crate) fn may_parse(skb: *mut __sk_buff) -> bool {
    read(skb, 2) >> CALLS_SHIFT < PARSING_CALLS
}

/// Goes on in the program at `place`; returns only if that cannot be.
#[inline(always)]
pub(crate) fn call(ctx: &SkBuffContext, place: u32) {
    let skb = ctx.skb.skb;
    let word = read(skb, 2);
    if word >> CALLS_SHIFT < CALLS {
        write(skb, 2, word.wrapping_add(1 << CALLS_SHIFT));
        // SAFETY: the callee is a `cgroup_skb` program with the same context.
        unsafe { PARSERS.tail_call(ctx, place) };
    }
}
