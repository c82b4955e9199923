//! Segments that came before their predecessor, on streams that are being read.
//!
//! - Hook: none of their own; tail-called by the segment programs, on the receiving side only.
//! - Context: softirq.
//! - Minimum kernel: as `segment.rs`.
//! - Writes: up to four kept segments of one stream, each at most one chunk long.
//! - Misses: longer gaps; they are counted as `gap` and the stream is resynchronised, its bytes still counted.
//! - Costs: a copy of the segment, and nothing while segments arrive in order.

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie, macros::cgroup_skb, programs::SkBuffContext,
};
use observer_common::{
    CHUNK,
    flow::{mode, stream_flag},
    protocol::websocket as frame,
    wire::{conn::Conn, loss::Loss},
};

use super::{
    job::{self, Job},
    packet, parse, websocket,
};
use crate::{
    accounting::{add, losses::lost},
    maps::{STASH_ROOM, STASHES, Scratch, Stash, StashKey},
    storage,
};

const PASS: i32 = 1;
/// Places for kept segments of one stream.
const SLOTS: u8 = 4;
/// WebSocket frames that one run follows.
const FRAMES: usize = 16;

#[inline(always)]
fn conn<'a>(ctx: &SkBuffContext) -> Option<&'a mut Conn> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: the socket of the packet.
    unsafe { storage::get(sk.cast()) }
}

/// Keeps the segment of the job.
#[cgroup_skb]
pub(crate) fn keep_segment(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let Some(conn) = conn(&ctx) else { return PASS };
    let stream = conn.flow.stream_mut(job.request);
    let used = (stream.flags & stream_flag::KEPT) >> stream_flag::KEPT_SHIFT;
    let mut slot = SLOTS;
    for candidate in 0..SLOTS {
        if used & (1 << candidate) == 0 {
            slot = candidate;
            break;
        }
    }
    if slot >= SLOTS || job.left == 0 || job.left > CHUNK as u32 {
        return PASS;
    }
    let Some(room) = STASH_ROOM.get_ptr_mut(0) else { return PASS };
    // SAFETY: this processor's element, used within this softirq.
    let room: &mut Stash = unsafe { &mut *room };
    room.seq = job.seq;
    room.len = job.left;
    // SAFETY: the room has CHUNK bytes.
    if !unsafe {
        packet::load::<{ CHUNK as u32 }>(
            ctx.skb.skb,
            job.offset,
            (&raw mut room.bytes).cast(),
            job.left,
        )
    } {
        return PASS;
    }
    // SAFETY: the packet's socket has a cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    if STASHES.insert(StashKey { cookie, slot: u64::from(slot) }, &*room, 0).is_ok() {
        stream.flags |= 1 << (slot + stream_flag::KEPT_SHIFT);
    }
    PASS
}

/// The gap is closed: hands the kept segment that comes next to its parser, which comes back here when it is done.
#[cgroup_skb]
pub(crate) fn replay_segments(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let Some(conn) = conn(&ctx) else { return PASS };
    // SAFETY: the packet's socket has a cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    for slot in 0..SLOTS {
        let stream = conn.flow.stream_mut(job.request);
        let bit = 1 << (slot + stream_flag::KEPT_SHIFT);
        if stream.flags & bit == 0 {
            continue;
        }
        let Some(stash) = STASHES.get_ptr_mut(StashKey { cookie, slot: u64::from(slot) }) else {
            // Others needed the room: the bytes are gone.
            lost(Loss::Gap);
            stream.flags &= !bit;
            continue;
        };
        // SAFETY: an entry of this socket; should the map give it to another, its memory stays valid.
        let (seq, len) = unsafe { ((*stash).seq, (*stash).len) };
        let seen = stream.next_seq.wrapping_sub(seq);
        if (seen as i32) < 0 {
            continue;
        }
        stream.flags &= !bit;
        // What the stream has gone past without it.
        add::fill_hole(conn, job.request, if seen < len { seen } else { len });
        if seen >= len {
            continue;
        }
        let left = len - seen;
        let stream = conn.flow.stream_mut(job.request);
        stream.next_seq = seq.wrapping_add(len);
        let mode = stream.mode;
        add::bytes(conn, job.request, left);
        let kept = Job {
            offset: seen,
            left,
            request: job.request,
            seq: seq.wrapping_add(seen),
            kept: u32::from(slot) + 1,
        };
        job::call(&ctx, if mode == mode::OFF { mode::REPLAY } else { mode }, &kept);
        return PASS;
    }
    PASS
}

fn stash<'a>(ctx: &SkBuffContext, job: &Job) -> Option<&'a Stash> {
    // SAFETY: the packet's socket has a cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let slot = u64::from(job.kept.wrapping_sub(1));
    // SAFETY: an entry of this socket; should the map give it to another, its memory stays valid.
    unsafe { STASHES.get(StashKey { cookie, slot }) }
}

/// Copies up to `wanted` bytes of the job's kept segment to the front of `scratch`; returns how many.
#[inline(always)]
pub(super) fn load(ctx: &SkBuffContext, job: &Job, scratch: *mut Scratch, wanted: u32) -> usize {
    let Some(stash) = stash(ctx, job) else {
        lost(Loss::Gap);
        return 0;
    };
    let from = job.offset as usize;
    for i in 0..CHUNK {
        if i >= wanted as usize {
            break;
        }
        // SAFETY: both indexes are within the arrays.
        unsafe { (*scratch).bytes[i] = stash.bytes[(from + i) & (CHUNK - 1)] };
    }
    wanted as usize
}

/// WebSocket frames in a kept segment.
#[cgroup_skb]
pub(crate) fn parse_kept_frames(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(conn) = conn(&ctx) else { return PASS };
    let first = Job::take(skb);
    let Some(stash) = stash(&ctx, &first) else {
        lost(Loss::Gap);
        conn.flow.resync(first.request);
        return PASS;
    };
    let mut tally = websocket::Tally::default();
    for _ in 0..FRAMES {
        let mut job = Job::take(skb);
        let stream = conn.flow.stream_mut(job.request);
        if stream.pos == 0 {
            job = job.advanced(frame::skip(stream, job.left));
            job.put(skb);
        }
        if job.left == 0 {
            break;
        }
        let mut words = [0_u64; 2];
        let from = job.offset as usize;
        for i in 0..frame::HEADER {
            let byte = u64::from(stash.bytes[(from + i) & (CHUNK - 1)]);
            words[i >> 3] |= byte << (8 * (i & 7));
        }
        let available =
            if job.left < frame::HEADER as u32 { job.left } else { frame::HEADER as u32 };
        let mask = |bytes: u32| if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
        words[0] &= mask(available);
        words[1] &= mask(available.saturating_sub(8));
        let (used, bits) = frame::header(stream, words, available);
        tally.add(bits);
        job.advanced(used).put(skb);
    }
    tally.count(conn, first.request);
    parse::proceed(&ctx, &conn.flow, &Job::take(skb));
    PASS
}
