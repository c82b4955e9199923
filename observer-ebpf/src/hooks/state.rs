//! Births and deaths of TCP sockets, in every network namespace.
//!
//! - Hooks: `tp_btf/inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)` and
//!   `tp_btf/tcp_destroy_sock(struct sock *sk)`.
//! - Context: task or softirq, mostly under the socket's lock.
//! - Minimum kernel: 5.11 (socket storage from tracing programs); 5.10 refuses the helper.
//! - Writes: the socket's state, its cell, a record of each ended connection while somebody reads them.
//! - Misses: the kernel skips a tracing program that is already running on the processor (`recursion_misses`): when a
//!   softirq interrupts it, or when its task is preempted within it. Under load that is one event in 20,000, so no count
//!   rests on these events alone: openings and ends are told by `callbacks.rs` first, whose kind of program is never
//!   skipped, and an opening also by the socket's next segment.
//! - Costs: a comparison for states that do not matter; a storage look-up and two to eight atomic adds for the others.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;

use crate::{
    floor::empty,
    socket::{lifecycle, storage},
    stream::note,
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_CLOSE: i32 = 7;

/// See the module.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn socket_state(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: *const c_void = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if new != TCP_ESTABLISHED && new != TCP_CLOSE {
        return 0;
    }
    // SAFETY: the hook's socket argument.
    let Some(conn) = (unsafe { storage::get(sk) }) else { return 0 };
    if new == TCP_ESTABLISHED || lifecycle::is_unborn(conn, old) {
        lifecycle::opened(conn);
    }
    if new == TCP_CLOSE {
        lifecycle::closed(conn, old, false);
    }
    debug!(&ctx, "state {} after {}", new, old);
    0
}

/// The last traces of a socket are removed.
#[btf_tracepoint(function = "tcp_destroy_sock")]
#[inline(always)]
pub(crate) fn socket_destroyed(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    // SAFETY: the hook's socket argument.
    if let Some(conn) = unsafe { storage::get(ctx.arg(0)) } {
        lifecycle::destroyed(conn);
        note::forget(conn);
    }
    0
}
