//! Where a parser's bytes come from: a packet, a segment that was kept, and in tests a slice.

use crate::{
    CHUNK,
    automaton::{Automaton, Run},
};

/// Bytes of one stream, in order, with a position in them.
pub trait Source {
    /// Bytes from the position to the end.
    fn left(&self) -> u32;

    /// Moves the position `bytes` further on; there are at least as many left.
    fn advance(&mut self, bytes: u32);

    /// The next `wanted` bytes, 1 to 16, at the position, which stays: each word little-endian, zeroes behind the last byte.
    /// `None` if they cannot be read.
    fn peek(&self, wanted: u32) -> Option<[u64; 2]>;

    /// As [`Source::peek`], and a number that is 0 if they could be read: two reasons to end a loop are one way for the verifier if
    /// they are one number.
    fn look(&self, wanted: u32) -> ([u64; 2], u64) {
        self.peek(wanted).map_or(([0; 2], 1), |words| (words, 0))
    }

    /// The same number, of which the kernel's verifier knows nothing any more: what a loop has summed up has another range behind each
    /// turn, and the verifier would follow the code behind the loop once for each.
    fn forget(&self, number: u64) -> u64 {
        number
    }

    /// Runs an automaton over the next bytes, at most `limit` and at most a chunk; the position stays. `recent` is that of the
    /// stream's run before. `None` if there are no bytes, or they cannot be read.
    fn run(&self, automaton: &'static Automaton, state: u8, recent: u64, limit: u32)
    -> Option<Run>;
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

    fn run(
        &self,
        automaton: &'static Automaton,
        state: u8,
        recent: u64,
        limit: u32,
    ) -> Option<Run> {
        let mut chunk = [0; CHUNK];
        let length = self.0.len().min(CHUNK).min(limit as usize);
        chunk[..length].copy_from_slice(&self.0[..length]);
        let run = (length != 0).then(|| automaton.run(state, &chunk, length))?;
        let recent =
            self.0[..run.at as usize].iter().fold(recent, |all, &byte| all << 8 | u64::from(byte));
        Some(Run { recent, ..run })
    }
}
