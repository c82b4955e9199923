//! Birth and death of every TCP socket, in every network namespace.
//!
//! - Hooks: `tp_btf/inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)` and
//!   `tp_btf/tcp_destroy_sock(struct sock *sk)`.
//! - Context: task or softirq, mostly under the socket's lock.
//! - Minimum kernel: 5.11 (socket storage from tracing programs); 5.10 refuses the helper.
//! - Writes: the socket's state, its cell, a record of each ended connection while somebody reads them.
//! - Misses: the kernel skips a tracing program that is already running on the processor (`recursion_misses`): when a
//!   softirq interrupts it, or when its task is preempted within it. Under load that is one event in 20,000, so no count
//!   rests on these events alone: births and deaths are told by `callbacks.rs` first, whose kind of program is never
//!   skipped, and a birth also by the socket's next segment.
//! - Costs: a comparison for states that do not matter; a storage look-up and two to eight atomic adds for the others.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use observer_common::{
    label::{Failure, Reason, ResetCause, Role, Timeout},
    wire::{
        conn::{Conn, NO_CELL, flag, kind},
        loss::Loss,
        slot,
    },
};

use super::reset;
use crate::{
    accounting::{add, losses::lost, transitions},
    floor::empty,
    maps::{ERROR_FIRST, NOTE},
    record, storage,
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_FIN_WAIT2: i32 = 5;
const TCP_CLOSE: i32 = 7;
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

/// See the module.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn socket_state(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: *const c_void = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    match new {
        TCP_ESTABLISHED => {
            established(sk);
            debug!(&ctx, "established from {}", old);
        }
        TCP_CLOSE => {
            closed(sk, old, false);
            debug!(&ctx, "closed from {}", old);
        }
        _ => {}
    }
    0
}

/// The last traces of a socket are removed: what CLOSE has not settled is settled here.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub(crate) fn socket_destroyed(ctx: BtfTracePointContext) -> i32 {
    if !empty() {
        destroyed(ctx.arg(0));
    }
    0
}

/// The first SYN of an active open, from the segment hook. The socket may have had an earlier life: its state starts
/// afresh.
#[inline(always)]
pub(super) fn connecting(conn: &mut Conn) {
    renew(conn, Role::Client);
    conn.kind = kind::CONNECTING;
}

/// Makes `conn` the state of a new connection.
#[inline(always)]
fn renew(conn: &mut Conn, role: Role) {
    conn.role = role as u8;
    conn.flags = 0;
    conn.cell = NO_CELL;
    conn.error_ns = 0;
    conn.retransmits = 0;
    conn.reset_cause = 0;
    conn.flow.start();
}

/// A handshake is done; does nothing if that is known, or if the socket is not known.
#[inline(always)]
pub(super) fn established(sk: *const c_void) {
    // SAFETY: the hook's socket.
    if let Some(conn) = unsafe { storage::get(sk) } {
        born(conn);
    }
}

/// A handshake is done, and so is the role known: a socket whose handshake began before the programs were attached has no
/// state yet, and gets it here.
#[inline(always)]
pub(super) fn established_as(sk: *const c_void, role: Role) {
    // SAFETY: the hook's socket.
    if let Some(conn) = unsafe { storage::get_or_create(sk) } {
        if conn.kind == kind::NEW {
            // Before it is established: from then on a segment may count it.
            renew(conn, role);
            transitions::advance(conn, kind::NEW, kind::ESTABLISHED);
            begin(conn);
        } else {
            born(conn);
        }
    }
}

/// A connection is established; does nothing if that is known.
#[inline(always)]
pub(super) fn born(conn: &mut Conn) {
    // Looked at first: most events come for connections whose birth is known, and swaps cost even when they fail.
    let seen = conn.kind;
    match seen {
        kind::LISTENER if transitions::advance(conn, kind::LISTENER, kind::ESTABLISHED) => {
            accepted(conn)
        }
        kind::CONNECTING if transitions::advance(conn, kind::CONNECTING, kind::ESTABLISHED) => {
            begin(conn);
        }
        _ => {}
    }
}

#[inline(always)]
fn begin(conn: &mut Conn) {
    // SAFETY: no arguments.
    conn.born_ns = unsafe { bpf_ktime_get_ns() };
    if conn.flags & flag::CONFIRMED != 0 {
        transitions::open(conn, NO_CELL);
    }
}

/// A child of a listener: its state is a copy of the listener's, fresh but for what a note adds.
#[inline(always)]
fn accepted(conn: &mut Conn) {
    // SAFETY: no arguments.
    conn.born_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(note) = NOTE.get_ptr_mut(0) {
        // SAFETY: this processor's element, written by the segment that made this child.
        let note = unsafe { &mut *note };
        if note.armed != 0 && note.port == u32::from(conn.port) && note.cgroup == conn.cgroup {
            conn.flow.take(&note.flow);
            conn.flow.request.payload_ns = conn.born_ns;
        }
        note.armed = 0;
    }
    transitions::open(conn, conn.cell);
}

/// A socket has reached CLOSE from `old`; does nothing if that is known. `unanswered`: it is known to wait for the answer
/// to a segment.
#[inline(always)]
pub(super) fn closed(sk: *const c_void, old: i32, unanswered: bool) {
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get(sk) }) else { return };
    // A child whose birth was skipped, and which has had no segment since.
    if conn.kind == kind::LISTENER && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT) {
        born(conn);
    }
    match conn.kind {
        kind::COUNTED => ended(conn, old),
        kind::CONNECTING => failed(conn, unanswered),
        kind::ESTABLISHED => {
            lost(Loss::Unattributed);
            conn.kind = kind::CLOSED;
        }
        _ => {}
    }
}

#[inline(always)]
fn destroyed(sk: *const c_void) {
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get(sk) }) else { return };
    // Over, and in a cell all the same: whatever went wrong, a socket that is gone is not active.
    let misplaced = conn.kind == kind::CLOSED && conn.cell != NO_CELL;
    if misplaced {
        lost(Loss::MisplacedEnd);
    }
    match conn.kind {
        // A program that aborts destroys the socket in the same call; one that learns of an error closes it later.
        kind::ABORTING => {
            // SAFETY: no arguments.
            let now = unsafe { bpf_ktime_get_ns() };
            late(conn, now.wrapping_sub(conn.closed_ns) < SAME_CALL_NS);
        }
        kind::CONNECTING | kind::FAILING => fail(conn, Failure::Cancelled),
        kind::ESTABLISHED => lost(Loss::Unattributed),
        seen if seen == kind::COUNTED || misplaced => ended(conn, UNSEEN),
        _ => {}
    }
}

/// An end that CLOSE has not explained: an error that follows does, or the socket's end if events were skipped.
#[inline(always)]
fn late(conn: &mut Conn, by_program: bool) {
    // A reset has left since CLOSE, or it would have explained it: that of an abort, whose event was skipped.
    let reason = if reset_left(conn) || by_program { Reason::ResetLocal } else { broken(conn) };
    finish(conn, reason);
}

/// Whether this side has sent a reset. One whose event was skipped is counted here; its cause is not known.
#[inline(always)]
fn reset_left(conn: &mut Conn) -> bool {
    let left = conn.flags & flag::RESET_LEFT != 0;
    if left && conn.flags & flag::RESET_LOCAL == 0 {
        reset::noted(conn, ResetCause::Unspecified as u8);
    }
    left
}

/// The socket has reported an error.
#[inline(always)]
pub(super) fn errored(conn: &mut Conn) {
    match conn.kind {
        kind::ABORTING => late(conn, false),
        kind::FAILING => broken_off(conn),
        kind::CONNECTING => storage::mark(conn, flag::ERROR),
        // SAFETY: no arguments.
        _ => conn.error_ns = unsafe { bpf_ktime_get_ns() },
    }
}

/// Why an error, and not the program, has ended a connection that neither side had ended in order.
#[inline(always)]
fn broken(conn: &mut Conn) -> Reason {
    if conn.flags & flag::RESET_SEEN != 0 {
        add::one(conn, &slot::RESETS_RECEIVED, 0);
        return Reason::ResetPeer;
    }
    // Keep-alive probes are given up with a reset, retransmissions without; a destroyed socket (`ss --kill`) also sends
    // one, for another cause.
    reset_left(conn);
    let kind = if conn.flags & flag::RESET_LOCAL == 0 {
        Timeout::Retransmission
    } else if conn.reset_cause == ResetCause::KeepaliveTimeout as u8
        || conn.reset_cause == ResetCause::Unspecified as u8
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
fn ended(conn: &mut Conn, old: i32) {
    // SAFETY: no arguments.
    conn.closed_ns = unsafe { bpf_ktime_get_ns() };
    let has = |flags: u32| conn.flags & flags != 0;
    let error_first = ERROR_FIRST.get(0).is_some_and(|first| *first != 0);
    let broke = error_first
        && conn.error_ns != 0
        && conn.closed_ns.wrapping_sub(conn.error_ns) < SAME_CALL_NS;
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
                conn.kind = kind::ABORTING;
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
pub(super) fn finish(conn: &mut Conn, reason: Reason) {
    let now = conn.closed_ns;
    if transitions::close(conn, reason, now) {
        record::ended(conn, now, reason);
    }
}

/// An attempt to connect has ended without a connection. Before it ends one the kernel forgets the SYN
/// (`tcp_done_with_error`, or before 6.10 reports the error first): with a SYN that still waits for its answer
/// (`unanswered`) the program has given up. It may report an error all the same (`tcp_disconnect`, by `SO_LINGER` 0).
#[inline(always)]
fn failed(conn: &mut Conn, unanswered: bool) {
    // SAFETY: no arguments.
    conn.closed_ns = unsafe { bpf_ktime_get_ns() };
    if conn.flags & flag::RESET_PEER != 0 {
        fail(conn, Failure::Refused);
    } else if conn.flags & flag::ERROR != 0 {
        broken_off(conn);
    } else if unanswered {
        fail(conn, Failure::Cancelled);
    } else {
        // The program has given up, or an error follows.
        conn.kind = kind::FAILING;
    }
}

/// An attempt to connect has ended by an error, without a reset.
#[inline(always)]
fn broken_off(conn: &mut Conn) {
    if conn.closed_ns.saturating_sub(conn.syn_ns) < SYN_TIMEOUT_NS {
        return fail(conn, Failure::Unreachable);
    }
    add::one(conn, &slot::TIMEOUTS, Timeout::Connect as usize);
    fail(conn, Failure::TimedOut);
}

#[inline(always)]
fn fail(conn: &mut Conn, failure: Failure) {
    conn.kind = kind::CLOSED;
    add::one(conn, &slot::FAILED, failure as usize);
}
