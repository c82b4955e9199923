//! Access to a socket's own state.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated::bpf_sk_storage_get};
use observer_common::wire::{conn::Conn, loss::Loss};

use crate::{accounting::losses::lost, atomic, maps::CONNS};

/// The state of `sk`, if it has any. Null, request and time-wait sockets have none.
///
/// # Safety
/// `sk` is a socket pointer that the verifier knows as such (hook argument or `__sk_buff::sk`).
#[inline(always)]
pub(crate) unsafe fn get<'a>(sk: *const c_void) -> Option<&'a mut Conn> {
    // SAFETY: the helper returns null or the storage of `sk`, which lives as long as the socket, and the socket
    // outlives the program's run. Concurrent runs for one socket are possible; words where that matters are changed by
    // atomic instructions only.
    unsafe {
        bpf_sk_storage_get(
            ptr::from_ref(&CONNS).cast_mut().cast(),
            sk.cast_mut(),
            ptr::null_mut(),
            0,
        )
        .cast::<Conn>()
        .as_mut()
    }
}

/// The state of `sk`, created zeroed if there is none. A refusal (memory) is counted.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_create<'a>(sk: *const c_void) -> Option<&'a mut Conn> {
    // SAFETY: as in `get`.
    unsafe { create(sk, ptr::null()) }
}

/// The state of `sk`, a copy of `state`, which lies in a map, if there is none. A refusal (memory) is counted.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_copy<'a>(sk: *const c_void, state: &Conn) -> Option<&'a mut Conn> {
    // SAFETY: as in `get`; the helper copies the state before anybody can see it.
    unsafe { create(sk, state) }
}

#[inline(always)]
unsafe fn create<'a>(sk: *const c_void, state: *const Conn) -> Option<&'a mut Conn> {
    // SAFETY: as in `get`.
    let conn = unsafe {
        bpf_sk_storage_get(
            ptr::from_ref(&CONNS).cast_mut().cast(),
            sk.cast_mut(),
            state.cast_mut().cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<Conn>()
        .as_mut()
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

/// Sets flags ([`observer_common::conn::flag`]), whatever another processor sets at the same time.
#[inline(always)]
pub(crate) fn mark(conn: &mut Conn, flags: u32) {
    // SAFETY: an aligned word of the storage.
    unsafe { atomic::or(&raw mut conn.flags, flags) }
}
