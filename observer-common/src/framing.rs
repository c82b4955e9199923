//! Protocols whose bytes are frames, each with a header that tells how long it is: one loop follows them all.
//!
//! A header may say what is too rare to be judged for every frame ([`Framing::is_rare`]): the loop ends there, and the code behind
//! it, which the verifier follows once, reads that one.
//!
//! A frame may hold more that has to be read: the state behind its header says so ([`STOPS`]), and what is read then is one more
//! header, within the payload. Or somebody else has to read the payload ([`LEAVES`]).
//!
//! A stream with [`Parser::pos`] other than 0 is within a header of which that many bytes are kept; else it is within a payload
//! of which [`Parser::left`] bytes are to come, or at a frame boundary when those are 0. Payload is skipped by arithmetic, never
//! read. One segment may hold thousands of frames, so the code for one frame chooses by arithmetic, not by branches: each
//! branch would double the paths that the verifier has to follow through every turn of the loop.

use crate::{
    recorder::Recorder,
    source::Source,
    stream::{Parser, STOPS},
};

/// In [`Parser::state`]: the payload is not this loop's matter.
pub const LEAVES: u8 = 0x40;

/// A complete frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<E> {
    /// Bytes of the header itself.
    pub length: u32,
    /// Bytes of payload that follow.
    pub payload: u64,
    /// [`Parser::state`] behind it.
    pub state: u8,
    /// What it says.
    pub event: E,
}

/// How far one run goes through frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Frames at most.
    pub frames: usize,
    /// Whether headers that are [rare](Framing::is_rare) are read, too.
    pub rare: bool,
}

/// How the frames of a protocol are made.
pub trait Framing {
    /// Longest header, at most 16 bytes.
    const HEADER: u32;
    /// Whether headers depend on [`Parser::state`]; without, it stays 0.
    const STATES: bool = false;
    /// What a header says.
    type Event: Copy;
    /// What a stretch of frames adds up to.
    type Tally: Default;

    /// Other than 0 if a header, of which the first two bytes are there, is left to the code behind the loop.
    #[inline(always)]
    fn is_rare(_start: u64) -> u64 {
        0
    }

    /// Reads a header that starts with `bytes`, of which `available` are there; `None` if it is not complete.
    ///
    /// `bytes` are in order, each word little-endian: words and shifts instead of an array, since the verifier follows every
    /// iteration of a loop over bytes.
    fn read(parser: &Parser, bytes: [u64; 2], available: u32) -> Option<Header<Self::Event>>;

    /// Has the verifier forget what it knows of a stretch: [`Source::forget`].
    #[inline(always)]
    fn forget(_tally: &mut Self::Tally, _source: &impl Source) {}

    /// Takes note of a header: adds it to a stretch, or counts what is too rare for that.
    fn take(
        tally: &mut Self::Tally,
        parser: &mut Parser,
        event: Self::Event,
        recorder: &mut impl Recorder,
    );
}

/// Follows frames as far as `stretch` says, and the one that the end of the source cuts; true when the source is consumed.
#[inline(always)]
pub fn follow<F: Framing>(
    source: &mut impl Source,
    parser: &mut Parser,
    tally: &mut F::Tally,
    stretch: Stretch,
    recorder: &mut impl Recorder,
) -> bool {
    // A header that was begun is finished below, and none is begun in the loop.
    let frames = if parser.pos == 0 { stretch.frames } else { 0 };
    for _ in 0..frames {
        if leaves::<F>(parser) {
            break;
        }
        source.advance(pass::<F>(parser, source.left()));
        // What may be cut is left for below: here a header is always complete, which spares branches.
        if source.left() < F::HEADER {
            break;
        }
        let (words, failed) = source.look(F::HEADER);
        if failed | F::is_rare(words[0]) != 0 {
            break;
        }
        let Some(header) = F::read(parser, words, F::HEADER) else { break };
        let (length, event) = (header.length, header.event);
        enter::<F>(parser, &header);
        F::take(tally, parser, event, recorder);
        source.advance(length);
    }
    F::forget(tally, source);
    if leaves::<F>(parser) {
        return source.left() == 0;
    }
    // A header that the source's start or end cuts, or may, and one that is rare.
    if parser.pos != 0 || parser.left == 0 || stops::<F>(parser) {
        cut::<F>(source, parser, tally, stretch.rare, recorder);
    }
    if parser.pos == 0 {
        source.advance(pass::<F>(parser, source.left()));
    }
    source.left() == 0
}

#[inline(always)]
const fn leaves<F: Framing>(parser: &Parser) -> bool {
    F::STATES && parser.state & LEAVES != 0
}

#[inline(always)]
const fn stops<F: Framing>(parser: &Parser) -> bool {
    F::STATES && parser.state & (STOPS | LEAVES) != 0
}

#[inline(always)]
fn enter<F: Framing>(parser: &mut Parser, header: &Header<F::Event>) {
    parser.left = header.payload;
    if F::STATES {
        parser.state = header.state;
    }
}

/// Skips up to `bytes` of a payload that nobody reads; returns how many.
#[inline(always)]
const fn pass<F: Framing>(parser: &mut Parser, bytes: u32) -> u32 {
    // All ones if the payload is to be skipped.
    let skips = if F::STATES { (parser.state as u32 >> 7).wrapping_sub(1) } else { u32::MAX };
    skip(parser, bytes & skips)
}

/// Reads a header of which an earlier source had the start, or of which this one may have no more; a rare one only if `rare`.
#[inline(always)]
pub(crate) fn cut<F: Framing>(
    source: &mut impl Source,
    parser: &mut Parser,
    tally: &mut F::Tally,
    rare: bool,
    recorder: &mut impl Recorder,
) {
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
    if !rare && F::is_rare(bytes[0]) != 0 {
        return;
    }
    let Some(header) = F::read(parser, bytes, total) else {
        parser.header = bytes;
        parser.pos = total as u8;
        source.advance(available);
        return;
    };
    parser.pos = 0;
    let (length, event) = (header.length, header.event);
    enter::<F>(parser, &header);
    F::take(tally, parser, event, recorder);
    source.advance(length - pos);
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
