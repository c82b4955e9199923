//! Follows WebSocket frames (RFC 6455 section 5.2) across segments and counts what they say.
//!
//! The kernel program loads at most [`HEADER`] bytes at the next frame boundary and hands them to [`header`]; payload is
//! skipped by arithmetic, never read. A header may be cut anywhere by the segment's end.
//!
//! A stream with `Stream::pos` other than 0 is within a header of which that many bytes are kept; else it is within a
//! payload of which `Stream::left` bytes are to come, or at a frame boundary when those are 0. One segment may hold
//! hundreds of frames, so the code for one frame chooses by arithmetic, not by branches: each branch would double the
//! paths that the verifier has to follow through every turn of the loop.

pub mod counters;

use crate::flow::Stream;

/// Longest frame header: 2 bytes, 8 of extended length, 4 of masking key.
pub const HEADER: usize = 14;

/// What a complete header said, as bits.
pub mod bit {
    /// The header is complete.
    pub const COMPLETE: u8 = 1;
    /// The frame ends a text or binary message: one more message.
    pub const MESSAGE: u8 = 1 << MESSAGE_SHIFT;
    /// Position of [`MESSAGE`].
    pub const MESSAGE_SHIFT: u8 = 1;
    /// Position of [`INVALID`].
    pub const INVALID_SHIFT: u8 = 2;
    /// The frame breaks RFC 6455: a reserved opcode, a fragmented or oversized control frame, a length with its top bit set.
    pub const INVALID: u8 = 1 << INVALID_SHIFT;
    /// A close frame.
    pub const CLOSE: u8 = 8;
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Puts a stream at a frame boundary.
#[inline(always)]
pub fn start(stream: &mut Stream) {
    stream.pos = 0;
    stream.left = 0;
    stream.aux = [0; 8];
}

/// A complete frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header itself.
    pub length: u32,
    /// Bytes of payload that follow.
    pub payload: u64,
    /// [`bit`]s.
    pub bits: u8,
}

impl Header {
    /// Reads a header that starts with `bytes`, of which `available` are there; `None` if it is not complete.
    ///
    /// `bytes` are in order, each word little-endian: words and shifts instead of an array, since the verifier follows
    /// every iteration of a loop over bytes.
    #[inline(always)]
    #[must_use]
    pub fn read([low, high]: [u64; 2], available: u32) -> Option<Self> {
        let (first, second) = (low as u8, (low >> 8) as u8);
        let form = FORMS[second as usize];
        let length = u32::from(form.length);
        if available < 2 || available < length {
            return None;
        }
        // An extended length is the first two or all of the eight bytes behind the second.
        let extended = ((low >> 16) | (high << 48)).swap_bytes() >> (form.shift & 63);
        let payload = (extended & i64::from(form.extended).cast_unsigned()) | u64::from(form.short);
        // RFC 6455 wants the top bit to be 0; without it the length is still longer than any connection.
        Some(Self { length, payload: payload & (u64::MAX >> 1), bits: judge(first, form, payload) })
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
pub const fn skip(stream: &mut Stream, bytes: u32) -> u32 {
    let skipped = min(stream.left, bytes as u64);
    stream.left -= skipped;
    skipped as u32
}

/// Reads `available` header bytes from `new`, behind those that an earlier segment ended with; returns how many were
/// consumed and the [`bit`]s met.
///
/// `new` is as in [`Header::read`], zeroes behind the last byte. Consumes everything up to the end of the header and not
/// one byte of the payload. `available` is at most [`HEADER`].
#[inline(always)]
pub fn header(stream: &mut Stream, new: [u64; 2], available: u32) -> (u32, u8) {
    let pos = u32::from(stream.pos);
    let bytes = if pos == 0 { new } else { join(stream, pos, new) };
    let total = pos + available;
    let Some(header) = Header::read(bytes, total) else {
        // Kept where the payload's length and the scratch will be once the header is complete.
        stream.aux = bytes[0].to_le_bytes();
        stream.left = bytes[1];
        stream.pos = total as u8;
        return (available, 0);
    };
    stream.pos = 0;
    stream.left = header.payload;
    (header.length - pos, header.bits)
}

/// The kept start of a header, `pos` bytes of it, and its continuation.
#[inline(always)]
fn join(stream: &Stream, pos: u32, new: [u64; 2]) -> [u64; 2] {
    let low = u64::from_le_bytes(stream.aux);
    let shift = 8 * (pos & 7);
    if pos >= 8 {
        [low, stream.left | (new[0] << shift)]
    } else {
        [low | (new[0] << shift), (new[1] << shift) | (new[0] >> (64 - shift))]
    }
}

/// What a header's second byte says; a table, so that the verifier has one path to follow.
#[derive(Clone, Copy)]
struct Form {
    /// Length of the whole header.
    length: u8,
    /// Payload length if the byte itself tells it, else 0.
    short: u8,
    /// How far to shift the eight bytes behind the second for an extended length.
    shift: u8,
    /// All ones if the length is extended.
    extended: i8,
}

static FORMS: [Form; 256] = {
    let mut table = [Form { length: 2, short: 0, shift: 0, extended: 0 }; 256];
    let mut second = 0;
    while second < 256 {
        let form = &mut table[second];
        match (second & 0x7f) as u8 {
            126 => *form = Form { length: 4, short: 0, shift: 48, extended: -1 },
            127 => *form = Form { length: 10, short: 0, shift: 0, extended: -1 },
            short => form.short = short,
        }
        if second & MASKED as usize != 0 {
            form.length += 4;
        }
        second += 1;
    }
    table
};

/// The [`bit`]s of a header, by its first byte; a table, so that the verifier has one path to follow.
static JUDGEMENT: [u8; 256] = {
    let mut table = [bit::COMPLETE; 256];
    let mut first = 0;
    while first < 256 {
        let (opcode, fin) = (first & 0x0f, first & FIN as usize != 0);
        if opcode <= 2 && fin {
            table[first] |= bit::MESSAGE;
        }
        if opcode == 8 {
            table[first] |= bit::CLOSE;
        }
        if opcode >= 8 {
            table[first] |= CONTROL;
        }
        if opcode > 10 || (opcode > 2 && opcode < 8) || (opcode >= 8 && !fin) {
            table[first] |= bit::INVALID;
        }
        first += 1;
    }
    table
};

/// A control frame, whose payload is at most 125 bytes; only within [`JUDGEMENT`].
const CONTROL: u8 = 1 << 7;

#[inline(always)]
fn judge(first: u8, form: Form, left: u64) -> u8 {
    let known = JUDGEMENT[first as usize];
    let oversized = (known / CONTROL) & form.extended.cast_unsigned() & 1;
    // 1 for a length with its top bit set.
    let negative = (left >> 63) as u8;
    (known & !CONTROL) | ((oversized | negative) << bit::INVALID_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs whole frames through the follower, cut into pieces; returns (messages, invalid, closes).
    fn follow(bytes: &[u8], cuts: &[usize]) -> (u32, u32, u32) {
        let mut stream = Stream::default();
        start(&mut stream);
        let mut totals = (0, 0, 0);
        let mut at = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        for end in ends {
            while at < end {
                if stream.pos == 0 && stream.left != 0 {
                    at += skip(&mut stream, (end - at) as u32) as usize;
                    continue;
                }
                let mut buf = [0; 16];
                let available = (end - at).min(HEADER);
                buf[..available].copy_from_slice(&bytes[at..at + available]);
                let words = [0, 8].map(|i| u64::from_le_bytes(buf[i..i + 8].try_into().unwrap()));
                let (used, bits) = header(&mut stream, words, available as u32);
                assert!(used > 0 && used as usize <= available);
                at += used as usize;
                totals.0 += u32::from(bits & bit::MESSAGE != 0);
                totals.1 += u32::from(bits & bit::INVALID != 0);
                totals.2 += u32::from(bits & bit::CLOSE != 0);
            }
        }
        totals
    }

    fn frame(fin: bool, opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mut f = vec![(if fin { FIN } else { 0 }) | opcode];
        let mask = if masked { MASKED } else { 0 };
        match payload {
            0..=125 => f.push(mask | payload as u8),
            126..=0xffff => {
                f.push(mask + 126);
                f.extend((payload as u16).to_be_bytes());
            }
            _ => {
                f.push(mask + 127);
                f.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            f.extend([1, 2, 3, 4]);
        }
        f.extend(std::iter::repeat_n(0x81, payload));
        f
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_counts(
            frames in prop::collection::vec((any::<bool>(), 0_u8..16, any::<bool>(), prop_oneof![0_usize..130, 65_530_usize..65_540]), 0..12),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            let mut want = (0, 0, 0);
            for (fin, opcode, masked, payload) in frames {
                bytes.extend(frame(fin, opcode, masked, payload));
                want.0 += u32::from(fin && opcode <= 2);
                want.2 += u32::from(opcode == 8);
                want.1 += u32::from(
                    matches!(opcode, 3..=7 | 11..=15) || (opcode >= 8 && (!fin || payload > 125)),
                );
            }
            prop_assert_eq!(follow(&bytes, &cuts), want);
        }

        #[test]
        fn hostile_bytes_never_stall(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            let _ = follow(&bytes, &cuts);
        }
    }
}
