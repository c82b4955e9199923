//! The parsers that the segment programs tail-call.
//!
//! - Hook: none of their own; `cgroup_skb` programs reached through the program array, in the caller's context.
//! - Minimum kernel: as `segment.rs`. They are loaded without an attach type, since kernels from 6.18 on refuse tail
//!   calls between programs of different attach types.
//! - Writes: the flow state of the socket (or this processor's note), the cell when a protocol is recognised.
//! - Misses: what lies beyond 33 calls in one segment, which is counted as `parse_limit`.
//! - Costs: about 2 ns a byte of a head; nothing for a body.

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, macros::cgroup_skb, programs::SkBuffContext};
use observer_common::{
    CHUNK,
    conn::{Conn, RX, TX},
    flow::{Flow, mode, stream_flag},
    http2::{self, Verdict},
    loss::Loss,
    protocol::{Protocol, Role},
};

use super::{
    job::{self, Job},
    reorder, websocket,
};
use crate::{
    atomic, count,
    maps::{NOTE, SCRATCH, SCRATCHES, Scratch},
    storage,
};

const TCP_LISTEN: u32 = 10;
const PASS: i32 = 1;
/// WebSocket frames that one run follows.
const FRAMES: usize = 32;

/// The state a job belongs to: the socket's, or this processor's note when the socket is a listener.
enum Target<'a> {
    Conn(&'a mut Conn),
    Note(&'a mut Flow),
}

#[inline(always)]
fn target<'a>(ctx: &SkBuffContext) -> Option<Target<'a>> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: `state` is readable on every kind of socket.
    if unsafe { (*sk).state } == TCP_LISTEN {
        let note = NOTE.get_ptr_mut(0)?;
        // SAFETY: this processor's element, written and taken within one softirq.
        return Some(Target::Note(unsafe { &mut (*note).flow }));
    }
    // SAFETY: the socket of the packet.
    unsafe { storage::get(sk.cast()) }.map(Target::Conn)
}

/// A claimed place for bytes.
struct Claim(*mut Scratch);

impl Claim {
    #[inline(always)]
    fn new() -> Option<Self> {
        for slot in 0..SCRATCHES {
            let scratch = SCRATCH.get_ptr_mut(slot)?;
            // SAFETY: an aligned word of this processor's element.
            if unsafe { atomic::compare_and_swap(&raw mut (*scratch).busy, 0, 1) } == 0 {
                return Some(Self(scratch));
            }
        }
        count::lost(Loss::ParseLimit);
        None
    }

    /// All ones, which the verifier cannot know; see `observer_common::http1::run`.
    #[inline(always)]
    fn blur(&self) -> usize {
        // SAFETY: a word of the claimed element that is never written.
        !(unsafe { core::ptr::read_volatile(&raw const (*self.0).zero) } as usize)
    }

    #[inline(always)]
    fn release(self) {
        // SAFETY: claimed by this run.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).busy, 0) };
    }
}

/// Loads the next bytes of the job; returns how many, 0 when there are none.
#[inline(always)]
fn load(ctx: &SkBuffContext, job: &Job, claim: &Claim) -> usize {
    let wanted = if job.left > CHUNK as u32 { CHUNK as u32 } else { job.left };
    if wanted == 0 {
        return 0;
    }
    if job.kept != 0 {
        return reorder::load(ctx, job, claim.0, wanted);
    }
    // SAFETY: `wanted` is 1 to CHUNK, the size of the buffer; the helper checks the packet's range.
    let failed = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), job.offset, (&raw mut (*claim.0).bytes).cast(), wanted) };
    if failed != 0 {
        count::lost(Loss::Malformed);
        return 0;
    }
    wanted as usize
}

/// Goes on with what is left of the job, in whatever mode the stream is in now.
#[inline(always)]
pub(super) fn proceed(ctx: &SkBuffContext, flow: &Flow, job: &Job) {
    let stream = if job.request { &flow.request } else { &flow.response };
    if job.left != 0 && stream.mode != mode::OFF {
        job::call(ctx, stream.mode, job);
    } else if stream.flags & stream_flag::KEPT != 0 {
        job::call(ctx, mode::REPLAY, job);
    }
}

/// Heads of requests and responses, and the first bytes of everything.
#[cgroup_skb]
pub(crate) fn parse_http1(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let (flow, conn) = match target(&ctx) {
        Some(Target::Conn(conn)) => (&raw mut conn.flow, Some(conn)),
        Some(Target::Note(flow)) => (&raw mut *flow, None),
        None => return PASS,
    };
    // SAFETY: the flow of the target above, borrowed once at a time.
    let flow = unsafe { &mut *flow };
    let Some(claim) = Claim::new() else { return PASS };
    let length = load(&ctx, &job, &claim);
    if length == 0 {
        claim.release();
        return PASS;
    }
    let before = flow.protocol;
    // SAFETY: claimed by this run and just filled.
    let used = flow.feed_http1(job.request, unsafe { &(*claim.0).bytes }, 0, length, claim.blur()) as u32;
    claim.release();
    let job = job.advanced(used);
    if let Some(conn) = conn
        && before != flow.protocol
    {
        count::transition(conn);
    }
    proceed(&ctx, flow, &job);
    PASS
}

/// Frames of a client's HTTP/2 stream up to its first request.
#[cgroup_skb]
pub(crate) fn parse_http2(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let (flow, conn) = match target(&ctx) {
        Some(Target::Conn(conn)) => (&raw mut conn.flow, Some(conn)),
        Some(Target::Note(flow)) => (&raw mut *flow, None),
        None => return PASS,
    };
    // SAFETY: as in `parse_http1`.
    let flow = unsafe { &mut *flow };
    let Some(claim) = Claim::new() else { return PASS };
    let length = load(&ctx, &job, &claim);
    if length == 0 {
        claim.release();
        return PASS;
    }
    // SAFETY: claimed by this run and just filled.
    let (used, verdict) = http2::run(&mut flow.request, unsafe { &(*claim.0).bytes }, 0, length, claim.blur());
    claim.release();
    let job = job.advanced(used as u32);
    if verdict != Verdict::Open {
        flow.request.mode = mode::OFF;
        if verdict == Verdict::Grpc {
            flow.protocol = Protocol::Grpc as u8;
            if let Some(conn) = conn {
                count::transition(conn);
            }
        }
    }
    proceed(&ctx, flow, &job);
    PASS
}

/// Segments with more WebSocket frames than the fast path follows.
#[cgroup_skb]
pub(crate) fn parse_websocket(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let job = Job::take(ctx.skb.skb);
    if job.kept != 0 {
        job::call(&ctx, mode::KEPT_FRAMES, &job);
        return PASS;
    }
    let Some(Target::Conn(conn)) = target(&ctx) else { return PASS };
    let direction = direction(conn, job.request);
    websocket::follow(ctx.skb.skb, conn, direction, FRAMES);
    proceed(&ctx, &conn.flow, &Job::take(ctx.skb.skb));
    PASS
}

/// The direction of the client's bytes (`request`) or the server's at this socket.
#[inline(always)]
pub(super) fn direction(conn: &Conn, request: bool) -> usize {
    if (conn.role == Role::Server as u8) == request { RX } else { TX }
}
