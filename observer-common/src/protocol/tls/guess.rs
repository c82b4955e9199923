//! What a record of TLS looks like where nobody knows that one stands there (RFC 8446 section 5.1).

use crate::protocol::guess::{Guess, Judged, outside, sender};

/// The record layer, as it is guessed.
#[derive(Debug)]
pub enum TlsGuess {}

const HEADER: u32 = 5;
/// `change_cipher_spec`, the first of four types.
const FIRST_TYPE: u8 = 20;
const HANDSHAKE: u8 = 22;
/// Longest record: 2^14 bytes, and what encryption adds in TLS 1.2.
const LONGEST: u64 = (1 << 14) + 2048;

/// Who sends a record, by its type and its first byte: a handshake that is not encrypted yet begins with a `ClientHello` or a
/// `ServerHello`.
static SENDER: [[u8; 256]; 4] = {
    let mut table = [[sender::ANY; 256]; 4];
    table[(HANDSHAKE - FIRST_TYPE) as usize][1] = sender::CLIENT;
    table[(HANDSHAKE - FIRST_TYPE) as usize][2] = sender::SERVER;
    table
};

impl Guess for TlsGuess {
    #[inline(always)]
    fn judge([low, _]: [u64; 2], available: u32, _: u8) -> Judged {
        let kind = low as u8;
        let (major, minor) = (low >> 8 & 0xff, low >> 16 & 0xff);
        let payload = u64::from(((low >> 24) as u16).swap_bytes());
        let first = (low >> 40) as u8;
        let doubt = outside(u64::from(kind), u64::from(FIRST_TYPE), u64::from(FIRST_TYPE) + 3)
            | outside(major, 3, 3)
            | outside(minor, 0, 4)
            | outside(payload, 1, LONGEST);
        Judged {
            doubt: doubt | u64::from(available).wrapping_sub(u64::from(HEADER)),
            length: HEADER,
            payload,
            sender: SENDER[usize::from(kind & 3)][first as usize],
            context: 0,
            tells: 0,
        }
    }
}

const _: () = assert!(FIRST_TYPE.is_multiple_of(4));
