//! The one state machine of a connection: how it opens, and how it closes and why. Hooks translate their arguments into calls
//! of it, whoever notices first; nothing is counted twice, since phases change by compare-and-swap.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use observer_common::{
    label::{Failure, Reason, ResetCause, Role, Timeout},
    protocol::{
        Protocol, guess,
        http1::exchange::{self, Facts},
    },
    stream::{Parser, Stream},
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
        phase::ABORTING => settle(conn, End::Late { by_program: true }),
        phase::FAILING => settle(conn, End::Failed(Failure::Cancelled)),
        _ => {}
    }
    renew(conn, Role::Client);
}

/// Makes `conn` the state of a connection that is to be established.
#[inline(always)]
fn renew(conn: Shared, role: Role) {
    conn.set_role(role as u8);
    conn.set_flags(0);
    conn.set_cell(NO_CELL);
    conn.set_error_ns(0);
    conn.set_retransmits(0);
    conn.set_reset_cause(0);
    begin_streams(conn, Facts::default(), exchange::begin());
    conn.set_phase(phase::CONNECTING);
}

/// Nothing has been seen of either stream.
#[inline(always)]
fn begin_streams(conn: Shared, facts: Facts, [request, response]: [Parser; 2]) {
    conn.set_facts(facts);
    begin_stream(conn, true, request);
    begin_stream(conn, false, response);
}

/// Makes `conn`, which is fresh, the state of a connection that is older than the programs, whose addresses are to be filled in;
/// false if somebody else is about to do so.
#[inline(always)]
pub(crate) fn adopting(conn: Shared, role: Role) -> bool {
    if !conn.advance(phase::NEW, phase::ADOPTING) {
        return false;
    }
    conn.set_role(role as u8);
    conn.set_cell(NO_CELL);
    conn.mark(flag::ADOPTED);
    // SAFETY: no arguments.
    conn.set_born_ns(unsafe { bpf_ktime_get_ns() });
    begin_streams(conn, exchange::adopted(), [guess::begin(), guess::begin()]);
    true
}

/// The state that [`adopting`] has begun is complete. The end of a connection that has ended in between is counted when its
/// socket goes.
#[inline(always)]
pub(crate) fn adopted(conn: Shared) {
    conn.advance(phase::ADOPTING, phase::ESTABLISHED);
    transitions::adopt(conn);
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
    conn.set_tick(is_request, 0);
    conn.forget_order(is_request);
}

/// Makes `conn` the state of a listener of this cgroup and port, which its children get a copy of; `cell` is what they are
/// born into, if their path is that of the first of them.
#[inline(always)]
pub(crate) fn listening(conn: Shared, cgroup: u64, port: u16, internal: bool) {
    conn.set_cgroup(cgroup);
    conn.set_port(port);
    conn.set_role(Role::Server as u8);
    conn.set_flags(flag::CONFIRMED | if internal { flag::INTERNAL } else { 0 });
    begin_streams(conn, Facts::default(), exchange::begin());
    conn.set_cell(slots::find_or_make(transitions::key(conn, Protocol::Tcp as u8)));
    // Last: a child that is born from now on finds all of it. Nobody else may have been faster with something else.
    conn.advance(phase::NEW, phase::LISTENER);
}

/// A listener's child is about to be established: its state has the path of the listener's first, which need not be its own.
#[inline(always)]
pub(crate) fn accepting(conn: Shared, internal: bool) {
    if conn.phase() == phase::LISTENER && conn.has(flag::INTERNAL) != internal {
        conn.flip(flag::INTERNAL);
    }
}

/// A handshake is done, and so is the role known: a socket whose handshake began before the programs were attached has a
/// fresh state, and gets its role here.
#[inline(always)]
pub(crate) fn assign_role(conn: Shared, role: Role) {
    if conn.phase() == phase::NEW {
        renew(conn, role);
    }
}

/// A connection is established; does nothing if that is known.
#[inline(always)]
pub(crate) fn opened(conn: Shared) {
    if establish(conn) {
        begin(conn);
    }
}

/// A connection is established; true if it is to be counted: that was not known, and its cgroup is.
#[inline(always)]
pub(crate) fn establish(conn: Shared) -> bool {
    let seen = conn.phase();
    // Looked at first: most events come for connections whose opening is known, and swaps cost even when they fail.
    if !matches!(seen, phase::LISTENER | phase::CONNECTING)
        || !conn.advance(seen, phase::ESTABLISHED)
    {
        return false;
    }
    // SAFETY: no arguments.
    conn.set_born_ns(unsafe { bpf_ktime_get_ns() });
    conn.has(flag::CONFIRMED)
}

/// Counts an established connection whose cgroup is known.
#[inline(always)]
pub(crate) fn begin(conn: Shared) {
    // A listener's child has the listener's.
    let inherited = conn.cell();
    transitions::open(conn, inherited);
    // What a SYN has carried (fast open) was sent before there was a cell to count it in.
    let early = conn.bytes(conn.is_request(TX));
    if inherited == NO_CELL && early != 0 {
        add::bytes(conn, TX, early);
    }
}

/// Whether a socket that has reached CLOSE from `old` is a child whose birth was skipped, and which has had no segment since.
#[inline(always)]
pub(crate) fn is_unborn(conn: Shared, old: i32) -> bool {
    conn.phase() == phase::LISTENER && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT)
}

/// How a connection, or an attempt at one, has ended.
enum End {
    /// For this reason.
    Known(Reason),
    /// By an error, and not by the program; neither side had ended it in order.
    Broken,
    /// CLOSE has not explained it: an error that follows does, or the socket's end if events were skipped.
    Late { by_program: bool },
    /// The attempt has failed.
    Failed(Failure),
    /// What follows will tell, or there is nothing to tell.
    Open,
}

/// Counts an end.
#[inline(always)]
fn settle(conn: Shared, end: End) {
    let reason = match end {
        End::Known(reason) => reason,
        End::Broken => broken(conn, false, false),
        End::Late { by_program } => broken(conn, true, by_program),
        End::Failed(failure) => return fail(conn, failure),
        End::Open => return,
    };
    let now = conn.closed_ns();
    if transitions::close(conn, reason, now) {
        records::ended(conn, now, reason);
    }
}

/// A socket has reached CLOSE from `old`; does nothing if that is known. `unanswered`: it is known to wait for the answer
/// to a segment.
#[inline(always)]
pub(crate) fn closed(conn: Shared, old: i32, unanswered: bool) {
    let end = match conn.phase() {
        phase::COUNTED => ended(conn, old),
        phase::CONNECTING => failed(conn, unanswered),
        phase::ESTABLISHED => {
            lost(Loss::Unattributed);
            conn.set_phase(phase::CLOSED);
            End::Open
        }
        _ => End::Open,
    };
    settle(conn, end);
}

/// The last traces of a socket are removed: what CLOSE has not settled is settled here.
#[inline(always)]
pub(crate) fn destroyed(conn: Shared) {
    let seen = conn.phase();
    // Over, and in a cell all the same: whatever went wrong, a socket that is gone is not active.
    let misplaced = seen == phase::CLOSED && conn.cell() != NO_CELL;
    if misplaced {
        lost(Loss::MisplacedEnd);
    }
    let end = match seen {
        // A program that aborts destroys the socket in the same call; one that learns of an error closes it later.
        phase::ABORTING => {
            // SAFETY: no arguments.
            let now = unsafe { bpf_ktime_get_ns() };
            End::Late { by_program: now.wrapping_sub(conn.closed_ns()) < SAME_CALL_NS }
        }
        phase::CONNECTING | phase::FAILING => End::Failed(Failure::Cancelled),
        phase::ESTABLISHED => {
            lost(Loss::Unattributed);
            End::Open
        }
        seen if seen == phase::COUNTED || misplaced => ended(conn, UNSEEN),
        _ => End::Open,
    };
    settle(conn, end);
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
                let reason = if unread { Reason::Aborted } else { Reason::ResetLocal };
                settle(conn, End::Known(reason));
            }
        }
    }
}

/// The socket has reported an error.
#[inline(always)]
pub(crate) fn errored(conn: Shared) {
    let end = match conn.phase() {
        phase::ABORTING => End::Late { by_program: false },
        phase::FAILING => broken_off(conn),
        phase::CONNECTING => {
            conn.mark(flag::ERROR);
            End::Open
        }
        _ => {
            // SAFETY: no arguments.
            conn.set_error_ns(unsafe { bpf_ktime_get_ns() });
            End::Open
        }
    };
    settle(conn, end);
}

/// Why an error, or if `by_program` the program, has ended a connection that neither side had ended in order. `late`: a reset that
/// has left since CLOSE, or it would have explained it, is that of an abort whose event was skipped.
#[inline(always)]
fn broken(conn: Shared, late: bool, by_program: bool) -> Reason {
    let heard = conn.has(flag::RESET_SEEN);
    // Keep-alive probes are given up with a reset, retransmissions without; a destroyed socket (`ss --kill`) also sends
    // one, for another cause.
    let left = (late || !heard) && count_skipped_reset(conn);
    if late && (left || by_program) {
        return Reason::ResetLocal;
    }
    if heard {
        return Reason::ResetPeer;
    }
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
fn ended(conn: Shared, old: i32) -> End {
    // SAFETY: no arguments.
    conn.set_closed_ns(unsafe { bpf_ktime_get_ns() });
    let flags = conn.flags();
    let has = |of: u32| flags & of != 0;
    let error_first = ERROR_FIRST.get(0).is_some_and(|first| *first != 0);
    let broke = error_first
        && conn.error_ns() != 0
        && conn.closed_ns().wrapping_sub(conn.error_ns()) < SAME_CALL_NS;
    if has(flag::RESET_PEER) {
        return End::Known(Reason::ResetPeer);
    }
    let reason = match old {
        // The reset of an abort is sent after this event: one that has left already is no program's.
        TCP_ESTABLISHED | TCP_CLOSE_WAIT if broke || has(flag::RESET_LEFT) => return End::Broken,
        // Neither side has ended it in order, and nothing has happened to it yet: either we abort, and the reset
        // (`tcp_close`, `tcp_disconnect`) says why, on kernels that say; or an error follows.
        TCP_ESTABLISHED | TCP_CLOSE_WAIT => {
            conn.set_phase(phase::ABORTING);
            return End::Open;
        }
        TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING => Reason::Local,
        TCP_LAST_ACK => Reason::Peer,
        _ if has(flag::RESET_SEEN) => return End::Broken,
        _ if has(flag::RESET_LOCAL) => Reason::ResetLocal,
        _ if has(flag::FIN_LOCAL) => Reason::Local,
        _ if has(flag::FIN_PEER) => Reason::Peer,
        _ => Reason::Unknown,
    };
    End::Known(reason)
}

/// An attempt to connect has ended without a connection. Before it ends one the kernel forgets the SYN
/// (`tcp_done_with_error`, or before 6.10 reports the error first): with a SYN that still waits for its answer
/// (`unanswered`) the program has given up. It may report an error all the same (`tcp_disconnect`, by `SO_LINGER` 0).
#[inline(always)]
fn failed(conn: Shared, unanswered: bool) -> End {
    // SAFETY: no arguments.
    conn.set_closed_ns(unsafe { bpf_ktime_get_ns() });
    if conn.has(flag::RESET_PEER) {
        End::Failed(Failure::Refused)
    } else if conn.has(flag::ERROR) {
        broken_off(conn)
    } else if unanswered {
        End::Failed(Failure::Cancelled)
    } else {
        // The program has given up, or an error follows.
        conn.set_phase(phase::FAILING);
        End::Open
    }
}

/// An attempt to connect has ended by an error, without a reset.
#[inline(always)]
fn broken_off(conn: Shared) -> End {
    let early = conn.closed_ns().saturating_sub(conn.syn_ns()) < SYN_TIMEOUT_NS;
    End::Failed(if early { Failure::Unreachable } else { Failure::TimedOut })
}

#[inline(always)]
fn fail(conn: Shared, failure: Failure) {
    conn.set_phase(phase::CLOSED);
    add::failure(conn, failure);
}
