//! Follows WebSocket frames at their boundaries; payload is never read.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    conn::Conn,
    flow::Stream,
    websocket::{self, bit},
};

use super::{job::Job, packet};
use crate::count;

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
    pub(super) fn count(self, conn: &Conn, direction: usize) {
        if self.messages | self.errors != 0 {
            count::frames(conn, direction, self.messages, self.errors);
        }
    }
}

/// Skips payload of the current frame: up to `left` bytes, returns how many.
#[inline(always)]
pub(super) fn skip(stream: &mut Stream, left: u32) -> u32 {
    let skip = if stream.left < u64::from(left) { stream.left as u32 } else { left };
    stream.left -= u64::from(skip);
    if stream.left == 0 {
        stream.state = websocket::IN_HEADER;
    }
    skip
}

/// Follows at most `frames` frames of the job in the control buffer and leaves there what remains; true when the segment
/// is consumed.
#[inline(always)]
pub(super) fn follow(skb: *mut __sk_buff, conn: &mut Conn, direction: usize, frames: usize) -> bool {
    let mut tally = Tally::default();
    let mut done = false;
    for _ in 0..frames {
        let mut job = Job::take(skb);
        let stream = if job.request { &mut conn.flow.request } else { &mut conn.flow.response };
        if stream.state == websocket::IN_PAYLOAD {
            job = job.advanced(skip(stream, job.left));
        }
        if job.left == 0 {
            done = true;
            break;
        }
        let available = if job.left < websocket::HEADER as u32 { job.left } else { websocket::HEADER as u32 };
        let Some(words) = load(skb, job.offset, available) else {
            done = true;
            break;
        };
        let (used, bits) = websocket::header(stream, words, available);
        tally.add(bits);
        job.advanced(used).put(skb);
    }
    if !done {
        // The last frame's payload may be all that is left.
        let mut job = Job::take(skb);
        let stream = if job.request { &mut conn.flow.request } else { &mut conn.flow.response };
        if stream.state == websocket::IN_PAYLOAD {
            job = job.advanced(skip(stream, job.left));
            job.put(skb);
        }
        done = job.left == 0;
    }
    tally.count(conn, direction);
    done
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
