//! Protocols whose bytes are frames, each with a header that tells how long it is: one loop follows them all.
//!
//! A stream with [`Parser::pos`] other than 0 is within a header of which that many bytes are kept; else it is within a payload
//! of which [`Parser::left`] bytes are to come, or at a frame boundary when those are 0. Payload is skipped by arithmetic, never
//! read. One segment may hold thousands of frames, so the code for one frame chooses by arithmetic, not by branches: each
//! branch would double the paths that the verifier has to follow through every turn of the loop.

use crate::{recorder::Recorder, source::Source, stream::Parser};

/// A complete frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<E> {
    /// Bytes of the header itself.
    pub length: u32,
    /// Bytes of payload that follow.
    pub payload: u64,
    /// What it says.
    pub event: E,
}

/// How the frames of a protocol are made.
pub trait Framing {
    /// Longest header, at most 16 bytes.
    const HEADER: u32;
    /// What a header says.
    type Event: Copy;
    /// What a stretch of frames adds up to.
    type Tally: Default;

    /// Reads a header that starts with `bytes`, of which `available` are there; `None` if it is not complete.
    ///
    /// `bytes` are in order, each word little-endian: words and shifts instead of an array, since the verifier follows every
    /// iteration of a loop over bytes.
    fn read(bytes: [u64; 2], available: u32) -> Option<Header<Self::Event>>;

    /// Adds a frame to a stretch.
    fn add(tally: &mut Self::Tally, event: Self::Event);

    /// Counts a stretch of frames that went in a [`crate::label::Direction`].
    fn record(tally: Self::Tally, direction: usize, recorder: &mut impl Recorder);
}

/// Follows at most `frames` frames, and the one that the end of the source cuts; true when the source is consumed.
#[inline(always)]
pub fn follow<F: Framing>(
    source: &mut impl Source,
    parser: &mut Parser,
    tally: &mut F::Tally,
    frames: usize,
) -> bool {
    for _ in 0..frames {
        if parser.pos != 0 {
            break;
        }
        source.advance(skip(parser, source.left()));
        // What may be cut is left for below: here a header is always complete, which spares branches.
        if source.left() < F::HEADER {
            break;
        }
        let Some(words) = source.peek(F::HEADER) else { break };
        let Some(header) = F::read(words, F::HEADER) else { break };
        parser.left = header.payload;
        F::add(tally, header.event);
        source.advance(header.length);
    }
    // A header that the source's start or end cuts, or may.
    if parser.pos != 0 || parser.left == 0 {
        cut::<F>(source, parser, tally);
    }
    if parser.pos == 0 {
        source.advance(skip(parser, source.left()));
    }
    source.left() == 0
}

/// Reads a header of which an earlier source had the start, or of which this one may have no more.
#[inline(always)]
pub(crate) fn cut<F: Framing>(source: &mut impl Source, parser: &mut Parser, tally: &mut F::Tally) {
    let left = source.left();
    if left == 0 {
        return;
    }
    let available = min(u64::from(left), u64::from(F::HEADER)) as u32;
    let Some(new) = source.peek(available) else {
        // Nothing more can be read here.
        source.advance(left);
        return;
    };
    let pos = u32::from(parser.pos);
    let bytes = if pos == 0 { new } else { join(parser, pos, new) };
    let total = pos + available;
    let Some(header) = F::read(bytes, total) else {
        parser.header = bytes;
        parser.pos = total as u8;
        source.advance(available);
        return;
    };
    parser.pos = 0;
    parser.left = header.payload;
    F::add(tally, header.event);
    source.advance(header.length - pos);
}

/// The kept start of a header, `pos` bytes of it, and its continuation.
#[inline(always)]
fn join(parser: &Parser, pos: u32, new: [u64; 2]) -> [u64; 2] {
    let [low, high] = parser.header;
    let shift = 8 * (pos & 7);
    if pos >= 8 {
        [low, high | (new[0] << shift)]
    } else {
        [low | (new[0] << shift), (new[1] << shift) | (new[0] >> (64 - shift))]
    }
}

/// The smaller of two numbers below 2^63.
#[inline(always)]
#[must_use]
pub const fn min(a: u64, b: u64) -> u64 {
    let smaller = 0_u64.wrapping_sub(a.wrapping_sub(b) >> 63);
    b ^ ((a ^ b) & smaller)
}

/// Skips up to `bytes` of the current payload; returns how many. The stream is not within a header.
#[inline(always)]
pub const fn skip(parser: &mut Parser, bytes: u32) -> u32 {
    let skipped = min(parser.left, bytes as u64);
    parser.left -= skipped;
    skipped as u32
}
