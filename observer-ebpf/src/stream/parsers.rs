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
    protocol::{
        facts::Facts,
        parse::{Outcome, Parse},
    },
    source::Source,
    stream::{Parser, flag, mode, order as ask, program},
    wire::kept::{LARGE_BYTES, SMALL_BYTES},
};

use super::{
    adopted,
    claim::Claimed,
    job::{self, Job, Why},
    kept::{self, KeptBytes},
    order,
    packet::Packet,
};
use crate::accounting::{add::ForConnection, transitions};

const PASS: i32 = 1;

/// The parser programs of each protocol: one for packets, one for kept segments in small blocks and one for those in large ones.
macro_rules! programs {
    (
        spoken { $($spoken:tt)* }
        counters { $($counters:tt)* }
        parsers { $(
            $(#[$about:meta])*
            $mode:ident = $place:literal: $packet:ident, $small:ident, $large:ident
                => $room:ident::$parser:ident, $tells:literal;
        )+ }
    ) => { $(
        $(#[$about])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $packet(ctx: SkBuffContext) -> i32 {
            parse::<observer_common::protocol::$room::$parser>(&ctx, Packet(ctx.skb.skb));
            PASS
        }

        $(#[$about])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $small(ctx: SkBuffContext) -> i32 {
            match KeptBytes::<SMALL_BYTES>::of_job(ctx.skb.skb) {
                Some(source) => parse::<observer_common::protocol::$room::$parser>(&ctx, source),
                None => give_up(&ctx),
            }
            PASS
        }

        $(#[$about])*
        #[cgroup_skb]
        #[inline(always)]
        pub(crate) fn $large(ctx: SkBuffContext) -> i32 {
            match KeptBytes::<LARGE_BYTES>::of_job(ctx.skb.skb) {
                Some(source) => parse::<observer_common::protocol::$room::$parser>(&ctx, source),
                None => give_up(&ctx),
            }
            PASS
        }
    )+ };
}

observer_common::protocols!(programs);

#[inline(always)]
pub(super) fn claimed(ctx: &SkBuffContext) -> Option<Claimed> {
    Some(Claimed::held(order::state(ctx)?, Job::is_request(ctx.skb.skb)))
}

/// What each of them does.
#[inline(always)]
fn parse<P: Parse>(ctx: &SkBuffContext, mut source: impl Source) {
    let Some(mut before) = claimed(ctx) else { return };
    let mut recorder = ForConnection::new(before.conn(), before.is_request());
    let Some(found) = P::parse(&mut source, before.parser(), P::RUN, &mut recorder) else {
        return give_up(ctx);
    };
    // Taken anew: after a loop over bytes the verifier knows too much of the old one, see `Scratch`.
    let Some(mut claimed) = claimed(ctx) else { return };
    conclude::<P>(&mut claimed, &mut source, found);
    proceed(ctx, claimed);
}

/// Draws the conclusions from what a parser has found, and counts it.
#[inline(always)]
pub(super) fn conclude<P: Parse>(claimed: &mut Claimed, source: &mut impl Source, found: P::Found) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let mut recorder = ForConnection::new(conn, request);
    if !P::is_news(&found) {
        return P::record(found, 0, &mut recorder);
    }
    let (mut outcome, mut changes) = (Outcome::default(), 0);
    let before = claimed.parser().mode;
    let mut mode = before;
    let cell = conn.cell();
    // The other stream may change the facts at the same time; it does so a few times in a connection.
    for _ in 0..2 {
        let word = conn.facts_word();
        let old = Facts::from_word(word);
        let (mut facts, mut parser) = (old, *claimed.parser());
        let is_clients = if P::RECOGNISES {
            adopted::is_clients(conn, request, old)
        } else {
            conn.is_clients(request)
        };
        outcome = P::conclude(&found, is_clients, &mut parser, &mut facts);
        let moves = facts.protocol != old.protocol;
        if P::RECOGNISES && moves {
            facts.guessing = 0;
        }
        if facts == old || conn.swap_facts(word, facts) {
            mode = parser.mode;
            // The mode comes last.
            *claimed.parser() = Parser { mode: before, ..parser };
            let recognised = moves && old.guessing != 0;
            changes = change::DONE
                | change::when(moves, change::MOVES)
                | change::when(recognised, change::RECOGNISED)
                | change::when(is_clients == request, change::STRAIGHT);
            break;
        }
    }
    // The verifier would follow all that comes now once for each way to get here.
    let changes = source.forget(changes);
    let (news, order) =
        (source.forget(outcome.news.into()) as u32, source.forget(outcome.order.into()) as u32);
    let mode = source.forget(mode.into()) as u8;
    if changes & change::DONE == 0 {
        return source.advance(source.left());
    }
    source.advance(outcome.consumed);
    // In the cell that the connection leaves if this changes its protocol.
    P::record(found, news, &mut recorder);
    if P::RECOGNISES && changes & change::RECOGNISED != 0 {
        adopted::tell_role(conn, changes & change::STRAIGHT != 0);
        transitions::recognise(conn, cell);
    } else if changes & change::MOVES != 0 {
        transitions::transition(conn);
    }
    // What the other stream reads from then on is counted where the connection is by now.
    if order != ask::NONE {
        conn.ask(!request, order);
    }
    // A response waits for the order of its request, unless that waits for the response.
    claimed.parser().mode = mode;
}

/// What a conclusion comes to, as bits.
mod change {
    /// It was drawn.
    pub(super) const DONE: u64 = 1;
    /// The connection is found to speak another protocol.
    pub(super) const MOVES: u64 = 1 << 1;
    /// It was adopted, and what it speaks is settled by that.
    pub(super) const RECOGNISED: u64 = 1 << 2;
    /// The request stream is the client's.
    pub(super) const STRAIGHT: u64 = 1 << 3;

    /// The bit if it is `so`.
    #[inline(always)]
    pub(super) const fn when(so: bool, bit: u64) -> u64 {
        if so { bit } else { 0 }
    }
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
pub(super) fn give_up(ctx: &SkBuffContext) {
    let skb = ctx.skb.skb;
    let Some(mut claimed) = claimed(ctx) else { return };
    let left = Job::left(skb);
    Job::advance(skb, left);
    if left != 0 && !claimed.parser().skip_unread(u64::from(left)) {
        order::desync(&mut claimed);
    }
    proceed(ctx, claimed);
}
