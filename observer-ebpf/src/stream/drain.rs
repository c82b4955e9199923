//! Goes on with kept segments whose turn has come.
//!
//! - Hook: none of its own; tail-called with the stream claimed, and comes back after each kept segment that a parser reads.
//! - Context: the caller's.
//! - Minimum kernel: as `hooks/segment.rs`.
//! - Writes: the stream; counts payload. What TCP has taken and the hook has not kept is counted too, and skipped: if it had to
//!   be read, as `gap`.
//! - Misses: nothing.
//! - Costs: a walk over the kept segments of the stream, of which there are few.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_coarse_ns, macros::cgroup_skb, programs::SkBuffContext,
};
use observer_common::{
    stream::{flag, mode, order as ask, program},
    wire::{conn::RX, kept::COUNTED},
};

use super::{
    claim::{Claim, Claimed, claim},
    job::{self, Job},
    kept::{self, First},
    order, parsers,
};

const PASS: i32 = 1;
/// Kept segments that one run goes on with, if none of them has to be read.
const AT_ONCE: usize = 4;

/// Segments that were handed over which one run takes into the stream's list.
const HANDED_OVER: usize = 64;

/// What is to be done next.
enum Next {
    /// Look for another one.
    More,
    /// A parser has to read this one.
    Read,
    /// Nothing, until more comes.
    Rest,
}

/// See the module.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn drain_segments(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(conn) = order::state(&ctx) else { return PASS };
    let request = Job::is_request(skb);
    let mut claimed = Claimed::held(conn, request);
    order::obey(&mut claimed);
    // Before the inbox is taken: what TCP has taken by now was handed over before.
    let taken =
        if conn.direction(request) == RX { order::received_up_to(&ctx, conn) } else { None };
    collect(&mut claimed);
    kept::reclaim();
    for _ in 0..AT_ONCE {
        let next = if let Some(first) = kept::first(&claimed) {
            go_on(&ctx, &mut claimed, &first, taken)
        } else {
            claimed.parser().flags &= !flag::PARKED;
            catch_up(&mut claimed, taken, u32::MAX);
            Next::Rest
        };
        match next {
            Next::More => {}
            Next::Read => {
                let mode = u32::from(claimed.parser().mode);
                job::call(&ctx, kept::source_of(kept::block_of_job(skb)) + mode);
                parsers::put_back(skb, &mut claimed);
                claimed.abandon();
                return PASS;
            }
            Next::Rest => {
                rest(&ctx, claimed);
                return PASS;
            }
        }
    }
    job::call(&ctx, program::DRAIN);
    claimed.abandon();
    PASS
}

/// Takes what was handed over into the stream's list; false if something may be left.
#[inline(always)]
fn collect(claimed: &mut Claimed) -> bool {
    let Some(mut at) = claimed.take_inbox() else { return false };
    for _ in 0..HANDED_OVER {
        let Some(entry) = kept::entry(at) else { return true };
        // SAFETY: an entry of a list that is ours.
        let next = unsafe { (*entry).next };
        if !kept::push(claimed, at, entry) {
            kept::free(at);
        }
        at = next;
    }
    // More than processors can have handed over in the time of one program: let them go.
    kept::let_go_of(at);
    true
}

#[inline(always)]
fn go_on(ctx: &SkBuffContext, claimed: &mut Claimed, first: &First, taken: Option<u32>) -> Next {
    // SAFETY: an entry of a list that the claim makes exclusive.
    let (seq, len, counted) =
        unsafe { ((*first.entry).seq, (*first.entry).len, (*first.entry).flags & COUNTED != 0) };
    if counted {
        claimed.parser().flags |= flag::PARKED;
        return read(ctx, claimed, first);
    }
    claimed.parser().flags &= !flag::PARKED;
    let seen = claimed.next_seq().wrapping_sub(seq).cast_signed();
    if seen < 0 {
        let before = claimed.next_seq();
        catch_up(claimed, taken, seq);
        return if claimed.next_seq() == before { Next::Rest } else { Next::More };
    }
    let seen = seen.unsigned_abs();
    if seen >= len {
        kept::unlink(claimed, first);
        kept::free(first.index);
        return Next::More;
    }
    // SAFETY: a context-free helper.
    claimed.set_payload_ns(unsafe { bpf_ktime_get_coarse_ns() });
    claimed.accept(len - seen);
    // SAFETY: as above.
    unsafe {
        (*first.entry).seq = seq.wrapping_add(seen);
        (*first.entry).len = len - seen;
        (*first.entry).from += seen;
        (*first.entry).flags = COUNTED;
    }
    claimed.parser().flags |= flag::PARKED;
    read(ctx, claimed, first)
}

/// Hands a segment in sequence to its parser, if it has to be read, and may be by now.
#[inline(always)]
fn read(ctx: &SkBuffContext, claimed: &mut Claimed, first: &First) -> Next {
    let mode = claimed.parser().mode;
    let behind = claimed.conn().is_behind_request(claimed.is_request(), mode);
    if mode == mode::WAIT || behind {
        return Next::Rest;
    }
    // SAFETY: an entry of a list that the claim makes exclusive.
    let (seq, len, from, block) = unsafe {
        ((*first.entry).seq, (*first.entry).len, (*first.entry).from, (*first.entry).block)
    };
    if block == 0 || claimed.parser().needs_none_of(u64::from(len)) {
        if !claimed.parser().skip_unread(u64::from(len)) {
            order::desync(claimed);
        }
        kept::unlink(claimed, first);
        kept::free(first.index);
        return Next::More;
    }
    if !job::may_parse(ctx.skb.skb) {
        return Next::Rest;
    }
    kept::unlink(claimed, first);
    let job = Job { offset: from, left: len, request: false, seq, kept: first.index };
    job.put(ctx.skb.skb);
    Next::Read
}

/// Counts what TCP has taken, up to `limit`, and which is in no kept segment: there was no room for it.
#[inline(always)]
fn catch_up(claimed: &mut Claimed, taken: Option<u32>, limit: u32) {
    let Some(taken) = taken else { return };
    if claimed.parser().flags & flag::SYNCED == 0 {
        return;
    }
    let next = claimed.next_seq();
    let mut missing = taken.wrapping_sub(next).cast_signed();
    let room = limit.wrapping_sub(next).cast_signed();
    if limit != u32::MAX && room < missing {
        missing = room;
    }
    if missing <= 0 {
        return;
    }
    let missing = missing.unsigned_abs();
    claimed.accept(missing);
    if !claimed.parser().skip_unread(u64::from(missing)) {
        order::desync(claimed);
    }
}

/// Nothing can be gone on with: gives up the claim, unless something has come meanwhile.
#[inline(always)]
fn rest(ctx: &SkBuffContext, claimed: Claimed) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let claimed = match claimed.release() {
        Err(claimed) => claimed,
        // Of this and an order that was given meanwhile one must see what the other has written.
        Ok(()) if conn.asked(request) != ask::NONE && conn.has_kept(request) => {
            match claim(conn, request) {
                Claim::Alone(claimed) | Claim::WithInbox(claimed) => claimed,
                Claim::Busy => return,
            }
        }
        Ok(()) => return order::attend_other(ctx),
    };
    job::call(ctx, program::DRAIN);
    claimed.abandon();
}
