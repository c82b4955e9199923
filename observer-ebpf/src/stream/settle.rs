//! The last word on what a connection has received: the kernel's own count.

use observer_common::{
    stream::mode,
    wire::{
        conn::{RX, flag, phase},
        loss::Loss,
        slot,
    },
};

use crate::{
    accounting::{add, losses::lost},
    memory::shared::Shared,
};

/// Counts what TCP has received and the hook has not seen in order: segments for which there was no room, and after which none
/// has come. What was counted and TCP has not taken cannot be taken back. Either is a loss. `received` are the bytes that the
/// kernel has counted since the connection began, the FIN included; `next` is the sequence number behind them.
#[inline(always)]
pub(crate) fn received(conn: Shared, received: u64, next: u32) {
    if conn.phase() != phase::COUNTED || conn.has(flag::ADOPTED) {
        return;
    }
    let request = conn.is_request(RX);
    let fin = conn.has(flag::FIN_HEARD) && next == conn.fin_seq().wrapping_add(1);
    let counted = conn.bytes(request) + u64::from(fin);
    let missing = received.wrapping_sub(counted);
    if missing == 0 {
        return;
    }
    lost(Loss::Miscounted);
    if missing.cast_signed() < 0 {
        return;
    }
    add::bytes(conn, RX, missing);
    conn.add_bytes(request, missing);
    if conn.mode(request) != mode::OFF {
        lost(Loss::Gap);
        add::one(conn, &slot::DESYNCS, 0);
    }
}
