//! Errors that a socket reports: with a reset, an unreachable peer, or a time-out.
//!
//! - Hook: `tp_btf/inet_sk_error_report(const struct sock *sk)`.
//! - Context: softirq or task. An error that ends a connection is reported right before CLOSE, or right after it by kernels
//!   that have `tcp_done_with_error` (6.11, and stable ones). One that ends nothing comes at any time: a completion of `MSG_ZEROCOPY`, a time
//!   stamp, an ICMP message with `IP_RECVERR`.
//! - Minimum kernel: 5.15 (the tracepoint came with 5.14).
//! - Writes: the socket's state; counts the end of a connection that waits for its reason.
//! - Misses: which error it is; what else has happened, and when, tells.
//! - Costs: a storage look-up for each error.

use core::ffi::c_void;

use crate::{
    floor::empty,
    socket::{lifecycle, storage},
};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// See the module.
#[btf_tracepoint(function = "inet_sk_error_report")]
#[inline(always)]
pub(crate) fn socket_error(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the hook's socket argument.
    if let Some(conn) = unsafe { storage::get(sk) } {
        lifecycle::errored(conn);
    }
    0
}
