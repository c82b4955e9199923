//! Follows WebSocket frames at their boundaries; payload is never read.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    conn::Conn,
    websocket::{self, Header, bit},
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

/// Follows at most `frames` frames of the job in the control buffer and leaves there what remains; true when the segment
/// is consumed.
#[inline(always)]
pub(super) fn follow(
    skb: *mut __sk_buff,
    conn: &mut Conn,
    direction: usize,
    frames: usize,
) -> bool {
    let mut tally = Tally::default();
    let request = Job::take(skb).request;
    let stream = if request { &mut conn.flow.request } else { &mut conn.flow.response };
    for _ in 0..frames {
        if stream.pos != 0 {
            break;
        }
        let job = Job::take(skb);
        let job = job.advanced(websocket::skip(stream, job.left));
        job.put(skb);
        let Some((words, available)) = next(skb, &job) else { break };
        let Some(header) = Header::read(words, available) else { break };
        stream.left = header.payload;
        tally.add(header.bits);
        job.advanced(header.length).put(skb);
    }
    // A header that the segment's start or end cuts.
    let job = Job::take(skb);
    if let Some((words, available)) = next(skb, &job)
        && (stream.pos != 0 || stream.left == 0)
    {
        let (used, bits) = websocket::header(stream, words, available);
        tally.add(bits);
        job.advanced(used).put(skb);
    }
    if stream.pos == 0 {
        let job = Job::take(skb);
        job.advanced(websocket::skip(stream, job.left)).put(skb);
    }
    tally.count(conn, direction);
    Job::take(skb).left == 0
}

/// Loads the header that the job is at, with the number of its bytes that are there; `None` at the segment's end.
#[inline(always)]
fn next(skb: *mut __sk_buff, job: &Job) -> Option<([u64; 2], u32)> {
    if job.left == 0 {
        return None;
    }
    let available = websocket::min(u64::from(job.left), websocket::HEADER as u64) as u32;
    let Some(words) = load(skb, job.offset, available) else {
        Job { left: 0, ..*job }.put(skb);
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
