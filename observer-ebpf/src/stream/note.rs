//! The first payload of a connection whose handshake it completes (`TCP_DEFER_ACCEPT`, a lost ACK, data in the SYN): it passes
//! the listener's hook, is kept, and goes to the child that it makes, in the same softirq on the same processor.

use observer_common::{
    stream::{flag, mode},
    wire::{conn::phase, kept::Kept, loss::Loss},
};

use super::{
    claim::{Claim, claim, hand_over},
    kept,
};
use crate::{accounting::losses::lost, maps::NOTE, memory::shared::Shared};

/// Parts in which one segment may be kept.
const PARTS: usize = 8;

/// A handshake is being completed on this processor: whether both ends of the connection are in one pod.
#[inline(always)]
pub(crate) fn path(internal: bool) {
    if let Some(note) = NOTE.get_ptr_mut(0) {
        // SAFETY: this processor's element, used within a softirq.
        unsafe { (*note).internal = u32::from(internal) };
    }
}

/// Whether the connection that has just been accepted has both ends in one pod: its handshake was completed in the same softirq.
#[inline(always)]
pub(crate) fn is_internal() -> bool {
    // SAFETY: this processor's element, used within a softirq.
    NOTE.get_ptr_mut(0).is_some_and(|note| unsafe { (*note).internal } != 0)
}

/// A segment with payload from this peer is about to be kept. What no child has taken is let go.
#[inline(always)]
pub(crate) fn expect(peer: u64) {
    let Some(note) = NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this processor's element, used within a softirq.
    unsafe {
        kept::let_go_of((*note).kept);
        (*note).kept = 0;
        (*note).peer = peer;
    }
}

/// Notes a kept segment, or a part of one.
#[inline(always)]
pub(super) fn put(index: u32, entry: *mut Kept) {
    let Some(note) = NOTE.get_ptr_mut(0) else { return kept::free(index) };
    // SAFETY: this processor's element, used within a softirq; the entry is in no list.
    unsafe {
        (*entry).next = (*note).kept;
        (*note).kept = index;
    }
}

/// Gives what was noted to a connection of that peer that has just been accepted, and whose first byte has the number `start`.
#[inline(always)]
pub(crate) fn give(conn: Shared, peer: u64, start: u32) {
    let Some(note) = NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this processor's element, used within a softirq.
    let (mut index, of) = unsafe { ((*note).kept, (*note).peer) };
    if index == 0 || of != peer || !matches!(conn.phase(), phase::ESTABLISHED | phase::COUNTED) {
        return;
    }
    // SAFETY: as above.
    unsafe { (*note).kept = 0 };
    for _ in 0..PARTS {
        let Some(entry) = kept::entry(index) else { return };
        // SAFETY: an entry of this processor's list.
        let next = unsafe { (*entry).next };
        // A segment that is faster than this, and at work on the stream, knows from TCP where the stream begins, and finds what is
        // handed over.
        match hand_over(conn, true, index, entry) {
            Ok(Some(mut claimed)) => {
                if claimed.parser().flags & flag::SYNCED == 0 {
                    claimed.set_next_seq(start);
                }
                claimed.abandon();
            }
            Ok(None) => {}
            Err(()) => kept::free(index),
        }
        index = next;
    }
    kept::let_go_of(index);
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
