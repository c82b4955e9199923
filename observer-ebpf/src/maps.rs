//! Every map, with its sizing.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
    macros::btf_map,
};
use observer_common::{
    CHUNK,
    flow::{Flow, Stream},
    wire::{
        conn::{Conn, MAX_FOUND},
        event::ConnRecord,
        loss::LOSSES,
        slot::{CGROUPS, CellKey, DEFAULT_SLOTS, Slot},
    },
};

/// State of each socket: allocated with it, freed with it.
///
/// `BPF_F_CLONE` copies a listener's state to the sockets it accepts. aya's own type has a fixed flag set.
#[repr(C)]
pub(crate) struct ClonedSkStorage<T> {
    r#type: *const [i32; 24],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are placeholders that the loader reads from BTF; nothing is ever dereferenced.
unsafe impl<T> Sync for ClonedSkStorage<T> {}

impl<T> ClonedSkStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

#[btf_map]
pub(crate) static CONNS: ClonedSkStorage<Conn> = ClonedSkStorage::new();

/// Slots in the table, unless the daemon asks for another number.
const MAX_SLOTS: usize = DEFAULT_SLOTS as usize;

/// From a cell's key to the index of its base slot in [`SLOTS`].
#[btf_map]
pub(crate) static INDEX: HashMap<CellKey, u32, MAX_SLOTS> = HashMap::new();

/// The counters. The daemon maps them into its memory and reads without system calls.
#[btf_map]
pub(crate) static SLOTS: Array<Slot, MAX_SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Indexes of free slots; filled by the daemon, which also returns what it frees.
#[btf_map]
pub(crate) static FREE: Queue<u32, MAX_SLOTS> = Queue::new();

/// Slots in use, and slots in all: words [`TABLE_USED`] and [`TABLE_CAPACITY`].
#[btf_map]
pub(crate) static TABLE: Array<u64, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Of [`TABLE`].
pub(crate) const TABLE_USED: u32 = 0;
/// Of [`TABLE`]; written by the daemon, once.
pub(crate) const TABLE_CAPACITY: u32 = 1;

/// Cells by cgroup that tell ports apart. The daemon takes out cgroups that have none, and writes numbers that have become
/// smaller.
#[btf_map]
pub(crate) static BUDGETS: HashMap<u64, u64, CGROUPS> = HashMap::new();

/// States that the census has found in all, by the index of the base slot that each is counted in.
#[btf_map]
pub(crate) static CENSUS: Array<u64, MAX_SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One word: how often the census has come to its end.
#[btf_map]
pub(crate) static WALKS: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Loss counters, by `observer_common::wire::loss::Loss`.
#[btf_map]
pub(crate) static LOSS: Array<u64, LOSSES, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Records of connections, see `record.rs`. 1 MiB holds about 9,000 of them, unless the daemon asks for another size.
#[btf_map]
pub(crate) static RECORDS: RingBuf<ConnRecord, { 1 << 20 }> = RingBuf::new();

/// The running kernel's `enum sk_rst_reason` as `observer_common::label::ResetCause`; its numbers change between
/// kernels, and the daemon reads them from the kernel's type information.
#[btf_map]
pub(crate) static RESET_CAUSES: Array<u32, 64> = Array::new();

/// Connections that the daemon has found by `sock_diag`, by the socket's cookie, as the state that the socket gets. Filled
/// for one run of the iterator, and let go when all have been adopted.
#[btf_map]
pub(crate) static FOUND: HashMap<u64, Conn, MAX_FOUND, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// One word: non-zero on a kernel that reports the error of a connection before it closes it, and not after.
#[btf_map]
pub(crate) static ERROR_FIRST: Array<u32, 1> = Array::new();

/// One word: non-zero while somebody reads [`RECORDS`].
#[btf_map]
pub(crate) static RECORDS_WANTED: Array<u32, 1> = Array::new();

/// Places for bytes under a parser, per processor: a softirq may interrupt a sending task between loading the bytes and
/// parsing them, and on preemptible kernels another task may, so each run claims one.
pub(crate) const SCRATCHES: u32 = 4;

#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) bytes: [u8; CHUNK],
    /// Where, how and with what a run of the HTTP/1 automaton ended. It passes through here because the verifier
    /// forgets what it knows of a number in a map: otherwise it follows the code behind the automaton's loop once for
    /// every position at which the loop may end.
    pub(crate) at: u32,
    pub(crate) state: u32,
    pub(crate) bits: u32,
    /// 1 while claimed.
    pub(crate) busy: u32,
    /// Where the follower of HTTP/2 frames is, likewise.
    pub(crate) stream: Stream,
}

#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, { SCRATCHES as usize }> = PerCpuArray::new();

/// What the payload of a handshake-completing segment said. It passes the listener's hook; the child that it creates
/// reaches ESTABLISHED later in the same softirq on the same CPU and takes the note.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Note {
    pub(crate) flow: Flow,
    /// 1 when the note waits for its child.
    pub(crate) armed: u32,
    /// The listener's port, host order.
    pub(crate) port: u32,
    /// The listener's cgroup.
    pub(crate) cgroup: u64,
}

#[btf_map]
pub(crate) static NOTE: PerCpuArray<Note, 1> = PerCpuArray::new();

/// Which socket and which of its places an out-of-order segment is kept in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct StashKey {
    pub(crate) cookie: u64,
    pub(crate) slot: u64,
}

/// A segment that arrived before its predecessor, during a handshake.
#[repr(C)]
pub(crate) struct Stash {
    pub(crate) bytes: [u8; CHUNK],
    pub(crate) seq: u32,
    pub(crate) len: u32,
}

/// Out-of-order segments of handshakes, until the gap closes. The oldest make room: 512 KiB in all.
#[btf_map]
pub(crate) static STASHES: LruHashMap<StashKey, Stash, 256> = LruHashMap::new();

/// Room to build a [`Stash`] in.
#[btf_map]
pub(crate) static STASH_ROOM: PerCpuArray<Stash, 1> = PerCpuArray::new();
