//! The order of a stream's segments, where one is not simply the next.
//!
//! - Hook: none of its own; tail-called by the segment programs, with the stream claimed.
//! - Context: the caller's.
//! - Minimum kernel: as `hooks/segment.rs`.
//! - Writes: the stream; counts retransmissions and payload.
//! - Misses: nothing; what cannot be kept is found missing by [`super::drain`].
//! - Costs: nothing while segments arrive one by one and in order.

use aya_ebpf::{helpers::generated::bpf_tcp_sock, macros::cgroup_skb, programs::SkBuffContext};
use observer_common::{
    protocol::http1::exchange,
    stream::{flag, mode, order, program},
    wire::{conn::RX, loss::Loss, slot},
};

use super::{
    claim::{Claim, Claimed, claim},
    job::{self, Job, Why},
    kept, parsers,
};
use crate::{
    accounting::{add, losses::lost},
    memory::shared::Shared,
    socket::storage,
};

/// The hook's verdict: let the packet pass. observer never drops.
const PASS: i32 = 1;
/// No receive window is as large, in bytes: the kernel's own limit of `tcp_rmem` is below it, and 1 GiB is TCP's.
const LARGEST_WINDOW: i32 = 64 << 20;

/// The state of the packet's socket.
#[inline(always)]
pub(super) fn state(ctx: &SkBuffContext) -> Option<Shared> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: the socket of the packet.
    unsafe { storage::get(sk.cast()) }
}

/// The sequence number up to which TCP has taken everything, the FIN left out; `None` for what is not TCP.
#[inline(always)]
pub(super) fn received_up_to(ctx: &SkBuffContext, conn: Shared) -> Option<u32> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
    let next = unsafe { bpf_tcp_sock(sk).as_ref() }?.rcv_nxt;
    // A FIN takes a sequence number; it has passed the hook before TCP counts it.
    let fin = observer_common::wire::conn::flag::FIN_HEARD;
    if conn.has(fin) && next == conn.fin_seq().wrapping_add(1) {
        return Some(next.wrapping_sub(1));
    }
    Some(next)
}

/// Does what the other stream has asked for.
#[inline(always)]
pub(crate) fn obey(claimed: &mut Claimed) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    if conn.asked(request) != order::NONE {
        exchange::obey(claimed.parser(), conn.take_order(request));
    }
}

/// Bytes of the stream were missed: its parser takes up wherever it can.
#[inline(always)]
pub(super) fn desync(claimed: &mut Claimed) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    lost(Loss::Gap);
    add::one(conn, &slot::DESYNCS, 0);
    let order = exchange::resync(request, claimed.parser(), conn.facts().protocol);
    if order != order::NONE {
        conn.ask(!request, order);
    }
}

/// See the module.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn order_segment(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(conn) = state(&ctx) else { return PASS };
    let request = Job::is_request(skb);
    let mut claimed = Claimed::held(conn, request);
    obey(&mut claimed);
    let received = conn.direction(request) == RX;
    let seq = Job::take(skb).seq;
    let ahead = seq.wrapping_sub(claimed.next_seq()).cast_signed();
    if ahead < 0 {
        // A retransmission: skip what was seen.
        if !received {
            conn.set_retransmits(conn.retransmits() + 1);
            add::one(conn, &slot::RETRANSMITS, 0);
        }
        let seen = ahead.unsigned_abs();
        if seen >= Job::left(skb) {
            finish(&ctx, claimed);
            return PASS;
        }
        Job::advance(skb, seen);
    } else if received && ahead > LARGEST_WINDOW {
        // TCP cannot take it, whatever the window: a stray or a forgery.
        finish(&ctx, claimed);
        return PASS;
    } else if ahead > 0 && (received || conn.has_kept(request)) {
        job::because(skb, Why::Early);
        job::call(&ctx, program::KEEP);
        claimed.abandon();
        return PASS;
    } else if ahead > 0 {
        // What has left without passing the hook has left all the same.
        claimed.accept(ahead.unsigned_abs());
        if !claimed.parser().skip_unread(u64::from(ahead.unsigned_abs())) {
            desync(&mut claimed);
        }
    }
    let behind = conn.is_behind_request(request, claimed.parser().mode);
    // The request that it was behind until now may have asked for something.
    obey(&mut claimed);
    let parser = *claimed.parser();
    if parser.mode == mode::WAIT || parser.flags & flag::PARKED != 0 || behind {
        job::because(skb, Why::Parked);
        job::call(&ctx, program::KEEP);
        claimed.abandon();
        return PASS;
    }
    claimed.accept(Job::left(skb));
    parsers::proceed(&ctx, claimed);
    PASS
}

/// The segment is done with: goes on with kept ones whose turn may have come, or gives up the claim.
#[inline(always)]
pub(crate) fn finish(ctx: &SkBuffContext, mut claimed: Claimed) {
    let claimed = if claimed.kept() == 0 {
        let flags = claimed.parser().flags;
        if flags & flag::PARKED != 0 {
            claimed.parser().flags = flags & !flag::PARKED;
        }
        match claimed.release() {
            Ok(()) => return attend_other(ctx),
            Err(claimed) => claimed,
        }
    } else {
        claimed
    };
    job::call(ctx, program::DRAIN);
    claimed.abandon();
}

/// Goes on with what is kept of the other stream.
#[inline(always)]
pub(super) fn attend_other(ctx: &SkBuffContext) {
    if !kept::is_any() {
        return;
    }
    let Some(conn) = state(ctx) else { return };
    let other = !Job::is_request(ctx.skb.skb);
    if conn.has_kept(other)
        && job::turn(ctx.skb.skb)
        && let Claim::Alone(claimed) | Claim::WithInbox(claimed) = claim(conn, other)
    {
        job::call(ctx, program::DRAIN);
        claimed.abandon();
    }
}

/// Goes on with what is kept of either stream, at an event that brings no payload. No claim is held.
#[inline(always)]
pub(crate) fn attend(ctx: &SkBuffContext, conn: Shared) {
    let request = !conn.has_kept(false);
    if conn.has_kept(request)
        && let Claim::Alone(claimed) | Claim::WithInbox(claimed) = claim(conn, request)
    {
        let job = Job { offset: 0, left: 0, request, seq: 0, kept: 0 };
        job.begin(ctx.skb.skb);
        job::call(ctx, program::DRAIN);
        claimed.abandon();
    }
}
