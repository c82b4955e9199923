//! The first payload of a connection whose handshake it completes (`TCP_DEFER_ACCEPT`, a lost ACK, data in the SYN): it passes
//! the listener's hook, is kept, and goes to the child that it makes, in the same softirq on the same processor.

use observer_common::{
    stream::{flag, mode},
    wire::{conn::phase, loss::Loss},
};

use super::{
    claim::{Claim, claim},
    kept,
};
use crate::{accounting::losses::lost, maps::NOTE, memory::shared::Shared};

/// A segment with payload from this peer is about to be kept. What no child has taken is let go.
#[inline(always)]
pub(crate) fn expect(peer: u64) {
    put(None);
    if let Some(note) = NOTE.get_ptr_mut(0) {
        // SAFETY: this processor's element, used within a softirq.
        unsafe { (*note).peer = peer };
    }
}

/// Notes the kept segment.
#[inline(always)]
pub(super) fn put(kept: Option<u32>) {
    let Some(note) = NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this processor's element, used within a softirq.
    let before = unsafe { core::mem::replace(&mut (*note).kept, kept.unwrap_or(0)) };
    if before != 0 {
        kept::free(before);
    }
}

/// Gives what was noted to a connection of that peer that has just been accepted.
#[inline(always)]
pub(crate) fn give(conn: Shared, peer: u64) {
    let Some(note) = NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this processor's element, used within a softirq.
    let (index, of) = unsafe { ((*note).kept, (*note).peer) };
    if index == 0 || of != peer || conn.phase() != phase::COUNTED {
        return;
    }
    // SAFETY: as above.
    unsafe { (*note).kept = 0 };
    let Some(entry) = kept::entry(index) else { return };
    // A segment that is faster than this finds the claim taken and hands itself over.
    let (Claim::Alone(mut claimed) | Claim::WithInbox(mut claimed)) = claim(conn, true) else {
        return kept::free(index);
    };
    // SAFETY: the entry is in no list.
    claimed.set_next_seq(unsafe { (*entry).seq });
    if !kept::push(&mut claimed, index, entry) {
        kept::free(index);
    }
    claimed.abandon();
}

/// Lets go of what is kept of a connection that is over. That something of it has not been read is a loss.
#[inline(always)]
pub(crate) fn forget(conn: Shared) {
    if !kept::is_any() {
        return;
    }
    forget_stream(conn, true);
    forget_stream(conn, false);
}

/// Called once for each stream instead of in a loop, whose choice between the two would be a number to the verifier.
#[inline(always)]
fn forget_stream(conn: Shared, request: bool) {
    if !conn.has_kept(request) {
        return;
    }
    if let Claim::Alone(mut claimed) | Claim::WithInbox(mut claimed) = claim(conn, request) {
        let parser = *claimed.parser();
        if parser.flags & flag::PARKED != 0 && !matches!(parser.mode, mode::OFF | mode::WAIT) {
            lost(Loss::Gap);
        }
        kept::let_go(&mut claimed);
        claimed.abandon();
    }
}
