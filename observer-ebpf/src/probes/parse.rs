//! The parsers that the segment programs tail-call.
//!
//! - Hook: none of their own; `cgroup_skb` programs reached through the program array, in the caller's context.
//! - Minimum kernel: as `segment.rs`. They are loaded without an attach type, since kernels from 6.18 on refuse tail
//!   calls between programs of different attach types.
//! - Writes: the flow state of the socket (or this processor's note), the cell when a protocol is recognised.
//! - Misses: what lies beyond 33 calls in one segment, which is counted as `parse_limit`.
//! - Costs: about 2 ns a byte of a head; nothing for a body.

use core::ptr;

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use observer_common::{
    CHUNK,
    flow::{Flow, Stream, mode, stream_flag},
    protocol::{
        Protocol, http1,
        http2::{self, Verdict},
    },
    wire::{conn::Conn, loss::Loss},
};

use super::{
    job::{self, Job},
    packet, reorder, websocket,
};
use crate::{
    accounting::{losses::lost, transitions},
    atomic,
    maps::{NOTE, SCRATCH, SCRATCHES, Scratch},
    storage,
};

const TCP_LISTEN: u32 = 10;
const PASS: i32 = 1;
/// WebSocket frames that one run follows.
const FRAMES: usize = 160;

/// The state a job belongs to: the socket's, or this processor's note when the socket is a listener.
///
/// Programs with a loop over bytes look it up before the loop and again behind it: otherwise the verifier follows the loop
/// once for each place that the state may be in.
enum Target<'a> {
    Conn(&'a mut Conn),
    Note(&'a mut Flow),
}

impl Target<'_> {
    #[inline(always)]
    fn flow(&mut self) -> &mut Flow {
        match self {
            Self::Conn(conn) => &mut conn.flow,
            Self::Note(flow) => flow,
        }
    }

    /// Counts the protocol that the flow has found since it was `before`.
    #[inline(always)]
    fn transition(&mut self, before: u8) {
        if let Self::Conn(conn) = self
            && before != conn.flow.protocol
        {
            transitions::transition(conn, before);
        }
    }
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
        lost(Loss::ParseLimit);
        None
    }

    /// Runs the HTTP/1 automaton over the first `length` bytes.
    #[inline(always)]
    fn run(&self, state: u8, length: usize) -> http1::Run {
        // SAFETY: claimed by this run of the program, and filled.
        unsafe {
            let run = http1::run(state, &(*self.0).bytes, 0, length);
            ptr::write_volatile(&raw mut (*self.0).at, run.at as u32);
            ptr::write_volatile(&raw mut (*self.0).state, u32::from(run.state));
            ptr::write_volatile(&raw mut (*self.0).bits, run.bits);
            http1::Run {
                at: ptr::read_volatile(&raw const (*self.0).at) as usize,
                state: ptr::read_volatile(&raw const (*self.0).state) as u8,
                bits: ptr::read_volatile(&raw const (*self.0).bits),
            }
        }
    }

    /// Takes in where an HTTP/2 stream is.
    #[inline(always)]
    fn place_in(&self, stream: &Stream) {
        // SAFETY: claimed by this run.
        place(stream, unsafe { &mut (*self.0).stream });
    }

    /// Follows the frames in the first `length` bytes.
    #[inline(always)]
    fn follow(&self, length: usize) -> Verdict {
        // SAFETY: claimed by this run of the program, and filled; the bytes and the stream are apart.
        unsafe {
            let (used, verdict) = http2::run(&mut (*self.0).stream, &(*self.0).bytes, 0, length);
            ptr::write_volatile(&raw mut (*self.0).at, used as u32);
            verdict
        }
    }

    /// Hands out where the stream is now; how many bytes were consumed.
    #[inline(always)]
    fn place_out(&self, stream: &mut Stream) -> u32 {
        // SAFETY: claimed by this run.
        unsafe {
            place(&(*self.0).stream, stream);
            ptr::read_volatile(&raw const (*self.0).at)
        }
    }

    #[inline(always)]
    fn release(self) {
        // SAFETY: claimed by this run.
        unsafe { ptr::write_volatile(&raw mut (*self.0).busy, 0) };
    }
}

/// Copies what the follower of HTTP/2 frames works on, and nothing of what is counted meanwhile.
#[inline(always)]
const fn place(from: &Stream, to: &mut Stream) {
    to.state = from.state;
    to.pos = from.pos;
    to.left = from.left;
    to.aux = from.aux;
}

/// Bytes of the job that fit into one chunk.
#[inline(always)]
fn chunk(job: &Job) -> u32 {
    if job.left > CHUNK as u32 { CHUNK as u32 } else { job.left }
}

/// Loads the next bytes of the job; returns how many, 0 when there are none.
#[inline(always)]
fn load(ctx: &SkBuffContext, job: &Job, claim: &Claim) -> usize {
    let wanted = chunk(job);
    if wanted == 0 {
        return 0;
    }
    if job.kept != 0 {
        return reorder::load(ctx, job, claim.0, wanted);
    }
    // SAFETY: the claimed buffer has CHUNK bytes.
    if unsafe {
        packet::load::<{ CHUNK as u32 }>(
            ctx.skb.skb,
            job.offset,
            (&raw mut (*claim.0).bytes).cast(),
            wanted,
        )
    } {
        wanted as usize
    } else {
        0
    }
}

/// Goes on with what is left of the job, in whatever mode the stream is in now.
#[inline(always)]
pub(super) fn proceed(ctx: &SkBuffContext, flow: &Flow, job: &Job) {
    let stream = flow.stream(job.request);
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
    let Some(mut before) = target(&ctx) else { return PASS };
    let state = before.flow().http1_state(job.request);
    let Some(claim) = Claim::new() else { return PASS };
    let length = load(&ctx, &job, &claim);
    if length == 0 {
        claim.release();
        return PASS;
    }
    let run = claim.run(state, length);
    claim.release();
    // Taken anew: after the loop the verifier knows too much of the old one, see `Scratch`.
    let job = Job::take(ctx.skb.skb);
    let Some(mut target) = target(&ctx) else { return PASS };
    let flow = target.flow();
    let before = flow.protocol;
    let used = if flow.apply(job.request, run) { chunk(&job) } else { run.at as u32 };
    let job = job.advanced(used);
    target.transition(before);
    proceed(&ctx, target.flow(), &job);
    PASS
}

/// Frames of a client's HTTP/2 stream up to its first request.
#[cgroup_skb]
pub(crate) fn parse_http2(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    let Some(mut before) = target(&ctx) else { return PASS };
    let Some(claim) = Claim::new() else { return PASS };
    let length = load(&ctx, &job, &claim);
    if length == 0 {
        claim.release();
        return PASS;
    }
    claim.place_in(&before.flow().request);
    let verdict = claim.follow(length);
    let Some(mut target) = target(&ctx) else {
        claim.release();
        return PASS;
    };
    let flow = target.flow();
    let used = claim.place_out(&mut flow.request);
    claim.release();
    let job = Job::take(ctx.skb.skb).advanced(used);
    if verdict != Verdict::Open {
        flow.request.mode = mode::OFF;
        if verdict == Verdict::Grpc {
            flow.protocol = Protocol::Grpc as u8;
            target.transition(Protocol::Http2 as u8);
        }
    }
    proceed(&ctx, target.flow(), &job);
    PASS
}

/// Segments with more WebSocket frames than the fast path follows.
#[cgroup_skb]
pub(crate) fn parse_websocket(ctx: SkBuffContext) -> i32 {
    let job = Job::take(ctx.skb.skb);
    if job.kept != 0 {
        job::call(&ctx, mode::KEPT_FRAMES, &job);
        return PASS;
    }
    let Some(Target::Conn(conn)) = target(&ctx) else { return PASS };
    if websocket::follow(ctx.skb.skb, conn, FRAMES) {
        proceed(&ctx, &conn.flow, &Job::take(ctx.skb.skb));
    } else {
        job::call(&ctx, mode::WEBSOCKET, &Job::take(ctx.skb.skb));
        // More frames than a segment may hold for us: rather no more counts than wrong ones.
        conn.flow.resync(job.request);
    }
    PASS
}
