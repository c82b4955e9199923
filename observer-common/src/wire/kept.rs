//! Segments that are kept until their turn: those that came ahead of their predecessor, that met another program at work on
//! their stream, or whose meaning is not known yet.
//!
//! A kept segment is an entry in a list of its stream, and its bytes, if anybody may have to read them, lie in a block of one
//! of two sizes. All of it is allocated once and bounded: when there is no room, the stream loses track, which is counted.

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

/// Kept segments in all: 128 KiB.
pub const ENTRIES: usize = 4_096;
/// The largest segment that goes into a small block: one of a common MTU.
pub const SMALL: usize = 2_048;
/// Bytes of a small block: segments that follow one another share it, as long as it is less than half full.
pub const SMALL_BYTES: usize = 2 * SMALL;
/// Small blocks: 4 MiB.
pub const SMALL_BLOCKS: usize = 1_024;
/// Bytes of a large block: the largest segment but those of BIG TCP.
pub const LARGE_BYTES: usize = 65_536;
/// Large blocks: 3 MiB.
pub const LARGE_BLOCKS: usize = 48;
/// Kept segments of one stream; more lose track.
pub const PER_STREAM: usize = 256;
