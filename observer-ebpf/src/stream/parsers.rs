//! The parsers that are tail-called: one program for each protocol and source.
//!
//! - Hook: none of their own; `cgroup_skb` programs reached through the program array, in the caller's context.
//! - Minimum kernel: as `hooks/segment.rs`. They are loaded without an attach type, since kernels from 6.18 on refuse tail
//!   calls between programs of different attach types.
//! - Writes: the stream, which is claimed; the cell when a protocol is recognised or a message passes.
//! - Misses: nothing of one segment. What exceeds one run is kept, and goes on at the connection's next event.
//! - Costs: about 2 ns a byte of a head, 20 ns a frame; nothing for a body.

use aya_ebpf::{bindings::__sk_buff, macros::cgroup_skb, programs::SkBuffContext};
use observer_common::{
    framing::{Framing, follow},
    protocol::{
        Protocol,
        automaton::{REQUEST_FIRST, Run},
        http1::exchange::{self, Facts, Outcome},
        http2::Verdict,
        proxy,
        websocket::{Tally, WebSocket},
    },
    source::Source,
    stream::{Parser, flag, mode, order as ask, program},
    wire::kept::{LARGE_BYTES, SMALL_BYTES},
};

use super::{
    adopted::{self, guess},
    claim::Claimed,
    job::{self, Job, Why},
    kept::{self, KeptBytes},
    order,
    packet::Packet,
    scratch::{Chunk, Scratches, length},
};
use crate::accounting::{add::ProtocolBlock, transitions};

const PASS: i32 = 1;
/// WebSocket frames that one run follows in a packet: 27 runs get through the largest one, of 64 KiB, if its frames have three
/// bytes.
const FRAMES: usize = 640;

/// The parser programs of a protocol: one for packets, one for kept segments in small blocks and one for those in large ones.
macro_rules! parser {
    ($(#[$meta:meta])* $packet:ident, $small:ident, $large:ident => $run:ident) => {
        $(#[$meta])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $packet(ctx: SkBuffContext) -> i32 {
            $run(&ctx, Packet(ctx.skb.skb));
            PASS
        }

        $(#[$meta])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $small(ctx: SkBuffContext) -> i32 {
            match KeptBytes::<SMALL_BYTES>::of_job(ctx.skb.skb) {
                Some(source) => $run(&ctx, source),
                None => give_up(&ctx),
            }
            PASS
        }

        $(#[$meta])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $large(ctx: SkBuffContext) -> i32 {
            match KeptBytes::<LARGE_BYTES>::of_job(ctx.skb.skb) {
                Some(source) => $run(&ctx, source),
                None => give_up(&ctx),
            }
            PASS
        }
    };
}

parser! {
    /// Heads of requests and responses, and the first bytes of everything.
    parse_http1, parse_http1_small, parse_http1_large => heads
}

parser! {
    /// Frames of a client's HTTP/2 stream up to its first request.
    parse_http2, parse_http2_small, parse_http2_large => http2
}

parser! {
    /// Segments with more WebSocket frames than the segment programs follow themselves.
    parse_websocket, parse_ws_small, parse_ws_large => websocket
}

parser! {
    /// What the bytes of an adopted connection are, and of one that was lost track of.
    parse_guess, parse_guess_small, parse_guess_large => guess
}

parser! {
    /// The header of the PROXY protocol, version 2.
    parse_proxy, parse_proxy_small, parse_proxy_large => proxy_header
}

#[inline(always)]
pub(super) fn claimed(ctx: &SkBuffContext) -> Option<Claimed> {
    Some(Claimed::held(order::state(ctx)?, Job::is_request(ctx.skb.skb)))
}

#[inline(always)]
fn heads(ctx: &SkBuffContext, source: impl Scratches) {
    let skb = ctx.skb.skb;
    let Some(mut before) = claimed(ctx) else { return };
    let state = before.parser().state;
    let Some((chunk, bytes)) = Chunk::load(skb, &source) else { return give_up(ctx) };
    let run = chunk.run(state, bytes);
    chunk.release();
    // Taken anew: after the loop the verifier knows too much of the old one, see `Scratch`.
    let Some(mut claimed) = claimed(ctx) else { return };
    let outcome = conclude(&mut claimed, run);
    Job::advance(skb, if outcome.rest_is_void { length(skb) } else { run.at as u32 });
    proceed(ctx, claimed);
}

/// Draws the conclusions from a run of the automaton, and counts a change of protocol.
#[inline(always)]
fn conclude(claimed: &mut Claimed, run: Run) -> Outcome {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let mut outcome = Outcome { rest_is_void: true, order: ask::NONE };
    let before = *claimed.parser();
    let cell = conn.cell();
    // The other stream may change the facts at the same time; it does so once or twice in a connection.
    for _ in 0..2 {
        let word = conn.facts_word();
        let old = Facts::from_word(word);
        let mut facts = old;
        let mut parser = before;
        let is_clients = adopted::is_clients(conn, request, old);
        outcome = exchange::conclude(is_clients, &mut parser, &mut facts, run);
        if facts == old || conn.swap_facts(word, facts) {
            if old.guessing != facts.guessing {
                adopted::tell_role(conn, is_clients == request);
                transitions::recognise(conn, cell);
            } else if old.protocol != facts.protocol {
                transitions::transition(conn, old.protocol);
            }
            // What the other stream reads from then on is counted where the connection is by now.
            if outcome.order != ask::NONE {
                conn.ask(!request, outcome.order);
            }
            // Last: a response waits for the order of its request, unless that waits for the response.
            *claimed.parser() = parser;
            break;
        }
    }
    outcome
}

#[inline(always)]
fn http2(ctx: &SkBuffContext, source: impl Scratches) {
    let skb = ctx.skb.skb;
    let Some(mut before) = claimed(ctx) else { return };
    let Some((chunk, bytes)) = Chunk::load(skb, &source) else { return give_up(ctx) };
    let verdict = chunk.follow(before.parser(), bytes);
    let Some(mut claimed) = claimed(ctx) else { return chunk.release() };
    let used = chunk.hand_out(claimed.parser());
    chunk.release();
    Job::advance(skb, used);
    if verdict != Verdict::Open {
        claimed.parser().mode = mode::OFF;
    }
    if verdict == Verdict::Grpc {
        let conn = claimed.conn();
        let word = conn.facts_word();
        let facts = Facts { protocol: Protocol::Grpc as u8, ..Facts::from_word(word) };
        // Nothing else changes the facts of an HTTP/2 connection.
        if conn.swap_facts(word, facts) {
            transitions::transition(conn, Protocol::Http2 as u8);
        }
    }
    proceed(ctx, claimed);
}

#[inline(always)]
fn websocket(ctx: &SkBuffContext, mut source: impl Source) {
    let Some(mut claimed) = claimed(ctx) else { return };
    let mut tally = Tally::default();
    follow::<WebSocket>(&mut source, claimed.parser(), &mut tally, FRAMES);
    let (conn, request) = (claimed.conn(), claimed.is_request());
    WebSocket::record(tally, conn.direction(request), &mut ProtocolBlock(conn));
    proceed(ctx, claimed);
}

#[inline(always)]
fn proxy_header(ctx: &SkBuffContext, mut source: impl Source) {
    let Some(mut claimed) = claimed(ctx) else { return };
    if proxy::follow(&mut source, claimed.parser()) {
        let parser = claimed.parser();
        *parser = Parser {
            mode: mode::HTTP1,
            state: REQUEST_FIRST,
            flags: parser.flags & (flag::SYNCED | flag::PARKED),
            ..Parser::default()
        };
    }
    proceed(ctx, claimed);
}

/// Goes on with what is left of the job, in whatever mode the stream is in now.
#[inline(always)]
pub(crate) fn proceed(ctx: &SkBuffContext, mut claimed: Claimed) {
    let skb = ctx.skb.skb;
    let parser = *claimed.parser();
    if Job::left(skb) == 0 || parser.mode == mode::OFF {
        let kept = Job::kept(skb);
        if kept != 0 {
            kept::free(kept);
        }
        return order::finish(ctx, claimed);
    }
    let waits = parser.mode == mode::WAIT;
    if !waits && job::may_parse(skb) {
        let source = if Job::kept(skb) == 0 { 0 } else { kept::source_of(kept::block_of_job(skb)) };
        job::call(ctx, source + u32::from(parser.mode));
    }
    if Job::kept(skb) == 0 {
        job::because(skb, Why::Rest);
        job::call(ctx, program::KEEP);
        return claimed.abandon();
    }
    put_back(skb, &mut claimed);
    job::call(ctx, program::DRAIN);
    claimed.abandon();
}

/// Puts what is left of the job's kept segment back among the stream's.
#[inline(always)]
pub(super) fn put_back(skb: *mut __sk_buff, claimed: &mut Claimed) {
    let index = Job::kept(skb);
    let Some(entry) = kept::entry(index) else { return };
    kept::shorten(skb, entry);
    claimed.parser().flags |= flag::PARKED;
    if !kept::push(claimed, index, entry) {
        kept::free(index);
        order::desync(claimed);
    }
}

/// The bytes of the job cannot be read.
#[inline(always)]
fn give_up(ctx: &SkBuffContext) {
    let skb = ctx.skb.skb;
    let Some(mut claimed) = claimed(ctx) else { return };
    let left = Job::left(skb);
    Job::advance(skb, left);
    if left != 0 && !claimed.parser().skip_unread(u64::from(left)) {
        order::desync(&mut claimed);
    }
    proceed(ctx, claimed);
}
