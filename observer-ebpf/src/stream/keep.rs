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
    wire::kept::COUNTED,
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
    let room = room(&ctx, why, unread);
    if why == Why::FirstPayload as u32 {
        note::put(room.map(|(index, _)| index));
        return PASS;
    }
    let Some(conn) = order::state(&ctx) else { return PASS };
    let request = Job::is_request(skb);
    if why == Why::Busy as u32 {
        let Some((index, entry)) = room else { return PASS };
        match hand_over(conn, request, index, entry) {
            Ok(Some(claimed)) => {
                job::call(&ctx, program::DRAIN);
                claimed.abandon();
            }
            Ok(None) => {}
            Err(()) => kept::free(index),
        }
        return PASS;
    }
    let mut claimed = Claimed::held(conn, request);
    let left = Job::left(skb);
    if why == Why::Parked as u32 {
        claimed.accept(left);
    }
    let pushed = match room {
        Some((index, entry)) => {
            let pushed = kept::push(&mut claimed, index, entry);
            if !pushed {
                kept::free(index);
            }
            pushed
        }
        None => false,
    };
    if why != Why::Early as u32 {
        if pushed {
            claimed.parser().flags |= flag::PARKED;
        } else if !claimed.parser().skip_unread(u64::from(left)) {
            order::desync(&mut claimed);
        }
    }
    job::call(&ctx, program::DRAIN);
    claimed.abandon();
    PASS
}

/// An entry for the segment of the job, with its bytes.
#[inline(always)]
fn room(
    ctx: &SkBuffContext,
    why: u32,
    unread: bool,
) -> Option<(u32, *mut observer_common::wire::kept::Kept)> {
    let skb = ctx.skb.skb;
    let left = Job::left(skb);
    if left == 0 {
        return None;
    }
    let (index, entry) = kept::take()?;
    // SAFETY: the entry is in no list yet.
    unsafe { (*entry).block = 0 };
    if !unread {
        let Some(block) = kept::copy(skb) else {
            kept::free(index);
            return None;
        };
        // SAFETY: as above.
        unsafe { (*entry).block = block };
    }
    // SAFETY: as above; the packet's socket has a cookie.
    unsafe {
        (*entry).seq = Job::take(skb).seq;
        (*entry).len = left;
        (*entry).from = 0;
        (*entry).flags = flags(why);
        (*entry).cookie = bpf_get_socket_cookie(skb.cast());
    }
    Some((index, entry))
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
