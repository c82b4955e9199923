//! Guesses at the streams of adopted connections, and at those that were lost track of; the parser that `parsers.rs` makes
//! programs of.

use core::ptr;

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use observer_common::{
    label::Role,
    protocol::{
        adopted::{self, Verdict},
        automaton::REQUEST_FIRST,
        guess::{self, Step, sender},
        http1::{RESPONSE_START, exchange::Facts},
    },
    source::Source,
    stream::{mode, order as ask, program},
    wire::conn::{MIRRORED, NO_CELL},
};

use super::{
    claim::Claimed,
    job::{self, Job},
    parsers::{claimed, proceed},
};
use crate::{accounting::transitions, memory::shared::Shared};

const PASS: i32 = 1;

/// Looks at one frame of the segment of the job. At its end another program draws the conclusions: what the verifier knows of
/// one it would follow through the other.
#[inline(always)]
pub(super) fn guess(ctx: &SkBuffContext, mut source: impl Source) {
    let Some(mut claimed) = claimed(ctx) else { return };
    let step = guess::step(&mut source, claimed.parser());
    if step == Step::On && source.left() != 0 {
        return proceed(ctx, claimed);
    }
    guess::leave(claimed.parser(), step);
    job::call(ctx, program::CONCLUDE);
    claimed.abandon();
}

/// See [`guess()`].
#[cgroup_skb]
#[inline(always)]
pub(crate) fn conclude_guess(ctx: SkBuffContext) -> i32 {
    if let Some(mut claimed) = claimed(&ctx) {
        conclude(&ctx, &mut claimed);
        proceed(&ctx, claimed);
    }
    PASS
}

#[inline(always)]
fn conclude(ctx: &SkBuffContext, claimed: &mut Claimed) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let parser = *claimed.parser();
    let head = guess::left(&parser);
    let claim = if head == 0 { guess::claim(&parser) } else { guess::claim_of_head(head) };
    let claim = forget(claimed, claim.into()) as u8;
    let cell = conn.cell();
    if cell == NO_CELL {
        // It is about to be counted, or it is over.
        let skb = ctx.skb.skb;
        return Job::advance(skb, Job::left(skb));
    }
    let mut decision = 0;
    // The other stream may change the facts at the same time. What does not succeed now does with the next segment.
    for _ in 0..2 {
        let word = conn.facts_word();
        let old = Facts::from_word(word);
        let mut facts = old;
        let verdict = adopted::conclude(request, conn.plain_role(), claim, &parser, &mut facts);
        if facts == old || conn.swap_facts(word, facts) {
            decision = verdict.word();
            break;
        }
    }
    let decision = forget(claimed, decision);
    obey(claimed, cell, head, Verdict::of(decision));
    begin_head(ctx, claimed, head);
}

/// A number of which the verifier forgets what it knows: it would follow all that comes behind once for each way to it.
#[inline(always)]
fn forget(claimed: &mut Claimed, number: u64) -> u64 {
    let place = &raw mut claimed.parser().header[1];
    // SAFETY: a word of the state, in a part that the claim makes exclusive.
    unsafe {
        ptr::write_volatile(place, number);
        ptr::read_volatile(place)
    }
}

#[inline(always)]
fn obey(claimed: &mut Claimed, cell: u32, head: u8, verdict: Verdict) {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    match verdict {
        Verdict::Open => {}
        Verdict::Confirmed => guess::take_up(claimed.parser(), conn.is_clients(request)),
        Verdict::Void => claimed.parser().mode = mode::OFF,
        Verdict::GivenUp => {
            claimed.parser().mode = mode::OFF;
            conn.ask(!request, ask::STOP);
            transitions::settle(cell);
        }
        Verdict::Recognised { told, first_is_clients } => {
            if told {
                tell_role(conn, first_is_clients);
            }
            transitions::recognise(conn, cell);
            let is_clients = request == first_is_clients;
            if head == 0 {
                guess::take_up(claimed.parser(), is_clients);
                let other = if is_clients { ask::GUESSED_SERVER } else { ask::GUESSED_CLIENT };
                conn.ask(!request, other);
            } else if head == sender::CLIENT {
                conn.ask(!request, ask::STOP);
            }
        }
    }
}

/// A head of HTTP/1 begins at the job's position: the parser of heads reads it, if there is something to be learned from it.
#[inline(always)]
fn begin_head(ctx: &SkBuffContext, claimed: &mut Claimed, head: u8) {
    if head == 0 || claimed.parser().mode != mode::GUESS {
        return;
    }
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let is_recognised = conn.facts().guessing == 0;
    let is_clients = head == sender::CLIENT;
    let role_fits =
        conn.plain_role() == Role::Unknown as u8 || conn.is_clients(request) == is_clients;
    if role_fits && (is_clients || is_recognised) {
        let parser = claimed.parser();
        parser.mode = mode::HTTP1;
        parser.state = if is_clients { REQUEST_FIRST } else { RESPONSE_START };
    } else {
        // Of an answer whose request is not known yet there is nothing to be read but that it is one.
        let skb = ctx.skb.skb;
        Job::advance(skb, Job::left(skb));
    }
}

/// Whether a stream is the client's, which as long as nobody knows the role its own claim tells.
#[inline(always)]
pub(super) fn is_clients(conn: Shared, request: bool, facts: Facts) -> bool {
    if conn.plain_role() == Role::Unknown as u8 {
        guess::is_clients(facts.claims[usize::from(!request) & 1])
    } else {
        conn.is_clients(request)
    }
}

/// The bytes of an adopted connection have told whose streams they are: whether the request stream's are the client's.
#[inline(always)]
pub(super) fn tell_role(conn: Shared, straight: bool) {
    if conn.plain_role() != Role::Unknown as u8 {
        return;
    }
    // The port first: what follows the role is counted by it.
    conn.set_port(if straight { conn.peer_port() } else { conn.local_port() });
    conn.set_role(if straight { Role::Client as u8 } else { Role::Server as u8 | MIRRORED });
}
