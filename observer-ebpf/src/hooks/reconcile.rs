//! The reconciliation: which sockets still have a state that is counted in a cell.
//!
//! - Hook: `iter/bpf_sk_storage_map` over [`CONNS`](crate::maps::CONNS), run by the daemon every few seconds.
//! - Context: the daemon's task, within one RCU read section for all states of a bucket.
//! - Minimum kernel: 5.10 (the walk under RCU; the iterator itself is of 5.9).
//! - Writes: the number of states by cell, and the number of walks that came to their end. Never a state or a cell.
//! - Misses: nothing that is there all the while. What comes or goes meanwhile may be found or not.
//! - Costs: a look at one cache line of each socket's state, and an add. No segment pays for it.

use core::{ffi::c_void, ptr};

use observer_common::wire::conn::{Conn, phase};

use crate::{
    floor::empty,
    maps::{RECONCILED, WALKS},
    memory::atomic,
};

/// `struct bpf_iter__bpf_sk_storage_map`: pointers that the verifier knows; the last is the socket's state.
#[repr(C)]
struct Visit {
    meta: *const c_void,
    map: *const c_void,
    sk: *const c_void,
    value: *const Conn,
}

/// See the module. The answer 0 goes on to the next state; after the last the program runs once more, without one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub(crate) extern "C" fn count_state(ctx: *const c_void) -> i32 {
    if empty() {
        return 0;
    }
    // SAFETY: the hook's context.
    let conn = unsafe { (*ctx.cast::<Visit>()).value };
    let counter = if conn.is_null() {
        WALKS.get_ptr_mut(0)
    } else {
        // SAFETY: aligned words of the state, which the read section keeps.
        let (phase, cell) = unsafe {
            (
                ptr::read_volatile(&raw const (*conn).phase),
                ptr::read_volatile(&raw const (*conn).cell),
            )
        };
        match phase {
            // A connection that is over is in no cell, and the look-up fails; before its birth is counted it has one that it
            // is not counted in.
            phase::COUNTED | phase::ABORTING | phase::CLOSED => RECONCILED.get_ptr_mut(cell),
            _ => None,
        }
    };
    if let Some(counter) = counter {
        // SAFETY: a pointer into the map's value, aligned by its type.
        unsafe { atomic::add(counter, 1) }
    }
    0
}
