//! Segments that are kept until their turn: those that came ahead of their predecessor, that met another program at work on
//! their stream, or whose meaning is not known yet.
//!
//! A kept segment is an entry in a list of its stream, and its bytes, if anybody may have to read them, lie in a block of one
//! of two sizes. All of it is allocated once and bounded: when there is no room, the stream loses track, which is counted.

use core::mem::offset_of;

use crate::meaning::Meaning;

/// One kept segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Kept {
    /// Sequence number of its first byte.
    pub seq: u32,
    /// Bytes.
    pub len: u32,
    /// The next in the list: its index plus one, 0 behind the last.
    pub next: u32,
    /// Where its bytes are: 0 for nowhere, since nobody need read them; else the index of the block plus one, with [`LARGE`].
    pub block: u32,
    /// Place of the first byte in the block.
    pub from: u32,
    /// [`COUNTED`] or 0.
    pub flags: u32,
    /// Cookie of the socket.
    pub cookie: u64,
}

const _: () = assert!(size_of::<Kept>() == 32);

/// In [`Kept::block`]: a large block.
pub const LARGE: u32 = 1 << 31;
/// In [`Kept::flags`]: the bytes are in sequence and counted, they only have not been read.
pub const COUNTED: u32 = 1;

/// In the list of lists that were let go: this one was handed over, its length is not known, and its entries are still
/// counted as in use.
pub const UNCOUNTED: u32 = 1 << 31;

/// The segment with payload that has just completed a handshake: it has passed the listener's hook, and the child that it
/// makes is established later in the same softirq, on the same processor, and takes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Note {
    /// Port and last four bytes of the address of the peer.
    pub peer: u64,
    /// The kept segment, its index plus one; 0 without any.
    pub kept: u32,
    /// Whether both ends of what the last handshake on this processor opens are in one pod.
    pub internal: u32,
}

/// Kept segments in all: 128 KiB.
pub const ENTRIES: usize = 4_096;
/// The largest segment that goes into a small block: one of a common MTU.
pub const SMALL: usize = 2_048;
/// Bytes of a small block: segments that follow one another share it, as long as it is less than half full.
pub const SMALL_BYTES: usize = 2 * SMALL;
/// Small blocks: 4 MiB.
pub const SMALL_BLOCKS: usize = 1_024;
/// Bytes of a large block: larger segments are kept in parts.
pub const LARGE_BYTES: usize = 16_384;
/// Large blocks: 3.75 MiB.
pub const LARGE_BLOCKS: usize = 240;
/// Kept segments of one stream; more lose track.
pub const PER_STREAM: usize = 256;

/// What the words of kept segments mean, and how many there are.
pub(crate) const fn meaning(hash: Meaning) -> Meaning {
    let layout = [
        size_of::<Kept>() as u64,
        offset_of!(Kept, next) as u64,
        offset_of!(Kept, block) as u64,
        offset_of!(Kept, from) as u64,
        offset_of!(Kept, flags) as u64,
        size_of::<Note>() as u64,
        offset_of!(Note, kept) as u64,
    ];
    let geometry = [ENTRIES, SMALL, SMALL_BYTES, SMALL_BLOCKS, LARGE_BYTES, LARGE_BLOCKS];
    let mut hash = hash.numbers(&layout).words(&[LARGE, COUNTED, UNCOUNTED]);
    let mut i = 0;
    while i < geometry.len() {
        hash = hash.number(geometry[i] as u64);
        i += 1;
    }
    hash
}
