//! The one door to a socket's state: finds it, or makes it. The kernel frees it with the socket.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated::bpf_sk_storage_get};
use observer_common::wire::{conn::Conn, loss::Loss};

use crate::{accounting::losses::lost, maps::CONNS, memory::shared::Shared};

/// The state of `sk`, if it has any. Null, request and time-wait sockets have none.
///
/// # Safety
/// `sk` is a socket pointer that the verifier knows as such (hook argument or `__sk_buff::sk`).
#[inline(always)]
pub(crate) unsafe fn get(sk: *const c_void) -> Option<Shared> {
    // SAFETY: the helper returns null or the storage of `sk`, which lives as long as the socket, and the socket
    // outlives the program's run.
    unsafe {
        Shared::new(
            bpf_sk_storage_get(
                ptr::from_ref(&CONNS).cast_mut().cast(),
                sk.cast_mut(),
                ptr::null_mut(),
                0,
            )
            .cast(),
        )
    }
}

/// The state of `sk`, created zeroed if there is none. A refusal (memory) is counted.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_create(sk: *const c_void) -> Option<Shared> {
    // SAFETY: as in `get`.
    unsafe { create(sk, ptr::null()) }
}

/// The state of `sk`, a copy of `state`, which lies in a map, if there is none. A refusal (memory) is counted.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_copy(sk: *const c_void, state: &Conn) -> Option<Shared> {
    // SAFETY: as in `get`; the helper copies the state before anybody can see it.
    unsafe { create(sk, state) }
}

#[inline(always)]
unsafe fn create(sk: *const c_void, state: *const Conn) -> Option<Shared> {
    // SAFETY: as in `get`.
    let conn = unsafe {
        Shared::new(
            bpf_sk_storage_get(
                ptr::from_ref(&CONNS).cast_mut().cast(),
                sk.cast_mut(),
                state.cast_mut().cast(),
                u64::from(BPF_SK_STORAGE_GET_F_CREATE),
            )
            .cast(),
        )
    };
    if conn.is_some() {
        return conn;
    }
    // Another processor may have been faster: the kernel then refuses instead of handing out what is there.
    // SAFETY: as in `get`.
    let conn = unsafe { get(sk) };
    if conn.is_none() {
        lost(Loss::StorageRefused);
    }
    conn
}
