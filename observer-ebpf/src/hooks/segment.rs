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

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_ktime_get_coarse_ns, bpf_sk_cgroup_id, bpf_sk_fullsock, bpf_tcp_sock,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use observer_common::{
    stream::{flag as of_stream, mode, program},
    wire::conn::{RX, TX, flag, phase},
};

use crate::{
    accounting::add,
    clock,
    detour::detour,
    floor::empty,
    memory::shared::Shared,
    socket::{identity, lifecycle, path, storage},
    stream::{
        claim::{Claim, Claimed, claim},
        inline,
        job::{self, Job, Why},
        kept, note, order,
        packet::{self, Segment},
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
    let opens = direction == TX && segment.flags & (packet::SYN | packet::ACK) == packet::SYN;
    // A SYN that answers one tells nothing that the opening of either end does not.
    let tells = opens || segment.flags & (packet::FIN | packet::RST) != 0;
    // Neither does a pure ACK: it is looked at only while something waits for an event.
    if segment.payload == 0 && !tells && !kept::is_any() {
        return;
    }
    // SAFETY: the socket of the packet.
    let known = unsafe { storage::get(sk.cast()) };
    let Some(conn) = known.or_else(|| if opens { make(sk) } else { None }) else {
        if segment.payload != 0 && !tells {
            job(&segment, direction == TX).begin(skb);
            job::call(ctx, program::ADOPT);
        }
        return;
    };
    if tells {
        control(conn, sk, &segment, direction, opens);
    }
    if conn.phase() != phase::COUNTED || !conn.has(flag::ADDRESSED) {
        catch_up(skb, conn, sk, &segment, direction);
    }
    if matches!(conn.phase(), phase::CLOSED | phase::ADOPTING | phase::NEW) {
        return;
    }
    if segment.payload != 0 {
        payload(ctx, conn, sk, &segment, direction);
    } else if kept::is_any() {
        order::attend(ctx, conn);
    }
}

/// The state of a socket whose first SYN leaves; `None` for a raw socket that sends TCP segments of its own making.
#[inline(always)]
fn make(sk: *mut bpf_sock) -> Option<Shared> {
    // SAFETY: the socket of the packet; the helper returns null for what is no full socket.
    let full = unsafe { bpf_sk_fullsock(sk).as_ref() }?;
    if full.type_ != SOCK_STREAM {
        return None;
    }
    // SAFETY: as above.
    unsafe { storage::get_or_create(sk.cast()) }
}

/// A segment that opens or ends a stream. `opens`: it is the SYN of an active open, or another try of it.
#[inline(always)]
fn control(conn: Shared, sk: *mut bpf_sock, segment: &Segment, direction: usize, opens: bool) {
    let seen = conn.phase();
    // Neither has a stream, whatever strangers send to it, and the kernel for it. A listener's children would inherit what
    // is noted, and an attempt may still succeed. (What arrives here in the phase of a listener is for a child that is about to be
    // established.)
    if (seen == phase::LISTENER && direction == TX) || (seen == phase::CONNECTING && !opens) {
        return;
    }
    if opens {
        if matches!(seen, phase::NEW | phase::CLOSED | phase::ABORTING | phase::FAILING) {
            lifecycle::connecting(conn);
        }
        // SAFETY: no arguments.
        conn.set_syn_ns(unsafe { bpf_ktime_get_coarse_ns() });
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
        let mut tells = 0;
        if direction == RX && !conn.has(flag::FIN_HEARD) {
            conn.set_fin_seq(segment.seq.wrapping_add(segment.payload));
            tells = flag::FIN_HEARD;
        }
        if !conn.has(flag::FIN_LOCAL | flag::FIN_PEER) {
            tells |= if direction == TX { flag::FIN_LOCAL } else { flag::FIN_PEER };
        }
        if tells != 0 {
            conn.mark(tells);
        }
    }
}

/// Does what an event has not done: the first segment at a socket's own hook, be it a SYN, tells its addresses, and one that
/// comes before its opening was seen proves it.
#[inline(always)]
fn catch_up(
    skb: *mut __sk_buff,
    conn: Shared,
    sk: *mut bpf_sock,
    segment: &Segment,
    direction: usize,
) {
    if matches!(conn.phase(), phase::NEW | phase::ADOPTING) {
        return;
    }
    let mut begins = false;
    if matches!(conn.phase(), phase::LISTENER | phase::CONNECTING) {
        // SAFETY: `state` is readable on every kind of socket.
        let state = unsafe { (*sk).state };
        if !matches!(state, TCP_SYN_SENT | TCP_SYN_RECV | TCP_LISTEN | TCP_CLOSE) {
            begins = lifecycle::establish(conn);
        } else if direction == RX || conn.phase() == phase::LISTENER || conn.has(flag::CONFIRMED) {
            // Who connects is told by its own SYN, and by nothing else before the answer.
            return;
        }
    }
    if !conn.has(flag::ADDRESSED) {
        begins |= identity::introduce(skb, conn, sk, segment.tcp, direction);
    }
    if begins {
        lifecycle::begin(conn);
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
    let internal = path::is_internal(ctx.skb.skb, sk, segment.tcp, RX, false);
    note::path(internal);
    if conn.phase() != phase::LISTENER {
        // SAFETY: a socket that the verifier knows; the port is readable on every kind of socket, in host order.
        let (cgroup, port) = unsafe { (bpf_sk_cgroup_id(sk.cast()), (*sk).src_port as u16) };
        lifecycle::listening(conn, cgroup, port, internal);
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
    let skb = ctx.skb.skb;
    job(segment, request).begin(skb);
    let synced = conn.is_synced(request);
    let start = if synced { segment.seq } else { start(conn, sk, segment, direction) };
    let (mut claimed, simple) = match claim(conn, request) {
        Claim::Alone(claimed) => (claimed, true),
        Claim::WithInbox(claimed) => (claimed, false),
        Claim::Busy => {
            job::because(skb, Why::Busy);
            return job::call(ctx, program::KEEP);
        }
    };
    let tick = clock::tick();
    if tick != conn.tick(request) {
        conn.set_tick(request, tick);
        timed(&mut claimed, sk);
    }
    if claimed.parser().flags & of_stream::SYNCED == 0 {
        claimed.set_next_seq(start);
    }
    order::obey(&mut claimed);
    let parser = *claimed.parser();
    let in_sequence = segment.seq == claimed.next_seq();
    let behind = conn.is_behind_request(request, parser.mode);
    let waits = parser.mode == mode::WAIT || parser.flags & of_stream::PARKED != 0;
    if !(simple && in_sequence) || behind || waits {
        job::call(ctx, program::ORDER);
        return claimed.abandon();
    }
    claimed.accept_in(direction, segment.payload);
    let facts = conn.facts();
    if !request && facts.asked == 0 && facts.unanswered != 0 {
        conn.set_unanswered(0);
    }
    if !detour() && inline::read(skb, &mut claimed, direction) {
        return order::finish(ctx, claimed);
    }
    job::call(ctx, u32::from(claimed.parser().mode));
    job::because(skb, Why::Rest);
    job::call(ctx, program::KEEP);
    claimed.abandon();
}

/// Takes note of when payload has passed: what the clock tells changes only with the tick.
#[inline(always)]
fn timed(claimed: &mut Claimed, sk: *mut bpf_sock) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    claimed.set_payload_ns(now);
    let conn = claimed.conn();
    if now.wrapping_sub(conn.rtt_ns()) >= RTT_INTERVAL_NS {
        sample_rtt(conn, sk, now);
    }
}

/// Where a stream begins of which no segment has been seen. To be asked before the stream is claimed: what is handed over after that
/// TCP may have taken at once.
#[inline(always)]
pub(super) fn start(conn: Shared, sk: *mut bpf_sock, segment: &Segment, direction: usize) -> u32 {
    if direction == RX || conn.has(flag::ADOPTED) {
        // The first segment to arrive need not be the first of the stream; TCP has taken none before it. The first that an
        // adopted connection sends may be sent again.
        // SAFETY: the socket of the packet; the helper returns null for what is not TCP.
        if let Some(tcp) = unsafe { bpf_tcp_sock(sk).as_ref() } {
            // Both are read and then chosen from, see `socket/identity.rs`.
            // SAFETY: fields of what the helper returned.
            let of_tcp = |word: *const u32| unsafe { ptr::read_volatile(word) };
            let (received, sent) = (of_tcp(&raw const tcp.rcv_nxt), of_tcp(&raw const tcp.snd_nxt));
            return if direction == RX { received } else { sent };
        }
    }
    segment.seq
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
