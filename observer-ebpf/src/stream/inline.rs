//! What the segment programs do with most segments themselves, without a tail call: bodies, whole plain requests, a connection's
//! first included, and a few WebSocket frames.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    framing::{Framing, follow},
    protocol::{
        automaton::REQUEST_FIRST,
        http1::{
            self,
            exchange::{self, Facts, UNCOUNTED},
        },
        websocket::{Tally, WebSocket},
    },
    stream::{mode, order},
};

use super::{
    claim::Claimed,
    job::Job,
    packet::{self, Packet},
};
use crate::accounting::{add::Block, transitions};

/// WebSocket frames of one segment that are followed without a tail call.
const INLINE_FRAMES: usize = 4;

/// Reads the segment of the job if that is a matter of a few instructions; true if it is consumed.
#[inline(always)]
pub(crate) fn read(skb: *mut __sk_buff, claimed: &mut Claimed, direction: usize) -> bool {
    let parser = *claimed.parser();
    match parser.mode {
        mode::OFF => true,
        mode::WEBSOCKET => frames(skb, claimed, direction),
        // Only a client's stream is in these states.
        mode::HTTP1 if matches!(parser.state, http1::REQUEST_BODY | REQUEST_FIRST) => {
            request(skb, claimed, parser.state == REQUEST_FIRST)
        }
        _ => false,
    }
}

/// Before the first message of a cell there is no place to count in: a parser makes it.
#[inline(always)]
fn frames(skb: *mut __sk_buff, claimed: &mut Claimed, direction: usize) -> bool {
    let Some(mut block) = Block::of(claimed.conn()) else { return false };
    let mut tally = Tally::default();
    let consumed =
        follow::<WebSocket>(&mut Packet(skb), claimed.parser(), &mut tally, INLINE_FRAMES);
    WebSocket::record(tally, direction, &mut block);
    consumed
}

/// Between two heads, or before the first.
#[inline(always)]
fn request(skb: *mut __sk_buff, claimed: &mut Claimed, is_first: bool) -> bool {
    let conn = claimed.conn();
    let facts = conn.facts();
    match between_heads(skb, is_first) {
        Between::PlainHead if is_first => first_request(claimed),
        Between::PlainHead => {
            let mut next = facts;
            next.plain_request();
            conn.set_unanswered(next.unanswered);
            true
        }
        Between::Body if !is_first => {
            if facts.unanswered != UNCOUNTED {
                conn.set_unanswered(UNCOUNTED);
            }
            true
        }
        _ => false,
    }
}

/// The first request of a connection, whole and plain: what the automaton would conclude from it.
#[inline(always)]
fn first_request(claimed: &mut Claimed) -> bool {
    let (conn, request) = (claimed.conn(), claimed.is_request());
    let word = conn.facts_word();
    let old = Facts::from_word(word);
    let (mut facts, mut parser) = (old, *claimed.parser());
    let outcome = exchange::conclude(true, &mut parser, &mut facts, http1::PLAIN_FIRST);
    if old.guessing != facts.guessing || !conn.swap_facts(word, facts) {
        return false;
    }
    // In the order of `parsers::conclude`.
    if old.protocol != facts.protocol {
        transitions::transition(conn, old.protocol);
    }
    if outcome.order != order::NONE {
        conn.ask(!request, outcome.order);
    }
    claimed.parser().state = parser.state;
    true
}

/// What a segment between two heads holds.
enum Between {
    /// Part of a body, or a request with another method than `GET`.
    Body,
    /// A whole request that asks for no upgrade.
    PlainHead,
    /// A head, or the start of one, that has to be looked at.
    Head,
}

/// Bytes in which a whole request head is recognised without a tail call.
const SMALL: usize = 256;

/// Most segments here are bodies, which one byte tells, or plain requests.
#[inline(always)]
fn between_heads(skb: *mut __sk_buff, is_first: bool) -> Between {
    let (offset, left) = (Job::offset(skb), Job::left(skb));
    let mut words = MaybeUninit::<[u64; SMALL / 8]>::uninit();
    let start: *mut u64 = words.as_mut_ptr().cast();
    let small = (left as usize) < SMALL - 8;
    let wanted = if small { left } else { 1 };
    // SAFETY: within the array, word by word, since LLVM would call a loop for the whole of it.
    unsafe {
        for i in 0..SMALL / 8 {
            start.add(i).write_volatile(0);
        }
        if !packet::load::<{ SMALL as u32 }>(skb, offset, start.cast(), wanted) {
            return Between::Body;
        }
    }
    // SAFETY: written above.
    let words = unsafe { words.assume_init_ref() };
    let first = words[0] as u8;
    if first != b'G' && first != b'\r' && first != b'\n' {
        Between::Body
    } else if small
        && http1::is_plain_get(words, left as usize)
        && (!is_first || http1::is_request_line(words))
    {
        Between::PlainHead
    } else {
        Between::Head
    }
}
