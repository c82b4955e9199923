//! Where a parser's bytes come from: a packet, a segment that was kept, and in tests a slice.

use crate::CHUNK;

/// Bytes of one stream, in order, with a position in them.
pub trait Source {
    /// Bytes from the position to the end.
    fn left(&self) -> u32;

    /// Moves the position `bytes` further on; there are at least as many left.
    fn advance(&mut self, bytes: u32);

    /// The next `wanted` bytes, 1 to 16, at the position, which stays: each word little-endian, zeroes behind the last byte.
    /// `None` if they cannot be read.
    fn peek(&self, wanted: u32) -> Option<[u64; 2]>;
}

/// A slice of memory.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Source for Slice<'_> {
    fn left(&self) -> u32 {
        self.0.len() as u32
    }

    fn advance(&mut self, bytes: u32) {
        self.0 = &self.0[bytes as usize..];
    }

    fn peek(&self, wanted: u32) -> Option<[u64; 2]> {
        let mut bytes = [0; 16];
        let wanted = wanted as usize;
        bytes[..wanted].copy_from_slice(self.0.get(..wanted)?);
        let [low, high] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        });
        Some([low, high])
    }
}

impl Slice<'_> {
    /// The next bytes, at most a chunk, and how many they are.
    #[must_use]
    pub fn chunk(&self) -> ([u8; CHUNK], usize) {
        let mut chunk = [0; CHUNK];
        let length = self.0.len().min(CHUNK);
        chunk[..length].copy_from_slice(&self.0[..length]);
        (chunk, length)
    }
}
