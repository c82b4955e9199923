//! Birth and death of every TCP socket, in every network namespace.
//!
//! - Hook: `tp_btf/inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
//! - Context: task (connect, close) or softirq (handshakes, resets), mostly under the socket's lock.
//! - Minimum kernel: 5.11 (socket storage from tracing programs); 5.10 refuses the helper.
//! - Writes: the socket's state, its cell, a record of each ended connection while somebody reads them.
//! - Misses: sockets that were there before the program was attached, until they are adopted.
//! - Costs: a comparison for states that do not matter; a storage look-up and two to four atomic adds for the others.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use observer_common::{
    conn::{Conn, NO_CELL, RX, TX, flag, kind},
    loss::Loss,
    protocol::{Protocol, Reason, Role},
    record::ConnRecord,
};

use crate::{
    count,
    maps::{NOTE, RECORDS, RECORDS_WANTED},
    storage,
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;
/// `BPF_RB_NO_WAKEUP`: the daemon polls, so that no wake-up is paid for in the hook.
const NO_WAKEUP: u64 = 1;

/// See the module.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn socket_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    match new {
        TCP_SYN_SENT => connecting(sk),
        TCP_ESTABLISHED => established(&ctx, sk, old),
        TCP_FIN_WAIT1 => closing(sk, flag::FIN_LOCAL),
        TCP_CLOSE_WAIT => closing(sk, flag::FIN_PEER),
        TCP_CLOSE => closed(&ctx, sk),
        _ => {}
    }
    0
}

/// An active open. The socket may have had an earlier life: its state starts afresh.
#[inline(always)]
fn connecting(sk: *const c_void) {
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get_or_create(sk) }) else { return };
    if conn.kind == kind::COUNTED {
        return;
    }
    // The hook runs in the connecting task. The SYN's segment tells the socket's own cgroup, which is what counts.
    // SAFETY: no arguments.
    conn.cgroup = unsafe { bpf_get_current_cgroup_id() };
    reset(conn, Role::Client);
    conn.kind = kind::CONNECTING;
}

/// Makes `conn` the state of a new connection.
#[inline(always)]
fn reset(conn: &mut Conn, role: Role) {
    conn.role = role as u8;
    conn.flags = 0;
    conn.cell = NO_CELL;
    conn.payload_ns = 0;
    conn.bytes = [0, 0];
    conn.flow.start();
}

#[inline(always)]
fn established(ctx: &BtfTracePointContext, sk: *const c_void, old: i32) {
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get(sk) }) else {
        // The handshake began before the programs were attached.
        // SAFETY: as above.
        let Some(conn) = (unsafe { storage::get_or_create(sk) }) else { return };
        reset(conn, if old == TCP_SYN_RECV { Role::Server } else { Role::Client });
        begin(conn);
        return;
    };
    match conn.kind {
        kind::LISTENER => accepted(conn),
        kind::CONNECTING => begin(conn),
        _ => return,
    }
    debug!(ctx, "established: role {} cgroup {} port {}", conn.role, conn.cgroup, conn.port);
}

#[inline(always)]
fn begin(conn: &mut Conn) {
    // SAFETY: no arguments.
    conn.born_ns = unsafe { bpf_ktime_get_ns() };
    conn.kind = kind::ESTABLISHED;
    if conn.flags & flag::CONFIRMED != 0 {
        count::open(conn, NO_CELL);
    }
}

/// A child of a listener: its state is a copy of the listener's, fresh but for what a note adds.
#[inline(always)]
fn accepted(conn: &mut Conn) {
    // SAFETY: no arguments.
    conn.born_ns = unsafe { bpf_ktime_get_ns() };
    let cached = conn.cell;
    conn.cell = NO_CELL;
    let mut noted = false;
    if let Some(note) = NOTE.get_ptr_mut(0) {
        // SAFETY: this processor's element, written by the segment that made this child.
        let note = unsafe { &mut *note };
        if note.armed != 0 && note.port == u32::from(conn.port) && note.cgroup == conn.cgroup {
            conn.flow = note.flow;
            conn.bytes[RX] = note.bytes;
            conn.payload_ns = conn.born_ns;
            noted = true;
        }
        note.armed = 0;
    }
    count::open(conn, cached);
    if noted && conn.flow.protocol != Protocol::Tcp as u8 {
        count::transition(conn);
    }
}

/// The first FIN decides who closed.
#[inline(always)]
fn closing(sk: *const c_void, side: u8) {
    // SAFETY: the hook's socket argument.
    if let Some(conn) = unsafe { storage::get(sk) }
        && conn.flags & (flag::FIN_LOCAL | flag::FIN_PEER) == 0
    {
        conn.flags |= side;
    }
}

#[inline(always)]
fn closed(ctx: &BtfTracePointContext, sk: *const c_void) {
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get(sk) }) else { return };
    if conn.kind == kind::ESTABLISHED {
        count::lost(Loss::Unattributed);
        conn.kind = kind::CLOSED;
        return;
    }
    if conn.kind != kind::COUNTED {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let reason = reason(conn);
    if count::close(conn, reason as u8, now.wrapping_sub(conn.born_ns)) {
        debug!(ctx, "closed: role {} protocol {} reason {}", conn.role, conn.flow.protocol, reason as u8);
        record(sk, conn, now, reason);
    }
}

#[inline(always)]
fn reason(conn: &Conn) -> Reason {
    if conn.flags & flag::FIN_LOCAL != 0 {
        Reason::Local
    } else if conn.flags & flag::FIN_PEER != 0 {
        Reason::Peer
    } else {
        Reason::Unknown
    }
}

#[inline(always)]
fn record(sk: *const c_void, conn: &Conn, now: u64, reason: Reason) {
    let Some(wanted) = RECORDS_WANTED.get(0) else { return };
    if *wanted == 0 {
        return;
    }
    let Some(mut entry) = RECORDS.reserve(0) else {
        count::lost(Loss::RingFull);
        return;
    };
    let local = conn.local_addr;
    let peer = conn.peer_addr;
    entry.write(ConnRecord {
        // SAFETY: the hook's socket argument.
        cookie: unsafe { bpf_get_socket_cookie(sk.cast_mut()) },
        cgroup: conn.cgroup,
        born_ns: conn.born_ns,
        closed_ns: now,
        payload_ns: conn.payload_ns,
        rx_bytes: conn.bytes[RX],
        tx_bytes: conn.bytes[TX],
        local_addr: local,
        peer_addr: peer,
        local_port: conn.local_port,
        peer_port: conn.peer_port,
        role: conn.role,
        protocol: conn.flow.protocol,
        reason: reason as u8,
        zero: 0,
    });
    entry.submit(NO_WAKEUP);
}
