//! Errors that a socket reports: with a reset, an unreachable peer, or a time-out, and always before CLOSE.
//!
//! - Hook: `tp_btf/inet_sk_error_report(const struct sock *sk)`.
//! - Context: softirq or task, under the socket's lock.
//! - Minimum kernel: 5.15 (the tracepoint came with 5.14).
//! - Writes: the socket's flags.
//! - Misses: which error it is; CLOSE tells by what else has happened.
//! - Costs: a storage look-up for each error.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_common::conn::flag;

use crate::storage;

/// See the module.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub(crate) fn socket_error(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the hook's socket argument.
    if let Some(conn) = unsafe { storage::get(sk) } {
        conn.flags |= flag::ERROR;
    }
    0
}
