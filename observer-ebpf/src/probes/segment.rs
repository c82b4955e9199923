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
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_sk_cgroup_id, bpf_tcp_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_common::{
    CHUNK,
    conn::{Conn, NO_CELL, RX, TX, flag, kind},
    flow::{mode, stream_flag},
    http1,
    loss::Loss,
    protocol::{Protocol, Role},
};

use super::{
    job::{self, Job},
    packet::{self, Segment},
    websocket,
};
use crate::{count, maps::NOTE, storage};

const TCP_LISTEN: u32 = 10;
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
    let Some(conn) = (unsafe { storage::get(sk.cast()) }) else { return };
    if conn.flags & flag::ADDRESSED == 0 {
        introduce(conn, sk);
    }
    if segment.payload == 0 || conn.kind == kind::CLOSED {
        return;
    }
    payload(ctx, conn, sk, segment, direction);
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
        conn.cell = count::cell_index(conn, Protocol::Tcp as u8);
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
    note.bytes = u64::from(segment.payload);
    note.port = u32::from(conn.port);
    note.cgroup = conn.cgroup;
    note.armed = 1;
    job::call(ctx, mode::HTTP1, &Job { offset: segment.offset, left: segment.payload, request: true, seq: segment.seq, kept: 0 });
}

/// The first segment at a socket's own hook: tells its cgroup, ports and addresses.
#[inline(always)]
fn introduce(conn: &mut Conn, sk: *mut bpf_sock) {
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
        let local = (word(&raw const (*sk).src_ip4), [
            word(&raw const (*sk).src_ip6[0]),
            word(&raw const (*sk).src_ip6[1]),
            word(&raw const (*sk).src_ip6[2]),
            word(&raw const (*sk).src_ip6[3]),
        ]);
        let peer = (word(&raw const (*sk).dst_ip4), [
            word(&raw const (*sk).dst_ip6[0]),
            word(&raw const (*sk).dst_ip6[1]),
            word(&raw const (*sk).dst_ip6[2]),
            word(&raw const (*sk).dst_ip6[3]),
        ]);
        conn.local_addr = if v4 { [0, 0, MAPPED, local.0] } else { local.1 };
        conn.peer_addr = if v4 { [0, 0, MAPPED, peer.0] } else { peer.1 };
    }
    conn.flags |= flag::ADDRESSED;
    if conn.flags & flag::CONFIRMED == 0 {
        // SAFETY: the socket of the packet.
        conn.cgroup = unsafe { bpf_sk_cgroup_id(sk.cast()) };
        conn.port = if conn.role == Role::Server as u8 { conn.local_port } else { conn.peer_port };
        conn.flags |= flag::CONFIRMED;
        if conn.kind == kind::ESTABLISHED {
            count::open(conn, NO_CELL);
        }
    }
}

#[inline(always)]
fn payload(ctx: &SkBuffContext, conn: &mut Conn, sk: *mut bpf_sock, mut segment: Segment, direction: usize) {
    let request = (conn.role == Role::Server as u8) == (direction == RX);
    // SAFETY: no arguments.
    conn.payload_ns = unsafe { bpf_ktime_get_coarse_ns() };
    let stream = if request { &mut conn.flow.request } else { &mut conn.flow.response };
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
        if seen >= segment.payload {
            return;
        }
        segment.payload -= seen;
        segment.offset += seen;
        segment.seq = stream.next_seq;
    }
    let mode = stream.mode;
    let mut job = Job { offset: segment.offset, left: segment.payload, request, seq: segment.seq, kept: 0 };
    if ahead > 0 && mode != mode::OFF {
        if direction == RX && segment.payload as usize <= CHUNK && stream.flags & stream_flag::KEPT != stream_flag::KEPT {
            return job::call(ctx, mode::KEEP, &job);
        }
        count::lost(Loss::Gap);
        stream.flags &= !stream_flag::KEPT;
        stream.next_seq = segment.seq.wrapping_add(segment.payload);
        conn.flow.resync(request);
        return;
    }
    stream.next_seq = segment.seq.wrapping_add(segment.payload);
    let kept = stream.flags & stream_flag::KEPT != 0;
    let state = stream.state;
    conn.bytes[direction] += u64::from(segment.payload);
    if mode == mode::OFF {
        return;
    }
    if mode == mode::HTTP1 && request && state == http1::REQUEST_BODY && !kept {
        match between_heads(ctx.skb.skb, &job) {
            Between::Nothing => return,
            Between::Head => {}
        }
    }
    if mode == mode::WEBSOCKET {
        job.put(ctx.skb.skb);
        if websocket::follow(ctx.skb.skb, conn, direction, INLINE_FRAMES) && !kept {
            return;
        }
        job = Job::take(ctx.skb.skb);
    }
    job::call(ctx, mode, &job);
}

/// What a segment between two heads holds.
enum Between {
    /// Part of a body, or a whole request that asks for no upgrade.
    Nothing,
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
            return Between::Nothing;
        }
    }
    // SAFETY: written above.
    let words = unsafe { words.assume_init_ref() };
    let first = words[0] as u8;
    let plain = small && http1::is_plain_get(words, job.left as usize);
    if plain || (first != b'G' && first != b'\r' && first != b'\n') { Between::Nothing } else { Between::Head }
}
