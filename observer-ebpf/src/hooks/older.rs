//! The first segment of a connection that is older than the programs: whatever speaks is adopted, in every network namespace.
//!
//! - Hook: none of its own; tail-called by the segment programs, for a socket without a state.
//! - Context: the caller's. The walk of `adopt.rs`, and segments of the other direction, may be at it at the same time.
//! - Minimum kernel: as `segment.rs` (`bpf_sk_lookup_tcp` here from 5.8).
//! - Writes: the state of the socket, its cell.
//! - Misses: connections that are silent, or about to end. Their ends rest on the tracepoints of `state.rs`: a program here
//!   cannot ask for the callbacks of a socket.
//! - Costs: a look-up of the listener, once in a connection. A socket that is to have no state costs a comparison or two a segment
//!   with payload: one that is not established, or no stream (a raw socket that gets a copy).

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_ktime_get_coarse_ns, bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_release,
        bpf_skb_load_bytes,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_common::{
    label::Role,
    stream::{flag, program},
    wire::conn::{RX, TX, phase},
};

use super::segment;
use crate::{
    memory::shared::Shared,
    socket::{identity, lifecycle, storage},
    stream::{
        claim::{Claim, claim},
        job::{self, Job},
        packet::{self, Segment},
    },
};

const PASS: i32 = 1;
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;
const SOCK_STREAM: u32 = 1;
/// `BPF_F_CURRENT_NETNS`: that of the packet.
const CURRENT_NETNS: u64 = u64::MAX;

/// See the module.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn adopt_segment(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let direction = if Job::is_request(skb) { TX } else { RX };
    // SAFETY: a context field.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() || !is_alive(sk) {
        return PASS;
    }
    job::clear(skb);
    let role = if is_listened_at(skb, sk, direction) { Role::Server } else { Role::Unknown };
    let Some(segment) = packet::segment(skb) else { return PASS };
    // SAFETY: the socket of the packet.
    let Some(conn) = (unsafe { storage::get_or_create(sk.cast()) }) else { return PASS };
    if lifecycle::adopting(conn, role) {
        identity::introduce(skb, conn, sk, segment.tcp, direction);
        lifecycle::adopted(conn);
    }
    if conn.phase() == phase::COUNTED {
        begin(&ctx, conn, sk, &segment, direction);
    }
    PASS
}

/// Begins the stream with the segment. One that has been begun meanwhile keeps to its own order.
#[inline(always)]
fn begin(
    ctx: &SkBuffContext,
    conn: Shared,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: usize,
) {
    let request = conn.is_request(direction);
    let Segment { seq, payload, offset, .. } = *segment;
    let job = Job { offset, left: payload, request, seq, kept: 0 };
    job.begin(ctx.skb.skb);
    let start = segment::start(conn, sk, segment, direction);
    if let Claim::Alone(mut claimed) | Claim::WithInbox(mut claimed) = claim(conn, request) {
        if claimed.parser().flags & flag::SYNCED == 0 {
            claimed.set_next_seq(start);
        }
        // SAFETY: a context-free helper.
        claimed.set_payload_ns(unsafe { bpf_ktime_get_coarse_ns() });
        job::call(ctx, program::ORDER);
        claimed.abandon();
    }
}

/// Whether it is a TCP socket with a connection that neither side has begun to end.
#[inline(always)]
fn is_alive(sk: *mut bpf_sock) -> bool {
    // SAFETY: `state` is readable on every kind of socket.
    if unsafe { (*sk).state } != TCP_ESTABLISHED {
        return false;
    }
    // SAFETY: the socket of the packet; the helper returns null for what is no full socket.
    unsafe { bpf_sk_fullsock(sk).as_ref() }.is_some_and(|sk| sk.type_ == SOCK_STREAM)
}

/// Whether somebody listens at the local end of the packet: a look-up for a peer with port 0, which nobody has, finds no
/// connection.
#[inline(always)]
fn is_listened_at(skb: *mut __sk_buff, sk: *mut bpf_sock, direction: usize) -> bool {
    // SAFETY: readable on every kind of socket, in host order.
    let port = u32::from(unsafe { (*sk).src_port as u16 }.to_be()) << 16;
    let mut version = 0_u8;
    // SAFETY: the helper checks the offset and writes a byte.
    unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut version).cast(), 1) };
    // `struct bpf_sock_tuple`: addresses, then ports, all in network order.
    let mut tuple = [0_u32; 9];
    let to: *mut c_void = tuple.as_mut_ptr().cast();
    // The peer's address stands first; in the packet it is the source of what comes, and the destination of what leaves.
    // SAFETY: the helpers check offsets, and write and read within the tuple; what is found is released.
    unsafe {
        let found = if version >> 4 == 4 {
            let (peer, local) = if direction == RX { (12, 16) } else { (16, 12) };
            bpf_skb_load_bytes(skb.cast(), peer, to, 4);
            bpf_skb_load_bytes(skb.cast(), local, to.add(4), 4);
            tuple[2] = port;
            bpf_sk_lookup_tcp(skb.cast(), tuple.as_mut_ptr().cast(), 12, CURRENT_NETNS, 0)
        } else {
            let (peer, local) = if direction == RX { (8, 24) } else { (24, 8) };
            bpf_skb_load_bytes(skb.cast(), peer, to, 16);
            bpf_skb_load_bytes(skb.cast(), local, to.add(16), 16);
            tuple[8] = port;
            bpf_sk_lookup_tcp(skb.cast(), tuple.as_mut_ptr().cast(), 36, CURRENT_NETNS, 0)
        };
        if found.is_null() {
            return false;
        }
        let listens = (*found).state == TCP_LISTEN;
        bpf_sk_release(found.cast());
        listens
    }
}
