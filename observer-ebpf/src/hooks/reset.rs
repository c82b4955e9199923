//! Resets, in both directions.
//!
//! - Hooks: `tp_btf/tcp_receive_reset(struct sock *sk)` and `tp_btf/tcp_send_reset(const struct sock *sk, const struct
//!   sk_buff *skb, const enum sk_rst_reason reason)`; the third argument is there from Linux 6.10 on, and older verifiers
//!   refuse a program that reads it: there the variant without it is loaded.
//! - Context: softirq or task. A received reset comes before CLOSE; the reset of an abort (`tcp_close` with data unread,
//!   `SO_LINGER` 0) after it, that of a keep-alive time-out before it.
//! - Minimum kernel: as `state.rs`.
//! - Writes: the socket's flags, the cell; counts the end of an aborted connection.
//! - Misses: what the kernel skips (see `state.rs`): a received reset is then told by its segment, the cause of a sent
//!   one is lost; resets without a full socket (nobody listens, `TIME_WAIT`), since there is no socket to attribute.
//! - Costs: a storage look-up and one or two atomic adds for each reset.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_common::{label::ResetCause, wire::conn::flag};

use crate::{
    floor::empty,
    maps::RESET_CAUSES,
    socket::{lifecycle, storage},
};

/// The peer reset the connection.
#[btf_tracepoint(function = "tcp_receive_reset")]
#[inline(always)]
pub(crate) fn reset_received(ctx: BtfTracePointContext) -> i32 {
    if empty() {
        return 0;
    }
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the hook's socket argument.
    if let Some(conn) = unsafe { storage::get(sk) } {
        // Counted with the connection's end.
        conn.mark(flag::RESET_PEER);
    }
    0
}

/// We reset the peer, and the kernel says why.
#[btf_tracepoint(function = "tcp_send_reset")]
#[inline(always)]
pub(crate) fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    let reason: u32 = ctx.arg(2);
    let cause = RESET_CAUSES.get(reason).map_or(0, |cause| *cause as u8);
    sent(ctx.arg(0), cause);
    0
}

/// We reset the peer, on kernels that do not say why.
#[btf_tracepoint(function = "tcp_send_reset")]
#[inline(always)]
pub(crate) fn reset_sent_plain(ctx: BtfTracePointContext) -> i32 {
    sent(ctx.arg(0), ResetCause::Unspecified as u8);
    0
}

#[inline(always)]
fn sent(sk: *const c_void, cause: u8) {
    if empty() || sk.is_null() {
        return;
    }
    // SAFETY: the hook's socket argument; the helper has no storage for what is no full socket.
    if let Some(conn) = unsafe { storage::get(sk) } {
        lifecycle::reset_sent(conn, cause);
    }
}
