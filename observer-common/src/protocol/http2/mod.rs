//! Follows HTTP/2 frames (RFC 9113 section 4.1) on a client's stream up to the first request, and tells whether that
//! request is gRPC: whether its header block carries `content-type: application/grpc`, then the end, `+` or `;`
//! (the gRPC-over-HTTP/2 protocol; `application/grpc-web` is another one).
//!
//! The header block is HPACK (RFC 7541). The first block of a connection cannot take the value from the dynamic table:
//! it is spelled out, plain or Huffman-coded, behind a name that is an index or spelled out itself. So nothing is
//! decoded: an automaton looks for name, length and value in the block's bytes, whatever stands around them, and keeps
//! its place across segments and CONTINUATION frames.

mod guess;

pub use guess::Http2Guess;

use crate::{
    CHUNK,
    stream::{Parser, mode},
};

/// The answer of [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first request is not complete yet.
    Open,
    /// The first request is gRPC.
    Grpc,
    /// The first request is something else.
    Other,
}

// Parser::state
const HEADER: u8 = 0;
const SKIP: u8 = 1;
const BLOCK: u8 = 2;

// Parser::scratch
const TYPE: usize = 0;
const FLAGS: usize = 1;
const SEARCH: usize = 2;

const FRAME_HEADER: u8 = 9;
const FRAME_HEADERS: u8 = 1;
const FRAME_CONTINUATION: u8 = 9;
const FLAG_END_HEADERS: u8 = 0x04;

// States of the search.
const START: u8 = 0;
/// The first byte of a literal whose name is an index above a prefix of four bits.
const FOUR_BIT_PREFIX: u8 = 1;
/// The name was content-type: the value's length comes next.
const LENGTH: u8 = 2;
/// "content-type" spelled out: state `NAME + i` has matched `i + 1` bytes.
const NAME: u8 = 3;
/// The same in Huffman code.
const NAME_HUFFMAN: u8 = 14;
/// A plain value of exactly 16 bytes: state `EXACT + i` expects byte `i`.
const EXACT: u8 = 22;
/// A longer plain value, and the state that expects what follows.
const LONGER: u8 = 38;
/// A Huffman-coded value of exactly 11 bytes.
const EXACT_HUFFMAN: u8 = 55;
/// A longer one, and the state that expects what follows.
const LONGER_HUFFMAN: u8 = 66;
const GRPC: u8 = 78;
const STATES: usize = 128;

/// Both in the codes of RFC 7541 appendix B.
const CONTENT_TYPE_HUFFMAN: [u8; 9] = [0x21, 0xea, 0x49, 0x6a, 0x4a, 0xc9, 0xf5, 0x59, 0x7f];
const GRPC_HUFFMAN: [u8; 11] = [0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64];

/// `content-type` is entry 31 of HPACK's static table: with a prefix of six bits that is one byte, with a prefix of four
/// bits (not indexed, never indexed) 15 and 16.
const INDEXED_NAME: u8 = 0x40 | 31;
const NAME_REST: u8 = 31 - 15;

type Table = [[u8; 256]; STATES];

static TABLE: Table = table();

/// A row that restarts the search on every byte.
const fn restart() -> [u8; 256] {
    let mut row = [START; 256];
    row[INDEXED_NAME as usize] = LENGTH;
    row[0x0f] = FOUR_BIT_PREFIX;
    row[0x1f] = FOUR_BIT_PREFIX;
    row[b'c' as usize] = NAME;
    row[CONTENT_TYPE_HUFFMAN[0] as usize] = NAME_HUFFMAN;
    row
}

const fn chain(mut t: Table, first: u8, text: &[u8], done: u8) -> Table {
    let mut i = 0;
    while i < text.len() {
        t[first as usize + i][text[i] as usize] =
            if i + 1 == text.len() { done } else { first + i as u8 + 1 };
        i += 1;
    }
    t
}

#[expect(clippy::large_stack_arrays, reason = "evaluated at compile time")]
const fn table() -> Table {
    let mut t: Table = [restart(); STATES];
    t[FOUR_BIT_PREFIX as usize][NAME_REST as usize] = LENGTH;
    t = chain(t, NAME, b"ontent-type", LENGTH);
    let [_, rest @ ..] = CONTENT_TYPE_HUFFMAN;
    t = chain(t, NAME_HUFFMAN, &rest, LENGTH);

    // Lengths up to 63 bytes hold every subtype and parameter in use; none of them starts another match.
    let mut length = 16;
    while length < 64 {
        if length != 0x1f {
            t[LENGTH as usize][length] = if length == 16 { EXACT } else { LONGER };
        }
        if length <= 48 {
            t[LENGTH as usize][0x80 + length - 5] =
                if length == 16 { EXACT_HUFFMAN } else { LONGER_HUFFMAN };
        }
        length += 1;
    }
    t = chain(t, EXACT, b"application/grpc", GRPC);
    t = chain(t, LONGER, b"application/grpc", LONGER + 16);
    t[LONGER as usize + 16][b'+' as usize] = GRPC;
    t[LONGER as usize + 16][b';' as usize] = GRPC;
    t[LONGER as usize + 16][b' ' as usize] = GRPC;
    t = chain(t, EXACT_HUFFMAN, &GRPC_HUFFMAN, GRPC);
    t = chain(t, LONGER_HUFFMAN, &GRPC_HUFFMAN, LONGER_HUFFMAN + 11);
    // The value's code ends with a whole byte. `+` and `;` start with five ones, `-` does not.
    let mut b = 0xf8;
    while b <= 0xff {
        t[LONGER_HUFFMAN as usize + 11][b] = GRPC;
        b += 1;
    }
    t
}

/// Begins right behind the connection preface.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.mode = mode::HTTP2;
    parser.state = HEADER;
    parser.pos = 0;
    parser.left = 0;
    parser.scratch = [0; 3];
}

/// Begins in mid-stream, `left` bytes before a frame boundary.
#[inline(always)]
pub const fn take_up(parser: &mut Parser, left: u64) {
    start(parser);
    parser.left = left;
    parser.state = if left == 0 { HEADER } else { SKIP };
}

/// Follows `buf[from..len]`; returns the index of the first byte not consumed and the verdict.
///
/// One call reads one frame header, or skips, or searches one stretch of a header block: less than `len` without a
/// verdict means call again.
#[inline(always)]
pub fn run(parser: &mut Parser, buf: &[u8; CHUNK], from: usize, len: usize) -> (usize, Verdict) {
    if parser.state == HEADER {
        return (frame_header(parser, buf, from, len), end_of_block(parser));
    }
    let rest = (len - from) as u64;
    let take = if parser.left < rest { parser.left } else { rest };
    parser.left -= take;
    let end = from + take as usize;
    if parser.state == BLOCK {
        let state = search(parser.scratch[SEARCH], buf, from, end);
        parser.scratch[SEARCH] = state;
        if state == GRPC {
            return (end, Verdict::Grpc);
        }
    }
    let verdict = end_of_block(parser);
    if parser.left == 0 {
        parser.state = HEADER;
    }
    (end, verdict)
}

/// The block is complete, and nothing was found in it.
#[inline(always)]
fn end_of_block(parser: &Parser) -> Verdict {
    if parser.state == BLOCK && parser.left == 0 && parser.scratch[FLAGS] & FLAG_END_HEADERS != 0 {
        Verdict::Other
    } else {
        Verdict::Open
    }
}

#[inline(always)]
fn search(state: u8, buf: &[u8; CHUNK], from: usize, end: usize) -> u8 {
    let mut state = state;
    for offset in 0..CHUNK {
        let at = from + offset;
        if at >= end || state == GRPC {
            break;
        }
        // The masks change nothing, and show the verifier that the indexes are inside.
        state = TABLE[state as usize & (STATES - 1)][buf[at & (CHUNK - 1)] as usize];
    }
    state
}

#[inline(always)]
fn frame_header(parser: &mut Parser, buf: &[u8; CHUNK], from: usize, len: usize) -> usize {
    let mut at = from;
    let mut pos = parser.pos;
    for _ in 0..FRAME_HEADER {
        if at >= len || pos >= FRAME_HEADER {
            break;
        }
        let byte = buf[at & (CHUNK - 1)];
        at += 1;
        if pos < 3 {
            parser.left =
                if pos == 0 { u64::from(byte) } else { (parser.left << 8) | u64::from(byte) };
        } else if pos == 3 {
            parser.scratch[TYPE] = byte;
        } else if pos == 4 {
            parser.scratch[FLAGS] = byte;
        }
        pos += 1;
    }
    parser.pos = pos;
    if pos >= FRAME_HEADER {
        parser.pos = 0;
        let kind = parser.scratch[TYPE];
        if kind == FRAME_HEADERS || kind == FRAME_CONTINUATION {
            parser.state = BLOCK;
        } else if parser.left != 0 {
            parser.state = SKIP;
        }
    }
    at
}

/// What the stored states mean.
pub(crate) const fn meaning(mut hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let mut row = 0;
    while row < STATES {
        hash = hash.bytes(&TABLE[row]);
        row += 1;
    }
    hash
}
