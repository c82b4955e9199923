//! Every segment of every socket.
//!
//! - Hook: `cgroup_skb/ingress` and `/egress` at the root of the cgroup-v2 tree.
//! - Context: softirq or task; ingress runs before TCP has judged the segment, without the socket's lock.
//! - Minimum kernel: 5.15 (`bpf_ktime_get_coarse_ns` 5.11; atomics with a result 5.12).
//! - Writes: the socket's state, the cell when a protocol is recognised or a WebSocket message passes.
//! - Misses: sockets that sockmap has short-cut past the stack, kTLS plain text, MPTCP's reassembled stream, and
//!   segments that XDP or netfilter dropped before the hook.
//! - Costs: one bare comparison for a pure ACK; one storage look-up and a few comparisons for a segment of a connection
//!   whose protocol is known; one table look-up per byte for a head that may ask for an upgrade.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_coarse_ns, bpf_sk_cgroup_id, bpf_tcp_sock,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_common::{
    CHUNK,
    flow::{UNCOUNTED, mode, stream_flag},
    label::Role,
    protocol::{Protocol, http1},
    wire::{
        conn::{Conn, NO_CELL, RX, TX, flag, kind},
        loss::Loss,
        slot,
    },
};

use super::{
    job::{self, Job},
    lifecycle,
    packet::{self, Segment},
    websocket,
};
use crate::{
    accounting::{add, losses::lost, slots, transitions},
    floor::empty,
    maps::NOTE,
    storage,
};

const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
/// No receive window is as large, in bytes: the kernel's own limit of `tcp_rmem` is below it, and 1 GiB is TCP's.
const LARGEST_WINDOW: i32 = 64 << 20;
const AF_INET: u32 = 2;
/// Third word of an IPv4-mapped IPv6 address.
const MAPPED: u32 = 0xffff_u32.to_be();
/// WebSocket frames of one segment that are followed without a tail call.
const INLINE_FRAMES: usize = 4;
/// The hook's verdict: let the packet pass. observer never drops.
const PASS: i32 = 1;

/// Segments on their way to a socket.
#[cgroup_skb]
pub(crate) fn segment_in(ctx: SkBuffContext) -> i32 {
    segment(&ctx, RX);
    PASS
}

/// Segments on their way from a socket.
#[cgroup_skb]
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
            if segment.flags & (packet::SYN | packet::RST) == 0 {
                handshake(ctx, sk, &segment);
            }
            return;
        }
    }
    if segment.payload == 0 && segment.flags & (packet::SYN | packet::FIN | packet::RST) == 0 {
        return;
    }
    // SAFETY: the socket of the packet.
    let Some(conn) = (unsafe { storage::get(sk.cast()) }) else {
        if direction == TX && segment.flags & (packet::SYN | packet::ACK) == packet::SYN {
            // SAFETY: as above.
            if let Some(conn) = unsafe { storage::get_or_create(sk.cast()) } {
                syn_sent(skb, conn, sk);
            }
        }
        return;
    };
    if segment.flags & (packet::SYN | packet::FIN | packet::RST) != 0 {
        control(skb, conn, sk, &segment, direction);
    }
    if conn.kind != kind::COUNTED || conn.flags & flag::ADDRESSED == 0 {
        catch_up(skb, conn, sk);
    }
    if segment.payload != 0 && conn.kind != kind::CLOSED {
        payload(ctx, conn, sk, segment, direction);
    }
}

/// A SYN leaves: an active open, or another try of it.
#[inline(always)]
fn syn_sent(skb: *mut __sk_buff, conn: &mut Conn, sk: *mut bpf_sock) {
    if conn.kind == kind::NEW || conn.kind == kind::CLOSED {
        lifecycle::connecting(conn);
        introduce(skb, conn, sk);
    }
    // SAFETY: no arguments.
    conn.syn_ns = unsafe { bpf_ktime_get_coarse_ns() };
}

/// A segment that opens or ends a stream.
#[inline(always)]
fn control(
    skb: *mut __sk_buff,
    conn: &mut Conn,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: usize,
) {
    // Neither has a stream, whatever strangers send to it, and the kernel for it. A listener's children would inherit what
    // is noted, and an attempt may still succeed.
    if conn.kind == kind::LISTENER
        || (conn.kind == kind::CONNECTING && segment.flags & packet::SYN == 0)
    {
        return;
    }
    if segment.flags & (packet::SYN | packet::ACK) == packet::SYN {
        if direction == TX {
            syn_sent(skb, conn, sk);
        }
    } else if segment.flags & packet::RST != 0 {
        if direction == TX {
            storage::mark(conn, flag::RESET_LEFT);
            return;
        }
        // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
        let tcp = unsafe { bpf_tcp_sock(sk).as_ref() };
        if tcp.is_some_and(|tcp| tcp.rcv_nxt == segment.seq) {
            storage::mark(conn, flag::RESET_SEEN);
        }
    } else if segment.flags & packet::FIN != 0
        && conn.flags & (flag::FIN_LOCAL | flag::FIN_PEER) == 0
    {
        storage::mark(conn, if direction == TX { flag::FIN_LOCAL } else { flag::FIN_PEER });
    }
}

/// Does what an event has not done: the first segment at a socket's own hook tells its addresses, and one that comes
/// before its birth was seen proves it.
#[inline(always)]
fn catch_up(skb: *mut __sk_buff, conn: &mut Conn, sk: *mut bpf_sock) {
    if conn.kind == kind::LISTENER || conn.kind == kind::CONNECTING {
        // SAFETY: `state` is readable on every kind of socket.
        let state = unsafe { (*sk).state };
        if state == TCP_SYN_SENT
            || state == TCP_SYN_RECV
            || state == TCP_LISTEN
            || state == TCP_CLOSE
        {
            return;
        }
        lifecycle::born(conn);
    }
    if conn.flags & flag::ADDRESSED == 0 {
        introduce(skb, conn, sk);
    }
}

/// A segment that completes a handshake: it reaches the listener, and the socket it creates inherits the listener's
/// state. Payload in it (`TCP_DEFER_ACCEPT`, a lost ACK) is parsed into this processor's note.
#[inline(always)]
fn handshake(ctx: &SkBuffContext, sk: *mut bpf_sock, segment: &Segment) {
    // SAFETY: the socket of the packet.
    let Some(conn) = (unsafe { storage::get_or_create(sk.cast()) }) else { return };
    if conn.kind != kind::LISTENER {
        // SAFETY: a socket that the verifier knows; the port is readable on every kind of socket, in host order.
        unsafe {
            conn.cgroup = bpf_sk_cgroup_id(sk.cast());
            conn.port = (*sk).src_port as u16;
        }
        conn.role = Role::Server as u8;
        conn.flags = flag::CONFIRMED;
        conn.flow.start();
        conn.cell = slots::find_or_make(transitions::key(conn, Protocol::Tcp as u8));
        conn.kind = kind::LISTENER;
    }
    let Some(note) = NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this processor's element; nothing else runs on it until the child has taken the note.
    let note = unsafe { &mut *note };
    note.armed = 0;
    if segment.payload == 0 {
        return;
    }
    note.flow.start();
    note.flow.request.next_seq = segment.seq.wrapping_add(segment.payload);
    note.flow.request.flags = stream_flag::SYNCED;
    note.flow.request.bytes = u64::from(segment.payload);
    note.port = u32::from(conn.port);
    note.cgroup = conn.cgroup;
    note.armed = 1;
    job::call(
        ctx,
        mode::HTTP1,
        &Job {
            offset: segment.offset,
            left: segment.payload,
            request: true,
            seq: segment.seq,
            kept: 0,
        },
    );
}

/// Takes cgroup, ports and addresses from the socket.
#[inline(always)]
fn introduce(skb: *mut __sk_buff, conn: &mut Conn, sk: *mut bpf_sock) {
    if conn.kind == kind::LISTENER || conn.kind == kind::CLOSED {
        return;
    }
    // SAFETY: fields that are readable on every kind of socket; the local port is in host order, the peer's in network
    // order.
    unsafe {
        conn.local_port = (*sk).src_port as u16;
        conn.peer_port = u16::from_be((*sk).dst_port);
        // All are read and then chosen from: for a choice before the read LLVM computes one address for both
        // families, and the verifier refuses ("pointer arithmetic on sock_common prohibited").
        let v4 = (*sk).family == AF_INET;
        let word = |address: *const u32| ptr::read_volatile(address);
        let local = (
            word(&raw const (*sk).src_ip4),
            [
                word(&raw const (*sk).src_ip6[0]),
                word(&raw const (*sk).src_ip6[1]),
                word(&raw const (*sk).src_ip6[2]),
                word(&raw const (*sk).src_ip6[3]),
            ],
        );
        let peer = (
            word(&raw const (*sk).dst_ip4),
            [
                word(&raw const (*sk).dst_ip6[0]),
                word(&raw const (*sk).dst_ip6[1]),
                word(&raw const (*sk).dst_ip6[2]),
                word(&raw const (*sk).dst_ip6[3]),
            ],
        );
        conn.local_addr = if v4 { [0, 0, MAPPED, local.0] } else { local.1 };
        conn.peer_addr = if v4 { [0, 0, MAPPED, peer.0] } else { peer.1 };
    }
    storage::mark(conn, flag::ADDRESSED);
    // SAFETY: the packet's socket has a cookie.
    conn.cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if conn.flags & flag::CONFIRMED == 0 {
        // SAFETY: the socket of the packet.
        conn.cgroup = unsafe { bpf_sk_cgroup_id(sk.cast()) };
        conn.port = if conn.role == Role::Server as u8 { conn.local_port } else { conn.peer_port };
        storage::mark(conn, flag::CONFIRMED);
        // Not a mere look: of this and a birth on another processor one must see what the other has written.
        if transitions::advance(conn, kind::ESTABLISHED, kind::ESTABLISHED) {
            transitions::open(conn, NO_CELL);
        }
    }
}

#[inline(always)]
fn payload(
    ctx: &SkBuffContext,
    conn: &mut Conn,
    sk: *mut bpf_sock,
    mut segment: Segment,
    direction: usize,
) {
    let request = conn.is_request(direction);
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now.wrapping_sub(conn.rtt_ns) >= RTT_INTERVAL_NS {
        sample_rtt(conn, sk, now);
    }
    let stream = conn.flow.stream_mut(request);
    stream.payload_ns = now;
    if stream.flags & stream_flag::SYNCED == 0 {
        stream.next_seq = segment.seq;
        stream.flags |= stream_flag::SYNCED;
        if direction == RX {
            // The first segment to arrive need not be the first of the stream; TCP has taken none before it.
            // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
            if let Some(tcp) = unsafe { bpf_tcp_sock(sk).as_ref() } {
                stream.next_seq = tcp.rcv_nxt;
            }
        }
    }
    let ahead = segment.seq.wrapping_sub(stream.next_seq) as i32;
    if ahead < 0 {
        // A retransmission: skip what was seen.
        let seen = ahead.unsigned_abs();
        let expected = stream.next_seq;
        if direction == TX {
            conn.retransmits += 1;
            add::one(conn, &slot::RETRANSMITS, 0);
        }
        if conn.flow.stream(request).hole != 0 {
            let come = if seen < segment.payload { seen } else { segment.payload };
            add::fill_hole(conn, request, come);
        }
        if seen >= segment.payload {
            return;
        }
        segment.payload -= seen;
        segment.offset += seen;
        segment.seq = expected;
    }
    if ahead > 0 && direction == RX && beyond_window(sk, segment.seq) {
        return;
    }
    let stream = conn.flow.stream_mut(request);
    let mode = stream.mode;
    let mut job =
        Job { offset: segment.offset, left: segment.payload, request, seq: segment.seq, kept: 0 };
    if ahead > 0 && mode != mode::OFF {
        if direction == RX
            && segment.payload as usize <= CHUNK
            && stream.flags & stream_flag::KEPT != stream_flag::KEPT
        {
            return job::call(ctx, mode::KEEP, &job);
        }
        lost(Loss::Gap);
        conn.flow.resync(request);
    }
    let stream = conn.flow.stream_mut(request);
    stream.next_seq = segment.seq.wrapping_add(segment.payload);
    let kept = stream.flags & stream_flag::KEPT != 0;
    let state = stream.state;
    add::bytes(conn, request, segment.payload);
    if ahead > 0 {
        conn.flow.stream_mut(request).hole += ahead.unsigned_abs();
        if kept {
            // What was kept is part of the gap, or follows this segment.
            job::call(ctx, mode::REPLAY, &job);
        }
        return;
    }
    if !request && conn.flow.asked == 0 && conn.flow.unanswered != 0 {
        conn.flow.unanswered = 0;
    }
    if mode == mode::OFF {
        if kept {
            job::call(ctx, mode::REPLAY, &job);
        }
        return;
    }
    if mode == mode::HTTP1 && request && state == http1::REQUEST_BODY && !kept {
        match between_heads(ctx.skb.skb, &job) {
            Between::Body => {
                if conn.flow.unanswered != UNCOUNTED {
                    conn.flow.unanswered = UNCOUNTED;
                }
                return;
            }
            Between::PlainHead => {
                conn.flow.plain_request();
                return;
            }
            Between::Head => {}
        }
    }
    if mode == mode::WEBSOCKET {
        job.put(ctx.skb.skb);
        if websocket::follow(ctx.skb.skb, conn, INLINE_FRAMES) && !kept {
            return;
        }
        job = Job::take(ctx.skb.skb);
    }
    job::call(ctx, mode, &job);
}

/// The segment is so far ahead that TCP cannot take it, whatever the window: a stray or a forgery.
#[inline(always)]
fn beyond_window(sk: *mut bpf_sock, seq: u32) -> bool {
    // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
    unsafe { bpf_tcp_sock(sk).as_ref() }
        .is_some_and(|tcp| seq.wrapping_sub(tcp.rcv_nxt) as i32 > LARGEST_WINDOW)
}

/// Time between two samples of a connection's round-trip time.
const RTT_INTERVAL_NS: u64 = 1_000_000_000;

#[inline(always)]
fn sample_rtt(conn: &mut Conn, sk: *mut bpf_sock, now: u64) {
    conn.rtt_ns = now;
    // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
    if let Some(tcp) = unsafe { bpf_tcp_sock(sk).as_ref() } {
        // In eighths of a microsecond; 0 before the first measurement.
        let us = tcp.srtt_us >> 3;
        if us != 0 {
            add::rtt(conn, us);
        }
    }
}

/// What a segment between two heads holds.
enum Between {
    /// Part of a body, or a request with another method than `GET`.
    Body,
    /// A whole request that asks for no upgrade.
    PlainHead,
    /// A head, or the start of one, that has to be looked at.
    Head,
}

/// Bytes in which a whole request head is recognised without a tail call.
const SMALL: usize = 256;

/// Most segments here are bodies, which one byte tells, or plain requests.
#[inline(always)]
fn between_heads(skb: *mut __sk_buff, job: &Job) -> Between {
    let mut words = MaybeUninit::<[u64; SMALL / 8]>::uninit();
    let start: *mut u64 = words.as_mut_ptr().cast();
    let small = (job.left as usize) < SMALL - 8;
    let wanted = if small { job.left } else { 1 };
    // SAFETY: within the array, word by word, since LLVM would call a loop for the whole of it.
    unsafe {
        for i in 0..SMALL / 8 {
            start.add(i).write_volatile(0);
        }
        if !packet::load::<{ SMALL as u32 }>(skb, job.offset, start.cast(), wanted) {
            return Between::Body;
        }
    }
    // SAFETY: written above.
    let words = unsafe { words.assume_init_ref() };
    let first = words[0] as u8;
    if first != b'G' && first != b'\r' && first != b'\n' {
        Between::Body
    } else if small && http1::is_plain_get(words, job.left as usize) {
        Between::PlainHead
    } else {
        Between::Head
    }
}
