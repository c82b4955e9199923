//! Whether both ends of a connection are in one pod, as a segment of it tells. Asked once for a connection, before it is
//! counted; only what comes over loopback costs more than a comparison.
//!
//! Both ends of what passes the loopback device are in one network namespace. The other end's socket is looked up by the
//! addresses that the segment has here, and tells its cgroup, wherever it was redirected on its way; whether two cgroups
//! are of one pod, the daemon has told ([`REPLICAS`]). In a pod's own namespace that is always so. In the node's the pods
//! that share it are told apart.
//!
//! What the daemon has not met yet, since it walks the tree once a second, is told by where it stands: the containers of a
//! pod have the pod's own cgroup for a parent.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_sk_ancestor_cgroup_id, bpf_sk_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_release,
        bpf_skb_load_bytes,
    },
};
use observer_common::wire::{
    conn::{RX, TX},
    replica::{self, Ends},
};

use crate::maps::{REPLICAS, SYNS};

/// The loopback device of every network namespace is its first.
const LOOPBACK: u32 = 1;
/// Of the namespace that the segment is in.
const HERE: u64 = u64::MAX;
/// Levels of the cgroup tree that are looked at: pods of a kubelet in a container have about ten above them.
const LEVELS: i32 = 16;

/// Whether both ends are in one pod. The segment passes the hook of `sk`, in `direction`; its TCP header is at `tcp`. `opens`:
/// it is the first of an active open.
#[inline(always)]
pub(crate) fn is_internal(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    tcp: u32,
    direction: usize,
    opens: bool,
) -> bool {
    // SAFETY: a context field.
    if unsafe { (*skb).ifindex } != LOOPBACK {
        return false;
    }
    let own = sk.cast::<c_void>();
    // SAFETY: the socket of the packet.
    let cgroup = unsafe { bpf_sk_cgroup_id(own) };
    // SAFETY: the value is copied out at once.
    let known = unsafe { REPLICAS.get(cgroup) }.copied();
    if known == Some(0) {
        return false;
    }
    let other = other_end(skb, tcp, direction);
    if other.is_null() {
        // It was redirected, and the client's side has told, or it is gone.
        // SAFETY: the value is copied out at once.
        let told = (direction == RX).then(|| unsafe { SYNS.get(ends(skb, tcp)) }.copied());
        return told.flatten().is_none_or(|told| told != 0);
    }
    // SAFETY: a socket that the verifier knows.
    let theirs = unsafe { bpf_sk_cgroup_id(other.cast()) };
    // SAFETY: the value is copied out at once.
    let internal = match (known, unsafe { REPLICAS.get(theirs) }.copied()) {
        (Some(own), Some(theirs)) => own == theirs,
        _ => are_near(own, cgroup, other.cast(), theirs),
    };
    // SAFETY: looked up above, and not used any more.
    unsafe { bpf_sk_release(other.cast()) };
    if opens && direction == TX && is_redirected(skb, sk, tcp) {
        let _ = SYNS.insert(ends(skb, tcp), u32::from(internal), 0);
    }
    internal
}

/// The socket at the other end, or null; it is to be released.
#[inline(always)]
fn other_end(skb: *mut __sk_buff, tcp: u32, direction: usize) -> *mut bpf_sock {
    // Addresses and ports as a segment to the other end has them.
    let mut tuple = [0_u32; 9];
    let to: *mut u8 = tuple.as_mut_ptr().cast();
    let is_v4 = is_v4(skb);
    let (first, length) = if is_v4 { (12, 4) } else { (8, 16) };
    let (source, target) = if direction == TX { (0, 1) } else { (1, 0) };
    let load = |from: u32, at: u32, bytes: u32| {
        // SAFETY: the helper checks the range within the packet; the tuple has room for two addresses of 16 bytes and two ports.
        unsafe { bpf_skb_load_bytes(skb.cast(), from, to.add(at as usize).cast(), bytes) }
    };
    if is_v4 {
        load(first + source * length, 0, 4);
        load(first + target * length, 4, 4);
        load(tcp + source * 2, 8, 2);
        load(tcp + target * 2, 10, 2);
        // SAFETY: the length is that of an IPv4 tuple.
        unsafe { bpf_sk_lookup_tcp(skb.cast(), to.cast(), 12, HERE, 0) }
    } else {
        load(first + source * length, 0, 16);
        load(first + target * length, 16, 16);
        load(tcp + source * 2, 32, 2);
        load(tcp + target * 2, 34, 2);
        // SAFETY: the length is that of an IPv6 tuple.
        unsafe { bpf_sk_lookup_tcp(skb.cast(), to.cast(), 36, HERE, 0) }
    }
}

#[inline(always)]
fn is_v4(skb: *mut __sk_buff) -> bool {
    word(skb, 0).to_ne_bytes()[0] >> 4 == 4
}

/// Four bytes of the packet as it has them, zeroes if there are none.
#[inline(always)]
fn word(skb: *mut __sk_buff, offset: u32) -> u32 {
    let mut word = 0_u32;
    // SAFETY: the helper checks the offset and writes four bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, (&raw mut word).cast(), 4) };
    word
}

/// The last four bytes of both addresses, and both ports, as the packet has them.
#[inline(always)]
fn ends(skb: *mut __sk_buff, tcp: u32) -> Ends {
    let (source, target) = if is_v4(skb) { (12, 16) } else { (20, 36) };
    Ends { source: word(skb, source), target: word(skb, target), ports: word(skb, tcp) }
}

/// Whether a segment that the socket sends goes elsewhere, or comes from elsewhere, than the socket knows.
#[inline(always)]
fn is_redirected(skb: *mut __sk_buff, sk: *mut bpf_sock, tcp: u32) -> bool {
    let packet = ends(skb, tcp);
    // SAFETY: fields that are readable on every kind of socket; the local port is in host order. All are read and then chosen
    // from, see `identity.rs`.
    let (v4, v6, local_port, peer_port) = unsafe {
        (
            [
                ptr::read_volatile(&raw const (*sk).src_ip4),
                ptr::read_volatile(&raw const (*sk).dst_ip4),
            ],
            [
                ptr::read_volatile(&raw const (*sk).src_ip6[3]),
                ptr::read_volatile(&raw const (*sk).dst_ip6[3]),
            ],
            (*sk).src_port as u16,
            (*sk).dst_port,
        )
    };
    let [source, target] = if is_v4(skb) { v4 } else { v6 };
    let ports = u32::from_be(packet.ports);
    let own = u32::from(local_port) << 16 | u32::from(u16::from_be(peer_port));
    packet.source != source || packet.target != target || ports != own
}

/// Whether two sockets, of cgroups not both of which the daemon has met, are in one pod by where these stand in the tree.
#[inline(always)]
fn are_near(own: *mut c_void, cgroup: u64, other: *mut c_void, theirs: u64) -> bool {
    // SAFETY: sockets that the verifier knows.
    let ancestors = |level| unsafe {
        (bpf_sk_ancestor_cgroup_id(own, level), bpf_sk_ancestor_cgroup_id(other, level))
    };
    // SAFETY: the value is copied out at once.
    let known = |cgroup| unsafe { REPLICAS.get(cgroup) }.copied();
    // Without the root nothing has been told yet.
    if known(ancestors(0).0).is_none() {
        return false;
    }
    // The deepest cgroup that both are in or below, the one above it, and what is below it.
    let (mut above, mut common) = (0, 0);
    let mut below = (0, 0);
    for level in 1..LEVELS {
        below = ancestors(level);
        if below.0 == 0 || below.0 != below.1 {
            break;
        }
        above = common;
        common = below.0;
    }
    if common == 0 {
        return false;
    }
    match known(common) {
        Some(0) => false,
        Some(replica) if replica & replica::IS_POD != 0 => true,
        // New: the pod itself, or a container of one, but not what holds pods or units.
        _ if below.0 == 0 && below.1 == 0 => known(above) != Some(0),
        _ => below.0 == 0 || below.1 == 0 || below.0 == cgroup || below.1 == theirs,
    }
}
