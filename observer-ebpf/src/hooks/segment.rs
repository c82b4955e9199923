//! Every segment of every socket.
//!
//! - Hook: `cgroup_skb/ingress` and `/egress` at the root of the cgroup-v2 tree.
//! - Context: softirq or task; ingress runs before TCP has judged the segment, without the socket's lock.
//! - Minimum kernel: 5.15 (`bpf_ktime_get_coarse_ns` 5.11; atomics with a result 5.12).
//! - Writes: the socket's state, the cell when a protocol is recognised or a WebSocket message passes.
//! - Misses: sockets that sockmap has short-cut past the stack, kTLS plain text, MPTCP's reassembled stream, and
//!   segments that XDP or netfilter dropped before the hook.
//! - Costs: one bare comparison for a pure ACK; one storage look-up, a claim and its release, and a few comparisons for a
//!   segment of a connection whose protocol is known; one table look-up per byte for a head that may ask for an upgrade.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_ktime_get_coarse_ns, bpf_sk_cgroup_id, bpf_sk_fullsock, bpf_tcp_sock,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_common::{
    stream::{flag as of_stream, mode, order as ask, program},
    wire::conn::{RX, TX, flag, phase},
};

use crate::{
    accounting::add,
    floor::empty,
    memory::shared::Shared,
    socket::{identity, lifecycle, storage},
    stream::{
        claim::{Claim, Claimed, claim},
        inline,
        job::{self, Job, Why},
        kept, note, order,
        packet::{self, Segment},
        parsers,
    },
};

const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const SOCK_STREAM: u32 = 1;
/// The hook's verdict: let the packet pass. observer never drops.
const PASS: i32 = 1;
/// Time between two samples of a connection's round-trip time.
const RTT_INTERVAL_NS: u64 = 1_000_000_000;

/// Segments on their way to a socket.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn segment_in(ctx: SkBuffContext) -> i32 {
    segment(&ctx, RX);
    PASS
}

/// Segments on their way from a socket.
#[cgroup_skb]
#[inline(always)]
pub(crate) fn segment_out(ctx: SkBuffContext) -> i32 {
    segment(&ctx, TX);
    PASS
}

#[inline(always)]
fn segment(ctx: &SkBuffContext, direction: usize) {
    if empty() {
        return;
    }
    let skb = ctx.skb.skb;
    let Some(segment) = packet::segment(skb) else { return };
    // SAFETY: a context field.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    if direction == RX {
        // SAFETY: `state` is readable on every kind of socket.
        if unsafe { (*sk).state } == TCP_LISTEN {
            if segment.flags & packet::RST == 0 {
                handshake(ctx, sk, &segment);
            }
            return;
        }
    }
    let tells = segment.flags & (packet::SYN | packet::FIN | packet::RST) != 0;
    // A pure ACK is looked at only while something waits for an event.
    if segment.payload == 0 && !tells && !kept::is_any() {
        return;
    }
    // SAFETY: the socket of the packet.
    let Some(conn) = (unsafe { storage::get(sk.cast()) }) else {
        if direction == TX && segment.flags & (packet::SYN | packet::ACK) == packet::SYN {
            connect(ctx, sk, &segment);
        }
        return;
    };
    if tells {
        control(skb, conn, sk, &segment, direction);
    }
    if conn.phase() != phase::COUNTED || !conn.has(flag::ADDRESSED) {
        catch_up(skb, conn, sk);
    }
    if conn.phase() == phase::CLOSED {
        return;
    }
    if segment.payload != 0 {
        payload(ctx, conn, sk, &segment, direction);
    } else if kept::is_any() {
        order::attend(ctx, conn);
    }
}

/// The first SYN of a socket that has no state yet.
#[inline(always)]
fn connect(ctx: &SkBuffContext, sk: *mut bpf_sock, segment: &Segment) {
    let skb = ctx.skb.skb;
    // SAFETY: the socket of the packet; the helper returns null for what is no full socket.
    let stream = unsafe { bpf_sk_fullsock(sk).as_ref() }.is_some_and(|sk| sk.type_ == SOCK_STREAM);
    if !stream {
        // A raw socket that sends TCP segments of its own making.
        return;
    }
    // SAFETY: as above.
    let Some(conn) = (unsafe { storage::get_or_create(sk.cast()) }) else { return };
    syn_sent(skb, conn, sk);
    if segment.payload != 0 {
        payload(ctx, conn, sk, segment, TX);
    }
}

/// A SYN leaves: an active open, or another try of it.
#[inline(always)]
fn syn_sent(skb: *mut __sk_buff, conn: Shared, sk: *mut bpf_sock) {
    if matches!(conn.phase(), phase::NEW | phase::CLOSED | phase::ABORTING | phase::FAILING) {
        lifecycle::connecting(conn);
        identity::introduce(skb, conn, sk);
    }
    // SAFETY: no arguments.
    conn.set_syn_ns(unsafe { bpf_ktime_get_coarse_ns() });
}

/// A segment that opens or ends a stream.
#[inline(always)]
fn control(
    skb: *mut __sk_buff,
    conn: Shared,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: usize,
) {
    let seen = conn.phase();
    // Neither has a stream, whatever strangers send to it, and the kernel for it. A listener's children would inherit what
    // is noted, and an attempt may still succeed.
    if seen == phase::LISTENER || (seen == phase::CONNECTING && segment.flags & packet::SYN == 0) {
        return;
    }
    if segment.flags & (packet::SYN | packet::ACK) == packet::SYN {
        if direction == TX {
            syn_sent(skb, conn, sk);
        }
    } else if segment.flags & packet::RST != 0 {
        if direction == TX {
            return conn.mark(flag::RESET_LEFT);
        }
        // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
        let tcp = unsafe { bpf_tcp_sock(sk).as_ref() };
        if tcp.is_some_and(|tcp| tcp.rcv_nxt == segment.seq) {
            conn.mark(flag::RESET_SEEN);
        }
    } else if segment.flags & packet::FIN != 0 {
        if direction == RX && !conn.has(flag::FIN_HEARD) {
            conn.set_fin_seq(segment.seq.wrapping_add(segment.payload));
            conn.mark(flag::FIN_HEARD);
        }
        if !conn.has(flag::FIN_LOCAL | flag::FIN_PEER) {
            conn.mark(if direction == TX { flag::FIN_LOCAL } else { flag::FIN_PEER });
        }
    }
}

/// Does what an event has not done: the first segment at a socket's own hook tells its addresses, and one that comes
/// before its opening was seen proves it.
#[inline(always)]
fn catch_up(skb: *mut __sk_buff, conn: Shared, sk: *mut bpf_sock) {
    if matches!(conn.phase(), phase::LISTENER | phase::CONNECTING) {
        // SAFETY: `state` is readable on every kind of socket.
        let state = unsafe { (*sk).state };
        if matches!(state, TCP_SYN_SENT | TCP_SYN_RECV | TCP_LISTEN | TCP_CLOSE) {
            return;
        }
        lifecycle::opened(conn);
    }
    if !conn.has(flag::ADDRESSED) {
        identity::introduce(skb, conn, sk);
    }
}

/// A segment that completes a handshake, or a SYN that carries data (fast open): it reaches the listener, and the socket it
/// creates inherits the listener's state. Payload in it is kept for that socket.
#[inline(always)]
fn handshake(ctx: &SkBuffContext, sk: *mut bpf_sock, segment: &Segment) {
    if segment.flags & packet::SYN != 0 && segment.payload == 0 {
        return;
    }
    // SAFETY: the socket of the packet.
    let Some(conn) = (unsafe { storage::get_or_create(sk.cast()) }) else { return };
    if conn.phase() != phase::LISTENER {
        // SAFETY: a socket that the verifier knows; the port is readable on every kind of socket, in host order.
        let (cgroup, port) = unsafe { (bpf_sk_cgroup_id(sk.cast()), (*sk).src_port as u16) };
        lifecycle::listening(conn, cgroup, port);
    }
    if segment.payload != 0 {
        note::expect(packet::peer(ctx.skb.skb, segment));
        job(segment, true).begin(ctx.skb.skb);
        job::because(ctx.skb.skb, Why::FirstPayload);
        job::call(ctx, program::KEEP);
    }
}

#[inline(always)]
fn job(segment: &Segment, request: bool) -> Job {
    Job { offset: segment.offset, left: segment.payload, request, seq: segment.seq, kept: 0 }
}

#[inline(always)]
fn payload(
    ctx: &SkBuffContext,
    conn: Shared,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: usize,
) {
    let request = conn.is_request(direction);
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now.wrapping_sub(conn.rtt_ns()) >= RTT_INTERVAL_NS {
        sample_rtt(conn, sk, now);
    }
    let skb = ctx.skb.skb;
    job(segment, request).begin(skb);
    let (mut claimed, simple) = match claim(conn, request) {
        Claim::Alone(claimed) => (claimed, true),
        Claim::WithInbox(claimed) => (claimed, false),
        Claim::Busy => {
            job::because(skb, Why::Busy);
            return job::call(ctx, program::KEEP);
        }
    };
    claimed.set_payload_ns(now);
    let parser = *claimed.parser();
    if parser.flags & of_stream::SYNCED == 0 {
        synchronise(&mut claimed, sk, segment, direction);
    }
    let in_sequence = segment.seq == claimed.next_seq();
    let behind = conn.is_behind_request(request, parser.mode);
    let waits = parser.mode == mode::WAIT || parser.flags & of_stream::PARKED != 0;
    if !(simple && in_sequence) || behind || waits || conn.asked(request) != ask::NONE {
        job::call(ctx, program::ORDER);
        return claimed.abandon();
    }
    claimed.accept(segment.payload);
    let facts = conn.facts();
    if !request && facts.asked == 0 && facts.unanswered != 0 {
        conn.set_unanswered(0);
    }
    if inline::read(skb, &mut claimed) {
        return order::finish(ctx, claimed);
    }
    parsers::proceed(ctx, claimed);
}

/// The first segment of a stream.
#[inline(always)]
fn synchronise(claimed: &mut Claimed, sk: *mut bpf_sock, segment: &Segment, direction: usize) {
    let mut next_seq = segment.seq;
    if direction == RX {
        // The first segment to arrive need not be the first of the stream; TCP has taken none before it.
        // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
        if let Some(tcp) = unsafe { bpf_tcp_sock(sk).as_ref() } {
            next_seq = tcp.rcv_nxt;
        }
    }
    claimed.set_next_seq(next_seq);
}

#[inline(always)]
fn sample_rtt(conn: Shared, sk: *mut bpf_sock, now: u64) {
    conn.set_rtt_ns(now);
    // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
    if let Some(tcp) = unsafe { bpf_tcp_sock(sk).as_ref() } {
        // In eighths of a microsecond; 0 before the first measurement.
        let us = tcp.srtt_us >> 3;
        if us != 0 {
            add::rtt(conn, us);
        }
    }
}
