//! The helpers of the kernel that the programs call.

pub mod generated {
    use std::{ffi::c_void, ptr};

    use crate::{
        bindings::{__sk_buff, bpf_sock, bpf_sock_tuple, bpf_tcp_sock},
        host::{self, Socket},
    };

    unsafe fn socket<'a>(sk: *mut c_void) -> &'a mut Socket {
        // SAFETY: each socket of the host begins with what programs see of it.
        unsafe { &mut *sk.cast::<Socket>() }
    }

    pub unsafe fn bpf_ktime_get_ns() -> u64 {
        host::world(|world| world.now)
    }

    pub unsafe fn bpf_ktime_get_coarse_ns() -> u64 {
        host::world(|world| world.now)
    }

    /// Ticks of 4 ms, since a moment before the start.
    pub unsafe fn bpf_jiffies64() -> u64 {
        host::world(|world| world.now / 4_000_000 + 1)
    }

    pub unsafe fn bpf_get_smp_processor_id() -> u32 {
        host::processor() as u32
    }

    pub unsafe fn bpf_get_socket_cookie(ctx: *mut c_void) -> u64 {
        // SAFETY: programs of packets call it.
        unsafe { socket((*ctx.cast::<__sk_buff>()).__bindgen_anon_2.sk.cast()).cookie }
    }

    pub unsafe fn bpf_sk_cgroup_id(sk: *mut c_void) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { socket(sk).cgroup }
    }

    pub unsafe fn bpf_sk_ancestor_cgroup_id(sk: *mut c_void, _: i32) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { socket(sk).cgroup }
    }

    /// No other socket is on this node.
    pub unsafe fn bpf_sk_lookup_tcp(
        _: *mut c_void,
        _: *mut bpf_sock_tuple,
        _: u32,
        _: u64,
        _: u64,
    ) -> *mut bpf_sock {
        ptr::null_mut()
    }

    pub unsafe fn bpf_sk_release(_: *mut c_void) -> i64 {
        0
    }

    pub unsafe fn bpf_sk_fullsock(sk: *mut bpf_sock) -> *mut bpf_sock {
        sk
    }

    pub unsafe fn bpf_tcp_sock(sk: *mut bpf_sock) -> *mut bpf_tcp_sock {
        host::point();
        // SAFETY: the caller's promise.
        unsafe { &raw mut socket(sk.cast()).tcp }
    }

    pub unsafe fn bpf_sk_storage_get(
        _: *mut c_void,
        sk: *mut c_void,
        value: *mut c_void,
        flags: u64,
    ) -> *mut c_void {
        host::point();
        // SAFETY: the caller's promise.
        unsafe { socket(sk) }.storage(value, flags != 0)
    }

    pub unsafe fn bpf_skb_load_bytes(
        skb: *const c_void,
        offset: u32,
        to: *mut c_void,
        len: u32,
    ) -> i64 {
        // SAFETY: programs of packets call it.
        let skb = unsafe { &*skb.cast::<__sk_buff>() };
        if u64::from(offset) + u64::from(len) > u64::from(skb.len) {
            // SAFETY: the caller has room for as many; the kernel clears it.
            unsafe { ptr::write_bytes(to.cast::<u8>(), 0, len as usize) };
            return -14;
        }
        let from = ptr::with_exposed_provenance::<u8>(skb.data as usize + offset as usize);
        // SAFETY: within the packet; the caller has room for as many.
        unsafe { ptr::copy_nonoverlapping(from, to.cast::<u8>(), len as usize) };
        0
    }
}
