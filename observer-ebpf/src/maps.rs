//! Every map, with its sizing.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
    macros::btf_map,
};
use observer_common::{
    CHUNK,
    stream::Parser,
    wire::{
        conn::{Conn, MAX_FOUND},
        event::ConnRecord,
        kept::{self, ENTRIES, Kept, Note},
        loss::LOSSES,
        replica::{Ends, KNOWN_CGROUPS},
        slot::{CGROUPS, CellKey, DEFAULT_SLOTS, Slot, TABLE_WORDS},
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

/// Slots in use, and slots in all: words [`TABLE_USED`] and [`TABLE_CAPACITY`]. The others are the daemon's.
#[btf_map]
pub(crate) static TABLE: Array<u64, TABLE_WORDS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Of [`TABLE`].
pub(crate) const TABLE_USED: u32 = 0;
/// Of [`TABLE`]; written by the daemon, once.
pub(crate) const TABLE_CAPACITY: u32 = 1;

/// Cells by cgroup that tell ports apart. The daemon takes out cgroups that have none, and writes numbers that have become
/// smaller.
#[btf_map]
pub(crate) static BUDGETS: HashMap<u64, u64, CGROUPS> = HashMap::new();

/// In which pod or container each cgroup is, as the daemon has found at its last walk: 0 in none, else a number that stands for
/// it, see `observer_common::wire::replica`.
#[btf_map]
pub(crate) static REPLICAS: HashMap<u64, u64, KNOWN_CGROUPS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// How a SYN looks on its way through the loopback device when it has been redirected; and whether both ends of what it opens
/// are in one pod, since who accepts it cannot find the client by it.
#[btf_map]
pub(crate) static SYNS: LruHashMap<Ends, u32, 1024> = LruHashMap::new();

/// States that the reconciliation has found in all, by the index of the base slot that each is counted in.
#[btf_map]
pub(crate) static RECONCILED: Array<u64, MAX_SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One word: how often the reconciliation has come to its end.
#[btf_map]
pub(crate) static WALKS: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Loss counters, by `observer_common::wire::loss::Loss`.
#[btf_map]
pub(crate) static LOSS: Array<u64, LOSSES, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Records of connections, see `accounting/records.rs`. 1 MiB holds about 9,000 of them, unless the daemon asks for another size.
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
    pub(crate) parser: Parser,
}

#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, { SCRATCHES as usize }> = PerCpuArray::new();

/// See [`Note`].
#[btf_map]
pub(crate) static NOTE: PerCpuArray<Note, 1> = PerCpuArray::new();

/// Kept segments, see `observer_common::wire::kept`.
#[btf_map]
pub(crate) static KEPT: Array<Kept, ENTRIES> = Array::new();

/// The bytes of small kept segments, with room for a look beyond the last.
#[btf_map]
pub(crate) static SMALL_BLOCKS: Array<Block<{ kept::SMALL_BYTES }>, { kept::SMALL_BLOCKS }> =
    Array::new();

/// The bytes of large ones.
#[btf_map]
pub(crate) static LARGE_BLOCKS: Array<Block<{ kept::LARGE_BYTES }>, { kept::LARGE_BLOCKS }> =
    Array::new();

/// A block of bytes.
#[repr(C, align(8))]
pub(crate) struct Block<const N: usize> {
    pub(crate) bytes: [u8; N],
    pub(crate) beyond: [u64; 2],
}

/// Free entries of [`KEPT`], their indexes plus one; filled by the daemon, as the next two.
#[btf_map]
pub(crate) static KEPT_FREE: Queue<u32, ENTRIES> = Queue::new();

/// Lists of entries whose connections are over, each by the index of its first plus one.
#[btf_map]
pub(crate) static GRAVES: Queue<u32, ENTRIES> = Queue::new();

/// Free small blocks.
#[btf_map]
pub(crate) static SMALL_FREE: Queue<u32, { kept::SMALL_BLOCKS }> = Queue::new();

/// Free large blocks.
#[btf_map]
pub(crate) static LARGE_FREE: Queue<u32, { kept::LARGE_BLOCKS }> = Queue::new();

/// One word: entries of [`KEPT`] in use.
#[btf_map]
pub(crate) static PENDING: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
