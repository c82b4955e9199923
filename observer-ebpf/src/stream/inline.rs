//! What the segment programs do with most segments themselves, without a tail call: bodies, whole plain requests, a connection's
//! first included, and a few WebSocket frames.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    framing::Stretch,
    protocol::{
        automaton::REQUEST_FIRST,
        facts::{Facts, UNCOUNTED},
        http1, mode,
        parse::Parse,
    },
    recorder::Recorder,
    source::Source,
    stream::{Parser, order},
};

use super::{
    claim::Claimed,
    job::Job,
    packet::{self, Packet},
};
use crate::accounting::{add::Existing, transitions};

/// What of one segment is followed without a tail call.
const INLINE: Stretch = Stretch { frames: 4, rare: false };

/// Functions of the parsers whose frames are followed without a tail call.
macro_rules! followed {
    (
        spoken { $($spoken:tt)* }
        counters { $($counters:tt)* }
        parsers { $(
            $(#[$about:meta])*
            $mode:ident = $place:literal: $packet:ident, $small:ident, $large:ident
                => $room:ident::$parser:ident, $tells:literal;
        )+ }
    ) => {
        /// Whether [`follow`] is for streams of this mode.
        #[inline(always)]
        pub(super) const fn is_followed(mode: u8) -> bool {
            $((mode == mode::$mode && <observer_common::protocol::$room::$parser>::INLINE))||+
        }

        /// Follows and counts a few frames, none of them rare.
        #[inline(always)]
        pub(super) fn follow(
            source: &mut impl Source,
            parser: &mut Parser,
            mode: u8,
            stretch: Stretch,
            recorder: &mut impl Recorder,
        ) {
            $(
                if mode == mode::$mode && <observer_common::protocol::$room::$parser>::INLINE {
                    use observer_common::protocol::$room::$parser as Of;
                    if let Some(found) = Of::parse(source, parser, stretch, recorder) {
                        Of::record(found, 0, recorder);
                    }
                }
            )+
        }
    };
}

observer_common::protocols!(followed);

/// Reads the segment of the job if that is a matter of a few instructions; true if it is consumed.
#[inline(always)]
pub(crate) fn read(skb: *mut __sk_buff, claimed: &mut Claimed, direction: usize) -> bool {
    let parser = *claimed.parser();
    match parser.mode {
        mode::OFF => true,
        // Only a client's stream is in these states.
        mode::HEADS if matches!(parser.state, http1::REQUEST_BODY | REQUEST_FIRST) => {
            request(skb, claimed, parser.state == REQUEST_FIRST)
        }
        mode => is_followed(mode) && frames(skb, claimed, mode, direction),
    }
}

/// Before the first message of a cell there is no place to count in: a parser makes it.
#[inline(always)]
fn frames(skb: *mut __sk_buff, claimed: &mut Claimed, mode: u8, direction: usize) -> bool {
    let Some(mut recorder) = Existing::of(claimed.conn(), direction) else { return false };
    let mut source = Packet(skb);
    follow(&mut source, claimed.parser(), mode, INLINE, &mut recorder);
    source.left() == 0
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
    let outcome = http1::exchange::conclude(true, &mut parser, &mut facts, http1::PLAIN_FIRST);
    if old.guessing != 0 || !conn.swap_facts(word, facts) {
        return false;
    }
    // In the order of `parsers::conclude`.
    if old.protocol != facts.protocol {
        transitions::transition(conn);
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
    // GET, CONNECT, and the methods by which other upgrades are asked for.
    if !matches!(first, b'G' | b'C' | b'P' | b'\r' | b'\n') {
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
