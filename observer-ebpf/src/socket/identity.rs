//! Who a socket is: its cgroup, ports and addresses, as the first segment at its own hook tells.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_cgroup_id},
};
use observer_common::{
    label::Role,
    wire::conn::{flag, phase},
};

use super::path;
use crate::memory::shared::Shared;

const AF_INET: u32 = 2;
/// Third word of an IPv4-mapped IPv6 address.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The server's port; 0 where nobody knows who that is.
#[inline(always)]
fn servers_port(conn: Shared) -> u16 {
    match conn.plain_role() {
        role if role == Role::Server as u8 => conn.local_port(),
        role if role == Role::Client as u8 => conn.peer_port(),
        _ => 0,
    }
}

/// Takes cgroup, ports and addresses from the socket, and its path from a segment in `direction` whose TCP header is at `tcp`;
/// true if the connection is established already, and is to be counted now that its cgroup is known.
#[inline(always)]
pub(crate) fn introduce(
    skb: *mut __sk_buff,
    conn: Shared,
    sk: *mut bpf_sock,
    tcp: u32,
    direction: usize,
) -> bool {
    let seen = conn.phase();
    if seen == phase::LISTENER || seen == phase::CLOSED {
        return false;
    }
    // SAFETY: fields that are readable on every kind of socket; the local port is in host order, the peer's in network
    // order.
    unsafe {
        conn.set_local_port((*sk).src_port as u16);
        conn.set_peer_port(u16::from_be((*sk).dst_port));
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
        let state = conn.as_ptr();
        (*state).local_addr = if v4 { [0, 0, MAPPED, local.0] } else { local.1 };
        (*state).peer_addr = if v4 { [0, 0, MAPPED, peer.0] } else { peer.1 };
    }
    // SAFETY: the packet's socket has a cookie.
    conn.set_cookie(unsafe { bpf_get_socket_cookie(skb.cast()) });
    if conn.has(flag::CONFIRMED) {
        conn.mark(flag::ADDRESSED);
        return false;
    }
    // SAFETY: the socket of the packet.
    conn.set_cgroup(unsafe { bpf_sk_cgroup_id(sk.cast()) });
    conn.set_port(servers_port(conn));
    let opens = seen == phase::CONNECTING;
    let internal = path::is_internal(skb, sk, tcp, direction, opens);
    conn.mark(flag::ADDRESSED | flag::CONFIRMED | if internal { flag::INTERNAL } else { 0 });
    // Of this and an opening on another processor one must see what the other has written. The SYN has not left yet.
    !opens && conn.is_settled_in(phase::ESTABLISHED)
}
