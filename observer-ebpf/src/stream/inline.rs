//! What the segment programs do with most segments themselves, without a tail call: bodies, whole plain requests, and a few
//! WebSocket frames.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    framing::{Framing, follow},
    protocol::{
        http1::{self, exchange::UNCOUNTED},
        websocket::{Tally, WebSocket},
    },
    stream::mode,
};

use super::{
    claim::Claimed,
    job::Job,
    packet::{self, Packet},
};
use crate::accounting::add::ProtocolBlock;

/// WebSocket frames of one segment that are followed without a tail call.
const INLINE_FRAMES: usize = 4;

/// Reads the segment of the job if that is a matter of a few instructions; true if it is consumed.
#[inline(always)]
pub(crate) fn read(skb: *mut __sk_buff, claimed: &mut Claimed) -> bool {
    let parser = *claimed.parser();
    match parser.mode {
        mode::OFF => true,
        mode::WEBSOCKET => frames(skb, claimed),
        mode::HTTP1 if claimed.is_request() && parser.state == http1::REQUEST_BODY => {
            request(skb, claimed)
        }
        _ => false,
    }
}

#[inline(always)]
fn frames(skb: *mut __sk_buff, claimed: &mut Claimed) -> bool {
    let mut tally = Tally::default();
    let consumed =
        follow::<WebSocket>(&mut Packet(skb), claimed.parser(), &mut tally, INLINE_FRAMES);
    let (conn, request) = (claimed.conn(), claimed.is_request());
    WebSocket::record(tally, conn.direction(request), &mut ProtocolBlock(conn));
    consumed
}

/// Between two heads.
#[inline(always)]
fn request(skb: *mut __sk_buff, claimed: &Claimed) -> bool {
    let conn = claimed.conn();
    let facts = conn.facts();
    match between_heads(skb) {
        Between::Body => {
            if facts.unanswered != UNCOUNTED {
                conn.set_unanswered(UNCOUNTED);
            }
            true
        }
        Between::PlainHead => {
            let mut next = facts;
            next.plain_request();
            conn.set_unanswered(next.unanswered);
            true
        }
        Between::Head => false,
    }
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
fn between_heads(skb: *mut __sk_buff) -> Between {
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
    } else if small && http1::is_plain_get(words, left as usize) {
        Between::PlainHead
    } else {
        Between::Head
    }
}
