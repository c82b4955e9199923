//! What begins a message of HTTP/1, and what else may stand at the start of a connection that was adopted before it spoke.

use super::{outside, sender};

/// The start of a text, as it is compared.
#[derive(Clone, Copy)]
struct Start {
    /// Little-endian.
    word: u64,
    /// Ones where a byte of the text is.
    mask: u64,
}

const fn start(text: &[u8]) -> Start {
    let (mut word, mut i) = (0, 0);
    while i < text.len() {
        word |= (text[i] as u64) << (8 * i);
        i += 1;
    }
    Start { word, mask: u64::MAX >> (64 - 8 * text.len()) }
}

/// Methods with what may follow them, prefaces, and what comes before them all.
const REQUESTS: [Start; 14] = [
    start(b"GET /"),
    start(b"GET http"),
    start(b"POST /"),
    start(b"POST htt"),
    start(b"PUT /"),
    start(b"HEAD /"),
    start(b"DELETE /"),
    start(b"OPTIONS "),
    start(b"PATCH /"),
    start(b"CONNECT "),
    start(b"PRI * HT"),
    start(b"PROXY TC"),
    start(b"PROXY UN"),
    start(b"\r\n\r\n\0\r\nQ"),
];

const ANSWER: Start = start(b"HTTP/1.");

/// First bytes of all of them.
pub(super) const FIRST: [u8; 7] = *b"GPHDOC\r";

/// Who has sent the head that begins with these bytes; 0 if none does. A request is told by its method and the start of its
/// target, an answer by the whole of its version and code.
#[inline(always)]
pub(super) fn head([low, high]: [u64; 2]) -> u8 {
    for start in REQUESTS {
        if low & start.mask == start.word {
            return sender::CLIENT;
        }
    }
    // A digit, a space, a code of three digits.
    let digit = |byte: u64| outside(byte & 0xff, u64::from(b'0'), u64::from(b'9'));
    let code = digit(high >> 8) | digit(high >> 16) | digit(high >> 24);
    let doubt = outside(high & 0xff, u64::from(b' '), u64::from(b' ')) | digit(low >> 56) | code;
    if low & ANSWER.mask == ANSWER.word && doubt.cast_signed() >= 0 { sender::SERVER } else { 0 }
}
