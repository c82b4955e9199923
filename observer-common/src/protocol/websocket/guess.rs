//! What a frame of WebSocket looks like where nobody knows that one stands there.

use super::{FIN, FORMS, WebSocket};
use crate::protocol::guess::{Guess, Judged, outside};

/// In [`Judged::context`]: a message of several frames is under way.
const FRAGMENTED: u8 = 1;

/// What a first byte says in a context.
#[derive(Clone, Copy)]
struct First {
    /// Longest payload; none is short enough for what may not stand here.
    longest: i64,
    /// The context that it leaves.
    context: u8,
}

/// Longer than anything that exists.
const LONGEST: i64 = 1 << 40;
/// Of control frames.
const SHORT: i64 = 125;

/// By context and first byte. A compressed message (RFC 7692) has the bit 0x40 in its first frame.
static FIRST: [[First; 256]; 2] = {
    let mut table = [[First { longest: -1, context: 0 }; 256]; 2];
    let mut first = 0;
    while first < 256 {
        let (opcode, fin) = (first & 0x0f, first & FIN as usize != 0);
        let context = if fin { 0 } else { FRAGMENTED };
        match (opcode, first & 0x70) {
            (1 | 2, 0 | 0x40) => table[0][first] = First { longest: LONGEST, context },
            (0, 0) => table[1][first] = First { longest: LONGEST, context },
            (8..=10, 0) if fin => {
                table[0][first] = First { longest: SHORT, context: 0 };
                table[1][first] = First { longest: SHORT, context: FRAGMENTED };
            }
            _ => {}
        }
        first += 1;
    }
    table
};

/// By second byte, the shortest payload whose length is written so.
static SHORTEST: [u64; 256] = {
    let mut table = [0; 256];
    table[126] = 126;
    table[254] = 126;
    table[127] = 0x1_0000;
    table[255] = 0x1_0000;
    table
};

impl Guess for WebSocket {
    #[inline(always)]
    fn judge([low, high]: [u64; 2], available: u32, context: u8) -> Judged {
        let (first, second) = (low as u8, (low >> 8) as u8);
        let form = FORMS[second as usize];
        let extended = ((low >> 16) | (high << 48)).swap_bytes() >> (form.shift & 63);
        let payload = (extended & i64::from(form.extended).cast_unsigned()) | u64::from(form.short);
        let length = u32::from(form.length);
        let first = FIRST[usize::from(context & FRAGMENTED)][first as usize];
        let doubt = outside(payload, SHORTEST[second as usize], first.longest.cast_unsigned());
        Judged {
            doubt: doubt | u64::from(available).wrapping_sub(u64::from(length)),
            length,
            payload,
            // A client's are masked, a server's are not.
            sender: 2 - (second >> 7),
            context: first.context,
            tells: 0,
        }
    }
}
