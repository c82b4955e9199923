//! Who may work on a stream. Segments of one stream may pass on several processors at once: one program claims the stream by
//! compare-and-swap, and keeps the claim through its tail calls; others hand their segment over. Nobody waits.
//!
//! [`Stream::gate`] holds the claim and, in its lower half, the list of what was handed over, so that giving up the claim
//! fails when something was: then whoever has it goes on ([`super::drain`]).

use core::ptr;

use observer_common::{
    stream::{CLAIMED, INBOX, Parser, Stream, flag},
    wire::kept::Kept,
};

use crate::{
    accounting::add,
    memory::{atomic, shared::Shared},
};

/// How a claim went.
pub(crate) enum Claim {
    /// It is ours, and nothing was handed over.
    Alone(Claimed),
    /// It is ours, and so is what was handed over.
    WithInbox(Claimed),
    /// Somebody else works on the stream.
    Busy,
}

/// A stream that this program, or the chain of tail calls that it is part of, works on.
pub(crate) struct Claimed {
    conn: Shared,
    request: bool,
    stream: *mut Stream,
}

/// Tries to claim a stream.
#[inline(always)]
pub(crate) fn claim(conn: Shared, request: bool) -> Claim {
    let claimed = Claimed::held(conn, request);
    let gate = claimed.gate();
    // SAFETY: an aligned word of the state.
    let seen = unsafe { atomic::compare_and_swap_long(gate, 0, CLAIMED) };
    if seen == 0 {
        return Claim::Alone(claimed);
    }
    if seen & CLAIMED == 0 {
        // SAFETY: as above.
        let again = unsafe { atomic::compare_and_swap_long(gate, seen, seen | CLAIMED) };
        if again == seen {
            return Claim::WithInbox(claimed);
        }
    }
    Claim::Busy
}

/// Hands a kept segment (its index plus one, and the entry) over to whoever has claimed the stream; the claim, if nobody has.
#[inline(always)]
pub(crate) fn hand_over(
    conn: Shared,
    request: bool,
    index: u32,
    entry: *mut Kept,
) -> Result<Option<Claimed>, ()> {
    let claimed = Claimed::held(conn, request);
    // Each turn that fails is one in which somebody else has got on.
    for _ in 0..8 {
        // SAFETY: an aligned word of the state.
        let seen = unsafe { ptr::read_volatile(claimed.gate()) };
        // SAFETY: the entry is ours until it is in the list.
        unsafe { ptr::write_volatile(&raw mut (*entry).next, (seen & INBOX) as u32) };
        let new = CLAIMED | u64::from(index);
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap_long(claimed.gate(), seen, new) } == seen {
            return Ok((seen & CLAIMED == 0).then_some(claimed));
        }
    }
    Err(())
}

impl Claimed {
    /// The stream that the chain of this program has claimed.
    #[inline(always)]
    pub(crate) fn held(conn: Shared, request: bool) -> Self {
        Self { conn, request, stream: conn.stream(request) }
    }

    #[inline(always)]
    fn gate(&self) -> *mut u64 {
        // SAFETY: a word within the state.
        unsafe { &raw mut (*self.stream).gate }
    }

    /// The connection.
    #[inline(always)]
    pub(crate) fn conn(&self) -> Shared {
        self.conn
    }

    /// Whether it is the client's stream.
    #[inline(always)]
    pub(crate) fn is_request(&self) -> bool {
        self.request
    }

    /// What its parser remembers.
    #[inline(always)]
    pub(crate) fn parser(&mut self) -> &mut Parser {
        // SAFETY: the claim makes it exclusive.
        unsafe { &mut (*self.stream).parser }
    }

    /// The sequence number expected next.
    #[inline(always)]
    pub(crate) fn next_seq(&self) -> u32 {
        // SAFETY: the claim makes it exclusive.
        unsafe { (*self.stream).next_seq }
    }

    /// Sets the sequence number expected next.
    #[inline(always)]
    pub(crate) fn set_next_seq(&mut self, next_seq: u32) {
        // SAFETY: the claim makes it exclusive.
        unsafe { (*self.stream).next_seq = next_seq }
        self.parser().flags |= flag::SYNCED;
    }

    /// The first of the kept segments, its index plus one; 0 without any.
    #[inline(always)]
    pub(crate) fn kept(&self) -> u32 {
        // SAFETY: the claim makes writes exclusive.
        unsafe { (*self.stream).kept }
    }

    /// Sets the first of the kept segments.
    #[inline(always)]
    pub(crate) fn set_kept(&mut self, kept: u32) {
        // SAFETY: the claim makes writes exclusive; others may look.
        unsafe { ptr::write_volatile(&raw mut (*self.stream).kept, kept) }
    }

    /// Takes note of when payload has passed.
    #[inline(always)]
    pub(crate) fn set_payload_ns(&mut self, now: u64) {
        // SAFETY: the claim makes writes exclusive; others may look.
        unsafe { ptr::write_volatile(&raw mut (*self.stream).payload_ns, now) }
    }

    /// Counts payload that is in sequence.
    #[inline(always)]
    pub(crate) fn accept(&mut self, bytes: u32) {
        self.accept_in(self.conn.direction(self.request), bytes);
    }

    /// Counts payload that is in sequence, the direction of the stream being known.
    #[inline(always)]
    pub(crate) fn accept_in(&mut self, direction: usize, bytes: u32) {
        self.set_next_seq(self.next_seq().wrapping_add(bytes));
        // SAFETY: the claim makes writes exclusive; others may look.
        unsafe {
            let total = &raw mut (*self.stream).bytes;
            ptr::write_volatile(total, (*self.stream).bytes + u64::from(bytes));
        }
        add::bytes(self.conn, direction, u64::from(bytes));
    }

    /// Takes what was handed over: the first of the list, its index plus one. `None` if others are handing over so fast that it
    /// cannot be had now.
    #[inline(always)]
    pub(crate) fn take_inbox(&mut self) -> Option<u32> {
        for _ in 0..8 {
            // SAFETY: an aligned word of the state.
            let seen = unsafe { ptr::read_volatile(self.gate()) };
            if seen & INBOX == 0 {
                return Some(0);
            }
            // SAFETY: as above.
            if unsafe { atomic::compare_and_swap_long(self.gate(), seen, CLAIMED) } == seen {
                return Some((seen & INBOX) as u32);
            }
        }
        None
    }

    /// Gives up the claim; the claim again if something was handed over meanwhile.
    #[inline(always)]
    pub(crate) fn release(self) -> Result<(), Self> {
        // SAFETY: an aligned word of the state.
        if unsafe { atomic::compare_and_swap_long(self.gate(), CLAIMED, 0) } == CLAIMED {
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Gives up the claim, whatever was handed over: the next event of the connection finds it.
    #[inline(always)]
    pub(crate) fn abandon(self) {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::and(self.gate(), !CLAIMED) }
    }
}
