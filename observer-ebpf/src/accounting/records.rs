//! Details for whoever listens: a record of each connection that ends, and of each that is found to speak a protocol.
//!
//! No count depends on them. What does not fit into the ring buffer is dropped, and counted.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use observer_common::{
    label::Reason,
    wire::{
        conn::{RX, TX},
        event::{ConnRecord, kind},
        loss::Loss,
    },
};

use super::losses::lost;
use crate::{
    maps::{RECORDS, RECORDS_WANTED},
    memory::shared::Shared,
};

/// `BPF_RB_NO_WAKEUP`: the daemon polls, so that no wake-up is paid for in the hook.
const NO_WAKEUP: u64 = 1;

/// A connection has ended.
#[inline(always)]
pub(crate) fn ended(conn: Shared, at_ns: u64, reason: Reason) {
    if wanted() {
        send(conn, kind::ENDED, at_ns, reason as u8);
    }
}

/// A connection speaks what its bytes have told now.
#[inline(always)]
pub(crate) fn identified(conn: Shared) {
    if wanted() {
        // SAFETY: no arguments.
        send(conn, kind::IDENTIFIED, unsafe { bpf_ktime_get_ns() }, 0);
    }
}

#[inline(always)]
fn wanted() -> bool {
    RECORDS_WANTED.get(0).is_some_and(|wanted| *wanted != 0)
}

#[inline(always)]
fn send(conn: Shared, kind: u8, at_ns: u64, reason: u8) {
    let Some(mut entry) = RECORDS.reserve(0) else {
        lost(Loss::RingFull);
        return;
    };
    // SAFETY: addresses are written once, before the connection is counted.
    let (local, peer) = unsafe { ((*conn.as_ptr()).local_addr, (*conn.as_ptr()).peer_addr) };
    entry.write(ConnRecord {
        cookie: conn.cookie(),
        cgroup: conn.cgroup(),
        born_ns: conn.born_ns(),
        at_ns,
        payload_ns: conn.payload_ns(),
        rx_bytes: conn.bytes(conn.is_request(RX)),
        tx_bytes: conn.bytes(conn.is_request(TX)),
        local_addr: local,
        peer_addr: peer,
        local_port: conn.local_port(),
        peer_port: conn.peer_port(),
        role: conn.plain_role(),
        protocol: conn.facts().protocol,
        reason,
        reset_cause: conn.reset_cause(),
        retransmits: conn.retransmits(),
        flags: conn.flags() as u16,
        kind,
        zero: 0,
    });
    entry.submit(NO_WAKEUP);
}
