//! Whether a request is gRPC: whether its header block carries `content-type: application/grpc`, then the end, `+` or `;` (the
//! gRPC-over-HTTP/2 protocol; `application/grpc-web` is another one).
//!
//! The header block is HPACK (RFC 7541). The first block with that value cannot take it from the dynamic table: it is spelled
//! out, plain or Huffman-coded, behind a name that is an index or spelled out itself. So nothing is decoded: an automaton looks
//! for name, length and value in the block's bytes, whatever stands around them, and keeps its place across segments and
//! CONTINUATION frames.

use crate::automaton::{Automaton, EVENT, EVENTS, STATES, Table, chain};

// States of the search.
pub(super) const START: u8 = 0;
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
/// Behind the value: only reported, see [`AUTOMATON`].
const GRPC: u8 = EVENT;

/// Both in the codes of RFC 7541 appendix B.
const CONTENT_TYPE_HUFFMAN: [u8; 9] = [0x21, 0xea, 0x49, 0x6a, 0x4a, 0xc9, 0xf5, 0x59, 0x7f];
const GRPC_HUFFMAN: [u8; 11] = [0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64];

/// `content-type` is entry 31 of HPACK's static table: with a prefix of six bits that is one byte, with a prefix of four
/// bits (not indexed, never indexed) 15 and 16.
const INDEXED_NAME: u8 = 0x40 | 31;
const NAME_REST: u8 = 31 - 15;

/// The search: it reports a single bit, which ends it.
pub(super) static AUTOMATON: Automaton =
    Automaton { table: table(), after: [(1, START); EVENTS], stop: 1 };

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

#[expect(clippy::large_stack_arrays, reason = "evaluated at compile time")]
const fn table() -> Table {
    let mut t: Table = [restart(); STATES];
    t[FOUR_BIT_PREFIX as usize][NAME_REST as usize] = LENGTH;
    t = chain(t, NAME, b"ontent-type", LENGTH, false);
    let [_, rest @ ..] = CONTENT_TYPE_HUFFMAN;
    t = chain(t, NAME_HUFFMAN, &rest, LENGTH, false);

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
    t = chain(t, EXACT, b"application/grpc", GRPC, false);
    t = chain(t, LONGER, b"application/grpc", LONGER + 16, false);
    t[LONGER as usize + 16][b'+' as usize] = GRPC;
    t[LONGER as usize + 16][b';' as usize] = GRPC;
    t[LONGER as usize + 16][b' ' as usize] = GRPC;
    t = chain(t, EXACT_HUFFMAN, &GRPC_HUFFMAN, GRPC, false);
    t = chain(t, LONGER_HUFFMAN, &GRPC_HUFFMAN, LONGER_HUFFMAN + 11, false);
    // The value's code ends with a whole byte. `+` and `;` start with five ones, `-` does not.
    let mut b = 0xf8;
    while b <= 0xff {
        t[LONGER_HUFFMAN as usize + 11][b] = GRPC;
        b += 1;
    }
    t
}
