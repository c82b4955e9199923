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
    framing::{Framing, follow},
    protocol::websocket::{Tally, WebSocket},
    stream::{flag, mode, order as ask, program},
    wire::{
        conn::RX,
        kept::{COUNTED, SMALL_BYTES},
    },
};

use super::{
    claim::{Claim, Claimed, claim},
    job::{self, Job},
    kept::{self, First, KeptBytes},
    order, parsers,
};
use crate::accounting::add::ProtocolBlock;

const PASS: i32 = 1;
/// Steps of one run: in each a kept segment is put in order, read, or let go.
const AT_ONCE: usize = 4;
/// WebSocket frames of a small kept segment that are followed in one step.
const FRAMES: usize = 8;

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
    let taken = taken(&ctx, &claimed);
    collect(&mut claimed);
    kept::reclaim();
    let mut next = Next::More;
    for _ in 0..AT_ONCE {
        next = if let Some(first) = kept::first(&claimed) {
            go_on(&ctx, &mut claimed, &first, taken)
        } else {
            claimed.parser().flags &= !flag::PARKED;
            if conn.direction(request) == RX {
                catch_up(&mut claimed, taken);
            }
            Next::Rest
        };
        if !matches!(next, Next::More) {
            break;
        }
    }
    match next {
        Next::More => job::call(&ctx, program::DRAIN),
        Next::Read => {
            let mode = u32::from(claimed.parser().mode);
            job::call(&ctx, kept::source_of(kept::block_of_job(skb)) + mode);
            parsers::put_back(skb, &mut claimed);
        }
        Next::Rest => {
            rest(&ctx, claimed);
            return PASS;
        }
    }
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
fn go_on(ctx: &SkBuffContext, claimed: &mut Claimed, first: &First, taken: u32) -> Next {
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
        catch_up(claimed, if taken.wrapping_sub(seq).cast_signed() < 0 { taken } else { seq });
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
    // Others that are counted may come before what is left of it.
    Next::More
}

/// Hands a segment in sequence to its parser, if it has to be read, and may be by now.
#[inline(always)]
fn read(ctx: &SkBuffContext, claimed: &mut Claimed, first: &First) -> Next {
    let skb = ctx.skb.skb;
    let mode = claimed.parser().mode;
    let behind = claimed.conn().is_behind_request(claimed.is_request(), mode);
    if mode == mode::WAIT || behind {
        return Next::Rest;
    }
    if claimed.conn().asked(claimed.is_request()) != ask::NONE {
        // By the request that it was behind until now.
        order::obey(claimed);
        return Next::More;
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
    let job = Job { offset: from, left: len, request: false, seq, kept: first.index };
    job.put(skb);
    if mode == mode::WEBSOCKET
        && let Some(mut bytes) = KeptBytes::<SMALL_BYTES>::of_block(skb, block)
    {
        let mut tally = Tally::default();
        follow::<WebSocket>(&mut bytes, claimed.parser(), &mut tally, FRAMES);
        let (conn, request) = (claimed.conn(), claimed.is_request());
        WebSocket::record(tally, conn.direction(request), &mut ProtocolBlock(conn));
        if Job::left(skb) == 0 {
            kept::unlink(claimed, first);
            kept::free(first.index);
        } else {
            kept::shorten(skb, first.entry);
        }
        return Next::More;
    }
    if !job::may_parse(skb) {
        return Next::Rest;
    }
    kept::unlink(claimed, first);
    Next::Read
}

/// The sequence number up to which nothing comes any more that is not kept.
#[inline(always)]
fn taken(ctx: &SkBuffContext, claimed: &Claimed) -> u32 {
    let conn = claimed.conn();
    if conn.direction(claimed.is_request()) != RX {
        // Segments leave in order, one at a time: what is not kept has left without passing the hook.
        return claimed.next_seq().wrapping_add(u32::MAX >> 2);
    }
    order::received_up_to(ctx, conn).unwrap_or(claimed.next_seq())
}

/// Counts what TCP has taken, up to `taken`, and which is in no kept segment: there was no room for it.
#[inline(always)]
fn catch_up(claimed: &mut Claimed, taken: u32) {
    if claimed.parser().flags & flag::SYNCED == 0 {
        return;
    }
    let missing = taken.wrapping_sub(claimed.next_seq()).cast_signed();
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
        // Of this and an order that was given meanwhile, or a request that was done with, one must see what the other has written.
        Ok(())
            if (conn.asked(request) != ask::NONE || conn.may_answer(request))
                && conn.has_kept(request) =>
        {
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
