//! The kernel's structures, as far as the programs read them. Pointers have their width here.

pub const BPF_F_NO_PREALLOC: u32 = 1;
pub const BPF_F_CLONE: u32 = 1 << 9;
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
pub const BPF_NOEXIST: u32 = 1;
pub const BPF_SK_STORAGE_GET_F_CREATE: u32 = 1;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct __sk_buff {
    pub len: u32,
    pub ifindex: u32,
    pub cb: [u32; 5],
    pub data: u64,
    pub data_end: u64,
    pub __bindgen_anon_2: sk,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct sk {
    pub sk: *mut bpf_sock,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct bpf_sock {
    pub family: u32,
    pub type_: u32,
    pub src_ip4: u32,
    pub src_ip6: [u32; 4],
    pub src_port: u32,
    pub dst_port: u16,
    pub dst_ip4: u32,
    pub dst_ip6: [u32; 4],
    pub state: u32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct bpf_sock_tuple {
    pub words: [u32; 9],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct bpf_tcp_sock {
    pub srtt_us: u32,
    pub rcv_nxt: u32,
    pub snd_nxt: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct bpf_sock_ops {
    pub op: u32,
    pub __bindgen_anon_1: args,
    pub family: u32,
    pub remote_ip4: u32,
    pub remote_ip6: [u32; 4],
    pub remote_port: u32,
    pub bpf_sock_ops_cb_flags: u32,
    pub packets_out: u32,
    pub rcv_nxt: u32,
    pub bytes_received: u64,
    pub __bindgen_anon_2: sk,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct args {
    pub args: [u32; 4],
}
