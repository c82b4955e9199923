//! Contexts of programs.

use std::ffi::c_void;

use crate::bindings::{__sk_buff, bpf_sock_ops};

pub trait EbpfContext {
    fn as_ptr(&self) -> *mut c_void;
}

#[derive(Debug)]
pub struct SkBuff {
    pub skb: *mut __sk_buff,
}

#[derive(Debug)]
pub struct SkBuffContext {
    pub skb: SkBuff,
}

impl SkBuffContext {
    #[must_use]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb: SkBuff { skb } }
    }
}

impl EbpfContext for SkBuffContext {
    fn as_ptr(&self) -> *mut c_void {
        self.skb.skb.cast()
    }
}

#[derive(Debug)]
pub struct SockOpsContext {
    pub ops: *mut bpf_sock_ops,
}

impl SockOpsContext {
    #[must_use]
    pub fn new(ops: *mut bpf_sock_ops) -> Self {
        Self { ops }
    }

    #[must_use]
    pub fn op(&self) -> u32 {
        // SAFETY: whoever runs a program promises a context.
        unsafe { (*self.ops).op }
    }

    #[must_use]
    pub fn arg(&self, n: usize) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ops).__bindgen_anon_1.args[n] }
    }

    #[must_use]
    pub fn cb_flags(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ops).bpf_sock_ops_cb_flags }
    }

    pub fn set_cb_flags(&self, flags: i32) -> Result<(), i32> {
        // SAFETY: as above.
        unsafe { (*self.ops).bpf_sock_ops_cb_flags = flags.cast_unsigned() };
        Ok(())
    }
}
