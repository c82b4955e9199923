//! Follows WebSocket frames at their boundaries; payload is never read.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    protocol::websocket::{
        self, Header, bit,
        counters::{INVALID_FRAMES, MESSAGES},
    },
    wire::conn::Conn,
};

use super::{job::Job, packet};
use crate::accounting::add;

/// What a stretch of frames added up to.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    messages: u64,
    errors: u64,
}

impl Tally {
    #[inline(always)]
    pub(super) fn add(&mut self, bits: u8) {
        self.messages += u64::from(bits >> bit::MESSAGE_SHIFT & 1);
        self.errors += u64::from(bits >> bit::INVALID_SHIFT & 1);
    }

    /// Adds the stretch to the connection's cell.
    #[inline(always)]
    pub(super) fn count(self, conn: &Conn, request: bool) {
        if self.messages != 0 {
            add::protocol_share(conn, &MESSAGES, conn.direction(request), self.messages);
        }
        if self.errors != 0 {
            add::protocol(conn, &INVALID_FRAMES, 0, self.errors);
        }
    }
}

/// Follows at most `frames` frames of the job in the control buffer and leaves there what remains; true when the segment
/// is consumed.
#[inline(always)]
pub(super) fn follow(skb: *mut __sk_buff, conn: &mut Conn, frames: usize) -> bool {
    let mut tally = Tally::default();
    let request = Job::take(skb).request;
    let stream = conn.flow.stream_mut(request);
    for _ in 0..frames {
        if stream.pos != 0 {
            break;
        }
        Job::advance(skb, websocket::skip(stream, Job::left(skb)));
        // What may be cut is left for below: here a header is always complete, which spares branches.
        if Job::left(skb) < websocket::HEADER as u32 {
            break;
        }
        let Some(words) = load(skb, Job::offset(skb), websocket::HEADER as u32) else { break };
        let Some(header) = Header::read(words, websocket::HEADER as u32) else { break };
        stream.left = header.payload;
        tally.add(header.bits);
        Job::advance(skb, header.length);
    }
    // A header that the segment's start or end cuts, or may.
    if (stream.pos != 0 || stream.left == 0)
        && let Some((words, available)) = next(skb)
    {
        let (used, bits) = websocket::header(stream, words, available);
        tally.add(bits);
        Job::advance(skb, used);
    }
    if stream.pos == 0 {
        Job::advance(skb, websocket::skip(stream, Job::left(skb)));
    }
    tally.count(conn, request);
    Job::left(skb) == 0
}

/// Loads the header that the job is at, with the number of its bytes that are there; `None` at the segment's end.
#[inline(always)]
fn next(skb: *mut __sk_buff) -> Option<([u64; 2], u32)> {
    let left = Job::left(skb);
    if left == 0 {
        return None;
    }
    let available = websocket::min(u64::from(left), websocket::HEADER as u64) as u32;
    let Some(words) = load(skb, Job::offset(skb), available) else {
        // Nothing more can be read of this packet.
        Job::advance(skb, left);
        return None;
    };
    Some((words, available))
}

/// Loads `available` bytes of a frame header, 1 to 14.
#[inline(always)]
fn load(skb: *mut __sk_buff, offset: u32, available: u32) -> Option<[u64; 2]> {
    let mut words = MaybeUninit::<[u64; 2]>::uninit();
    let start: *mut u64 = words.as_mut_ptr().cast();
    // SAFETY: two words on the stack; written one by one, since LLVM would call a loop for an array. Together
    // they have room for 16 bytes.
    unsafe {
        start.write_volatile(0);
        start.add(1).write_volatile(0);
        packet::load::<16>(skb, offset, start.cast(), available).then(|| words.assume_init())
    }
}
