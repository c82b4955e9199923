//! The one state machine of a connection: how it opens, and how it closes and why. Hooks translate their arguments into calls
//! of it, whoever notices first; nothing is counted twice, since phases change by compare-and-swap.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use observer_common::{
    label::{Failure, Reason, ResetCause, Role, Timeout},
    protocol::{
        Protocol,
        http1::exchange::{self, Facts},
    },
    stream::{Parser, Stream, order},
    wire::{
        conn::{NO_CELL, TX, flag, phase},
        loss::Loss,
        slot,
    },
};

use crate::{
    accounting::{add, losses::lost, records, slots, transitions},
    maps::ERROR_FIRST,
    memory::shared::Shared,
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_FIN_WAIT2: i32 = 5;
const TCP_CLOSE_WAIT: i32 = 8;
const TCP_LAST_ACK: i32 = 9;
const TCP_CLOSING: i32 = 11;
/// In place of the state before CLOSE when its event was skipped.
const UNSEEN: i32 = 0;
/// A SYN is sent again, or given up, no sooner than a second after it was sent (RFC 6298 section 2.1); an error that comes
/// earlier was told by the network.
const SYN_TIMEOUT_NS: u64 = 900_000_000;
/// Between an error that ends a connection and CLOSE, in one call of the kernel's, with room for interrupts.
const SAME_CALL_NS: u64 = 1_000_000;

/// The first SYN of an active open, from the segment hook. The socket may have had an earlier life: its state starts
/// afresh.
#[inline(always)]
pub(crate) fn connecting(conn: Shared) {
    // An earlier life whose end nothing has explained.
    match conn.phase() {
        phase::ABORTING => late(conn, true),
        phase::FAILING => fail(conn, Failure::Cancelled),
        _ => {}
    }
    renew(conn, Role::Client);
    conn.set_phase(phase::CONNECTING);
}

/// Makes `conn` the state of a new connection.
#[inline(always)]
fn renew(conn: Shared, role: Role) {
    conn.set_role(role as u8);
    conn.set_flags(0);
    conn.set_cell(NO_CELL);
    conn.set_error_ns(0);
    conn.set_retransmits(0);
    conn.set_reset_cause(0);
    begin_streams(conn);
}

/// Nothing has been seen of either stream.
#[inline(always)]
fn begin_streams(conn: Shared) {
    conn.set_facts(Facts::default());
    let [request, response] = exchange::begin();
    begin_stream(conn, true, request);
    begin_stream(conn, false, response);
}

/// Clears a stream word by word: as a whole it would take room on the stack.
#[inline(always)]
fn begin_stream(conn: Shared, is_request: bool, parser: Parser) {
    let stream = conn.stream(is_request);
    // SAFETY: places within the state; nobody works on the streams of a connection that has had no segment.
    unsafe {
        for word in 0..size_of::<Stream>() / 8 {
            ptr::write_volatile(stream.cast::<u64>().add(word), 0);
        }
        ptr::write_volatile(&raw mut (*stream).parser.mode, parser.mode);
        ptr::write_volatile(&raw mut (*stream).parser.state, parser.state);
        ptr::write_volatile(conn.kept_count(is_request), 0);
    }
    conn.ask(is_request, order::NONE);
}

/// Makes `conn` the state of a listener of this cgroup and port, which its children get a copy of; `cell` is what they are
/// born into.
#[inline(always)]
pub(crate) fn listening(conn: Shared, cgroup: u64, port: u16) {
    conn.set_cgroup(cgroup);
    conn.set_port(port);
    conn.set_role(Role::Server as u8);
    conn.set_flags(flag::CONFIRMED);
    begin_streams(conn);
    conn.set_cell(slots::find_or_make(transitions::key(conn, Protocol::Tcp as u8)));
    // Last: a child that is born from now on finds all of it. Nobody else may have been faster with something else.
    conn.advance(phase::NEW, phase::LISTENER);
}

/// A handshake is done, and so is the role known: a socket whose handshake began before the programs were attached has a
/// fresh state, and gets its role here.
#[inline(always)]
pub(crate) fn established(conn: Shared, role: Role) {
    if conn.phase() == phase::NEW {
        // Before it is established: from then on a segment may count it.
        renew(conn, role);
        conn.advance(phase::NEW, phase::ESTABLISHED);
        begin(conn);
    } else {
        opened(conn);
    }
}

/// A connection is established; does nothing if that is known.
#[inline(always)]
pub(crate) fn opened(conn: Shared) {
    // Looked at first: most events come for connections whose opening is known, and swaps cost even when they fail.
    match conn.phase() {
        phase::LISTENER if conn.advance(phase::LISTENER, phase::ESTABLISHED) => accepted(conn),
        phase::CONNECTING if conn.advance(phase::CONNECTING, phase::ESTABLISHED) => {
            begin(conn);
        }
        _ => {}
    }
}

#[inline(always)]
fn begin(conn: Shared) {
    // SAFETY: no arguments.
    conn.set_born_ns(unsafe { bpf_ktime_get_ns() });
    if conn.has(flag::CONFIRMED) {
        transitions::open(conn, NO_CELL);
        // What a SYN has carried (fast open) was sent before there was a cell to count it in.
        let early = conn.bytes(conn.is_request(TX));
        if early != 0 {
            add::bytes(conn, TX, early);
        }
    }
}

/// A child of a listener: its state is a copy of the listener's.
#[inline(always)]
fn accepted(conn: Shared) {
    // SAFETY: no arguments.
    conn.set_born_ns(unsafe { bpf_ktime_get_ns() });
    transitions::open(conn, conn.cell());
}

/// A socket has reached CLOSE from `old`; does nothing if that is known. `unanswered`: it is known to wait for the answer
/// to a segment.
#[inline(always)]
pub(crate) fn closed(conn: Shared, old: i32, unanswered: bool) {
    // A child whose birth was skipped, and which has had no segment since.
    if conn.phase() == phase::LISTENER && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT) {
        opened(conn);
    }
    match conn.phase() {
        phase::COUNTED => ended(conn, old),
        phase::CONNECTING => failed(conn, unanswered),
        phase::ESTABLISHED => {
            lost(Loss::Unattributed);
            conn.set_phase(phase::CLOSED);
        }
        _ => {}
    }
}

/// The last traces of a socket are removed: what CLOSE has not settled is settled here.
#[inline(always)]
pub(crate) fn destroyed(conn: Shared) {
    // Over, and in a cell all the same: whatever went wrong, a socket that is gone is not active.
    let misplaced = conn.phase() == phase::CLOSED && conn.cell() != NO_CELL;
    if misplaced {
        lost(Loss::MisplacedEnd);
    }
    match conn.phase() {
        // A program that aborts destroys the socket in the same call; one that learns of an error closes it later.
        phase::ABORTING => {
            // SAFETY: no arguments.
            let now = unsafe { bpf_ktime_get_ns() };
            late(conn, now.wrapping_sub(conn.closed_ns()) < SAME_CALL_NS);
        }
        phase::CONNECTING | phase::FAILING => fail(conn, Failure::Cancelled),
        phase::ESTABLISHED => lost(Loss::Unattributed),
        seen if seen == phase::COUNTED || misplaced => ended(conn, UNSEEN),
        _ => {}
    }
}

/// An end that CLOSE has not explained: an error that follows does, or the socket's end if events were skipped.
#[inline(always)]
fn late(conn: Shared, by_program: bool) {
    // A reset has left since CLOSE, or it would have explained it: that of an abort, whose event was skipped.
    let reason =
        if count_skipped_reset(conn) || by_program { Reason::ResetLocal } else { broken(conn) };
    finish(conn, reason);
}

/// Counts the reset that this side has sent, if its event was skipped; its cause is not known. Whether it has sent one.
#[inline(always)]
fn count_skipped_reset(conn: Shared) -> bool {
    let left = conn.has(flag::RESET_LEFT);
    if left && !conn.has(flag::RESET_LOCAL) {
        note_reset(conn, ResetCause::Unspecified as u8);
    }
    left
}

/// Notes and counts a reset of ours.
#[inline(always)]
fn note_reset(conn: Shared, cause: u8) {
    conn.mark(flag::RESET_LOCAL);
    conn.set_reset_cause(cause);
    add::reset_sent(conn, cause);
}

/// We have reset the peer.
#[inline(always)]
pub(crate) fn reset_sent(conn: Shared, cause: u8) {
    match conn.phase() {
        phase::LISTENER | phase::NEW => {}
        // An answer to an older connection's segment does not end the attempt to connect that has met it.
        phase::CONNECTING => add::reset_sent(conn, cause),
        seen => {
            note_reset(conn, cause);
            if seen == phase::ABORTING {
                let unread = cause == ResetCause::AbortOnClose as u8;
                finish(conn, if unread { Reason::Aborted } else { Reason::ResetLocal });
            }
        }
    }
}

/// The socket has reported an error.
#[inline(always)]
pub(crate) fn errored(conn: Shared) {
    match conn.phase() {
        phase::ABORTING => late(conn, false),
        phase::FAILING => broken_off(conn),
        phase::CONNECTING => conn.mark(flag::ERROR),
        // SAFETY: no arguments.
        _ => conn.set_error_ns(unsafe { bpf_ktime_get_ns() }),
    }
}

/// Why an error, and not the program, has ended a connection that neither side had ended in order.
#[inline(always)]
fn broken(conn: Shared) -> Reason {
    if conn.has(flag::RESET_SEEN) {
        add::one(conn, &slot::RESETS_RECEIVED, 0);
        return Reason::ResetPeer;
    }
    // Keep-alive probes are given up with a reset, retransmissions without; a destroyed socket (`ss --kill`) also sends
    // one, for another cause.
    count_skipped_reset(conn);
    let kind = if !conn.has(flag::RESET_LOCAL) {
        Timeout::Retransmission
    } else if conn.reset_cause() == ResetCause::KeepaliveTimeout as u8
        || conn.reset_cause() == ResetCause::Unspecified as u8
    {
        Timeout::Keepalive
    } else {
        return Reason::ResetLocal;
    };
    add::one(conn, &slot::TIMEOUTS, kind as usize);
    Reason::Timeout
}

/// A counted connection has reached CLOSE from `old`.
#[inline(always)]
fn ended(conn: Shared, old: i32) {
    // SAFETY: no arguments.
    conn.set_closed_ns(unsafe { bpf_ktime_get_ns() });
    let flags = conn.flags();
    let has = |of: u32| flags & of != 0;
    let error_first = ERROR_FIRST.get(0).is_some_and(|first| *first != 0);
    let broke = error_first
        && conn.error_ns() != 0
        && conn.closed_ns().wrapping_sub(conn.error_ns()) < SAME_CALL_NS;
    let reason = if has(flag::RESET_PEER) {
        add::one(conn, &slot::RESETS_RECEIVED, 0);
        Reason::ResetPeer
    } else {
        match old {
            // The reset of an abort is sent after this event: one that has left already is no program's.
            TCP_ESTABLISHED | TCP_CLOSE_WAIT if broke || has(flag::RESET_LEFT) => broken(conn),
            // Neither side has ended it in order, and nothing has happened to it yet: either we abort, and the reset
            // (`tcp_close`, `tcp_disconnect`) says why, on kernels that say; or an error follows.
            TCP_ESTABLISHED | TCP_CLOSE_WAIT => {
                conn.set_phase(phase::ABORTING);
                return;
            }
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING => Reason::Local,
            TCP_LAST_ACK => Reason::Peer,
            _ if has(flag::RESET_SEEN) => broken(conn),
            _ if has(flag::RESET_LOCAL) => Reason::ResetLocal,
            _ if has(flag::FIN_LOCAL) => Reason::Local,
            _ if has(flag::FIN_PEER) => Reason::Peer,
            _ => Reason::Unknown,
        }
    };
    finish(conn, reason);
}

/// Counts and records the end of a connection that CLOSE has passed.
#[inline(always)]
pub(crate) fn finish(conn: Shared, reason: Reason) {
    let now = conn.closed_ns();
    if transitions::close(conn, reason, now) {
        records::ended(conn, now, reason);
    }
}

/// An attempt to connect has ended without a connection. Before it ends one the kernel forgets the SYN
/// (`tcp_done_with_error`, or before 6.10 reports the error first): with a SYN that still waits for its answer
/// (`unanswered`) the program has given up. It may report an error all the same (`tcp_disconnect`, by `SO_LINGER` 0).
#[inline(always)]
fn failed(conn: Shared, unanswered: bool) {
    // SAFETY: no arguments.
    conn.set_closed_ns(unsafe { bpf_ktime_get_ns() });
    if conn.has(flag::RESET_PEER) {
        fail(conn, Failure::Refused);
    } else if conn.has(flag::ERROR) {
        broken_off(conn);
    } else if unanswered {
        fail(conn, Failure::Cancelled);
    } else {
        // The program has given up, or an error follows.
        conn.set_phase(phase::FAILING);
    }
}

/// An attempt to connect has ended by an error, without a reset.
#[inline(always)]
fn broken_off(conn: Shared) {
    if conn.closed_ns().saturating_sub(conn.syn_ns()) < SYN_TIMEOUT_NS {
        return fail(conn, Failure::Unreachable);
    }
    add::one(conn, &slot::TIMEOUTS, Timeout::Connect as usize);
    fail(conn, Failure::TimedOut);
}

#[inline(always)]
fn fail(conn: Shared, failure: Failure) {
    conn.set_phase(phase::CLOSED);
    add::one(conn, &slot::FAILED, failure as usize);
}
