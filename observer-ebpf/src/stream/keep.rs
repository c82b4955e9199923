//! Keeps a segment until its turn.
//!
//! - Hook: none of its own; tail-called by the segment programs and the parsers.
//! - Context: the caller's. The stream is claimed, unless the segment is to be handed over.
//! - Minimum kernel: as `hooks/segment.rs`.
//! - Writes: an entry, and a block with the bytes unless nobody need read them.
//! - Misses: segments for which there is no room. They are counted as `gap` if their bytes had to be read, and their length
//!   once TCP has taken them.
//! - Costs: a copy of the segment.

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie, macros::cgroup_skb, programs::SkBuffContext,
};
use observer_common::{
    stream::{flag, program},
    wire::kept::{COUNTED, Kept, LARGE_BYTES},
};

use super::{
    claim::{Claimed, hand_over},
    job::{self, Job, Why},
    kept, note, order,
};

const PASS: i32 = 1;

/// See the module.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn keep_segment(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let why = job::why(skb);
    kept::reclaim();
    let unread = why == Why::Early as u32 && needs_no_bytes(&ctx);
    if why <= Why::Rest as u32 && lengthen(&ctx, why, unread) {
        return PASS;
    }
    let left = Job::left(skb);
    let Some(room) = room(&ctx, why, unread) else {
        return without_room(&ctx, why, left);
    };
    if why == Why::FirstPayload as u32 {
        note::put(room.index, room.entry);
        return go_on(&ctx, room.bytes, None);
    }
    let Some(conn) = order::state(&ctx) else { return PASS };
    let request = Job::is_request(skb);
    if why == Why::Busy as u32 {
        match hand_over(conn, request, room.index, room.entry) {
            Ok(Some(claimed)) => {
                job::because(skb, Why::Early);
                return go_on(&ctx, room.bytes, Some(claimed));
            }
            Ok(None) => return go_on(&ctx, room.bytes, None),
            Err(()) => kept::free(room.index),
        }
        return PASS;
    }
    let mut claimed = Claimed::held(conn, request);
    if !kept::push(&mut claimed, room.index, room.entry) {
        kept::free(room.index);
        return without_room(&ctx, why, left);
    }
    if why == Why::Parked as u32 {
        claimed.accept(room.bytes);
    }
    if why != Why::Early as u32 {
        claimed.parser().flags |= flag::PARKED;
    }
    go_on(&ctx, room.bytes, Some(claimed))
}

/// So many bytes of the job are kept: goes on with the rest of it, or with what is due of the stream if that is claimed.
#[inline(always)]
fn go_on(ctx: &SkBuffContext, bytes: u32, claimed: Option<Claimed>) -> i32 {
    let skb = ctx.skb.skb;
    if Job::left(skb) > bytes {
        Job::advance(skb, bytes);
        job::call(ctx, program::KEEP);
    }
    if let Some(claimed) = claimed {
        job::call(ctx, program::DRAIN);
        claimed.abandon();
    }
    PASS
}

/// What is left of the job cannot be kept.
#[inline(always)]
fn without_room(ctx: &SkBuffContext, why: u32, left: u32) -> i32 {
    if why >= Why::Busy as u32 {
        return PASS;
    }
    let Some(conn) = order::state(ctx) else { return PASS };
    let mut claimed = Claimed::held(conn, Job::is_request(ctx.skb.skb));
    if why == Why::Parked as u32 {
        claimed.accept(left);
    }
    if why != Why::Early as u32 {
        // Behind bytes that wait to be read the parser is not where these are.
        let parked = claimed.parser().flags & flag::PARKED != 0;
        if parked || !claimed.parser().skip_unread(u64::from(left)) {
            order::desync(&mut claimed);
        }
    }
    job::call(ctx, program::DRAIN);
    claimed.abandon();
    PASS
}

/// An entry that nobody knows of yet.
struct Room {
    index: u32,
    entry: *mut Kept,
    /// Bytes of the job that it stands for.
    bytes: u32,
}

/// An entry for the segment of the job, with its bytes, or as many of them as a block holds.
#[inline(always)]
fn room(ctx: &SkBuffContext, why: u32, unread: bool) -> Option<Room> {
    let skb = ctx.skb.skb;
    let left = Job::left(skb);
    if left == 0 {
        return None;
    }
    let (index, entry) = kept::take()?;
    let mut bytes = left;
    // SAFETY: the entry is in no list yet.
    unsafe { (*entry).block = 0 };
    if !unread {
        if bytes > LARGE_BYTES as u32 {
            bytes = LARGE_BYTES as u32;
        }
        let Some(block) = kept::copy(skb, bytes) else {
            kept::free(index);
            return None;
        };
        // SAFETY: as above.
        unsafe { (*entry).block = block };
    }
    // SAFETY: as above; the packet's socket has a cookie.
    unsafe {
        (*entry).seq = Job::take(skb).seq;
        (*entry).len = bytes;
        (*entry).from = 0;
        (*entry).flags = flags(why);
        (*entry).cookie = bpf_get_socket_cookie(skb.cast());
    }
    Some(Room { index, entry, bytes })
}

/// Whether nobody need read the bytes of a segment that came early.
#[inline(always)]
fn needs_no_bytes(ctx: &SkBuffContext) -> bool {
    let Some(conn) = order::state(ctx) else { return false };
    let skb = ctx.skb.skb;
    let mut claimed = Claimed::held(conn, Job::is_request(skb));
    let job = Job::take(skb);
    let ahead = job.seq.wrapping_sub(claimed.next_seq());
    // Behind bytes that wait to be read the parser is not where the next segment begins.
    claimed.parser().flags & flag::PARKED == 0
        && claimed.parser().needs_none_of(u64::from(ahead) + u64::from(job.left))
}

/// What an entry is marked with: that its bytes are counted.
#[inline(always)]
fn flags(why: u32) -> u32 {
    if why == Why::Parked as u32 || why == Why::Rest as u32 { COUNTED } else { 0 }
}

/// Adds a segment to the one that was kept last, if it follows that: behind a gap come as many as fit into the window.
#[inline(always)]
fn lengthen(ctx: &SkBuffContext, why: u32, unread: bool) -> bool {
    let Some(conn) = order::state(ctx) else { return false };
    let job = Job::take(ctx.skb.skb);
    let mut claimed = Claimed::held(conn, job.request);
    let Some(entry) = kept::entry(claimed.kept()) else { return false };
    // SAFETY: an entry of a list that the claim makes exclusive.
    let (end, same, empty) = unsafe {
        ((*entry).seq.wrapping_add((*entry).len), (*entry).flags == flags(why), (*entry).block == 0)
    };
    if !same || end != job.seq || empty != unread || !(unread || kept::append(ctx.skb.skb, entry)) {
        return false;
    }
    // SAFETY: as above.
    unsafe { (*entry).len += job.left };
    if why == Why::Parked as u32 {
        claimed.accept(job.left);
    }
    job::call(ctx, program::DRAIN);
    claimed.abandon();
    true
}
