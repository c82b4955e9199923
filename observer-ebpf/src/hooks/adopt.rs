//! Connections that are older than the programs.
//!
//! - Hook: `iter/tcp`, run by the daemon once for each network namespace, after all other programs are attached.
//! - Context: the daemon's task, each socket under its lock (5.15), unhashed ones left out.
//! - Minimum kernel: 5.15 (`bpf_setsockopt` in the iterator; the iterator itself is of 5.9).
//! - Writes: the state of each socket that has none and that the daemon has found by `sock_diag`, its cell; asks for the
//!   callbacks of its state changes where the kernel lets a program do so (6.12).
//! - Misses: sockets that the daemon has not found. Before 6.12 the end of an adopted connection rests on two tracepoints.
//! - Costs: two look-ups for each socket of the node, once.

use core::ffi::{c_int, c_void};

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_getsockopt, bpf_setsockopt};
use observer_common::wire::conn::{Conn, NO_CELL, flag, phase};

use super::callbacks::STATE_FLAG;
use crate::{
    accounting::transitions, floor::empty, maps::FOUND, memory::shared::Shared, socket::storage,
};

const IPPROTO_TCP: c_int = 6;
/// `TCP_BPF_SOCK_OPS_CB_FLAGS`, linux/bpf.h.
const CALLBACK_FLAGS: c_int = 1008;

/// `struct bpf_iter__tcp`: two pointers that the verifier knows, and a user id.
#[repr(C)]
struct Visit {
    meta: *const c_void,
    sk_common: *const c_void,
}

/// See the module. The answer 0 goes on to the next socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub(crate) extern "C" fn adopt_socket(ctx: *const c_void) -> i32 {
    // SAFETY: the hook's context.
    let sk = unsafe { (*ctx.cast::<Visit>()).sk_common };
    if empty() || sk.is_null() {
        return 0;
    }
    // SAFETY: every kind of socket has a cookie.
    let cookie = unsafe { bpf_get_socket_cookie(sk.cast_mut()) };
    let Some(found) = FOUND.get_ptr_mut(cookie) else { return 0 };
    // SAFETY: the hook's socket, and an entry that the daemon does not change while this runs.
    if unsafe { give_state(sk, &*found) } {
        // SAFETY: as above; the daemon looks for those that were met.
        unsafe { (*found).phase = phase::COUNTED };
    }
    0
}

/// Gives the socket the state that was found for it, if it has none; whether it has one now.
///
/// # Safety
/// `sk` is the hook's socket.
#[inline(always)]
unsafe fn give_state(sk: *const c_void, found: &Conn) -> bool {
    // SAFETY: the caller's promise.
    if let Some(conn) = unsafe { storage::get(sk) } {
        attribute(conn, found);
        return true;
    }
    // SAFETY: as above.
    let Some(conn) = (unsafe { storage::get_or_copy(sk, found) }) else { return false };
    if conn.phase() == phase::ESTABLISHED && conn.has(flag::ADOPTED) {
        transitions::adopt(conn);
        watch(sk);
    }
    true
}

/// A connection that was established while the programs were being attached, and has had no segment since.
#[inline(always)]
fn attribute(conn: Shared, found: &Conn) {
    if conn.phase() != phase::ESTABLISHED || conn.has(flag::CONFIRMED) {
        return;
    }
    conn.set_cookie(found.cookie);
    conn.set_cgroup(found.cgroup);
    conn.set_port(found.port);
    conn.set_local_port(found.local_port);
    conn.set_peer_port(found.peer_port);
    // SAFETY: places within the state that are read once the connection is counted.
    unsafe {
        (*conn.as_ptr()).local_addr = found.local_addr;
        (*conn.as_ptr()).peer_addr = found.peer_addr;
    }
    conn.mark(flag::CONFIRMED | flag::ADDRESSED | (found.flags & flag::INTERNAL));
    transitions::open(conn, NO_CELL);
}

/// Asks for the callbacks of state changes, beside what others have asked for.
#[inline(always)]
fn watch(sk: *const c_void) {
    let mut flags: c_int = 0;
    let (sk, value, size) = (sk.cast_mut(), &raw mut flags, size_of::<c_int>() as c_int);
    // SAFETY: the hook's socket, which the iterator has locked, and a word of the stack.
    unsafe {
        if bpf_getsockopt(sk, IPPROTO_TCP, CALLBACK_FLAGS, value.cast(), size) == 0 {
            *value |= STATE_FLAG;
            bpf_setsockopt(sk, IPPROTO_TCP, CALLBACK_FLAGS, value.cast(), size);
        }
    }
}
