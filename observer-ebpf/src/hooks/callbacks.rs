//! The socket's own callbacks: birth and death, told by a kind of program that the kernel never skips.
//!
//! - Hook: `cgroup/sock_ops` at the root of the cgroup-v2 tree.
//! - Context: task or softirq, under the socket's lock.
//! - Minimum kernel: 5.2 (socket storage in `sock_ops`), hence `segment.rs`'s.
//! - Writes: the socket's state, its cell, a record of each ended connection while somebody reads them. It answers no
//!   question that the kernel asks (time-outs, windows, ECN): what other programs answer stays.
//! - Misses: sockets whose handshake was done before the program was attached (`adopt.rs` has them); a socket whose
//!   callback flags another program overwrites. The tracepoints of `state.rs` see those.
//! - Costs: a comparison for each of the kernel's about ten calls a connection; what `state.rs` costs for two of them.

use core::{ffi::c_void, ptr};

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};

use observer_common::label::Role;

use crate::{
    floor::empty,
    socket::{lifecycle, storage},
    stream::{note, settle},
};

// enum in linux/bpf.h, stable.
const CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`
pub(crate) const STATE_FLAG: i32 = 1 << 2;
/// `BPF_TCP_CLOSE`
const CLOSE: u32 = 7;
const AF_INET: u32 = 2;
/// The kernel goes on.
const PASS: u32 = 1;

/// See the module.
#[sock_ops]
#[inline(always)]
pub(crate) fn socket_callback(ctx: SockOpsContext) -> u32 {
    if empty() {
        return PASS;
    }
    let op = ctx.op();
    let opens = matches!(op, ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED);
    if opens || op == CONNECT {
        watch(&ctx);
    }
    let closes = op == STATE && ctx.arg(1) == CLOSE;
    if !opens && !closes {
        return PASS;
    }
    let Some(sk) = socket(&ctx) else { return PASS };
    // SAFETY: the hook's socket.
    let conn = unsafe { if opens { storage::get_or_create(sk) } else { storage::get(sk) } };
    let Some(conn) = conn else { return PASS };
    let accepted = op == PASSIVE_ESTABLISHED;
    let old = ctx.arg(0) as i32;
    if accepted {
        lifecycle::accepting(conn, note::is_internal());
    }
    if opens {
        lifecycle::assign_role(conn, if accepted { Role::Server } else { Role::Client });
    }
    if opens || lifecycle::is_unborn(conn, old) {
        lifecycle::opened(conn);
    }
    if accepted {
        // SAFETY: a context field.
        note::give(conn, peer(&ctx), unsafe { (*ctx.ops).rcv_nxt });
    }
    if closes {
        // SAFETY: context fields.
        let (unanswered, received, next) =
            unsafe { ((*ctx.ops).packets_out != 0, (*ctx.ops).bytes_received, (*ctx.ops).rcv_nxt) };
        note::forget(conn);
        settle::received(conn, received, next);
        lifecycle::closed(conn, old, unanswered);
    }
    PASS
}

/// The peer, as `stream/packet.rs` has it.
#[inline(always)]
fn peer(ctx: &SockOpsContext) -> u64 {
    // All are read and then chosen from: for a choice before the read LLVM computes one address for both families, and the
    // verifier refuses ("dereference of modified ctx ptr").
    // SAFETY: context fields; addresses and the port are in network order.
    let (family, v4, v6, port) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.ops).family),
            ptr::read_volatile(&raw const (*ctx.ops).remote_ip4),
            ptr::read_volatile(&raw const (*ctx.ops).remote_ip6[3]),
            ptr::read_volatile(&raw const (*ctx.ops).remote_port),
        )
    };
    let address = u32::from_be(if family == AF_INET { v4 } else { v6 });
    // The port is in the upper half of the word as the network has it.
    let port = u32::from_be(port) & 0xffff;
    u64::from(address) << 16 | u64::from(port)
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*const c_void> {
    // SAFETY: a context field, null or a socket.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk.cast_const().cast()) }
}

/// Asks for the callbacks of state changes, beside what others have asked for.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags() as i32;
    if flags & STATE_FLAG == 0 {
        let _ = ctx.set_cb_flags(flags | STATE_FLAG);
    }
}
