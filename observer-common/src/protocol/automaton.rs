//! One automaton for the first bytes of a client and for HTTP/1 heads (RFC 9112), as a transition table.
//!
//! It answers four questions and skips everything else at one table look-up a byte:
//! - what do a client's first bytes say ([`super::first`]);
//! - does a request head carry an `Upgrade` header (RFC 9110 section 7.8), and for what;
//! - what is the status of a response: 101, another 1xx, final;
//! - does the head of a 101 name `websocket`.
//!
//! A table instead of nested matches: the verifier sees one path per byte, whatever the bytes are, and the state
//! survives in one byte between segments. The rows are filled where they belong: [`super::first`], [`super::http1`].

use super::{first, http1};
use crate::CHUNK;

/// What the automaton met, as bits of [`Run::bits`].
pub mod bit {
    /// A complete request line with an `HTTP/1.x` version.
    pub const HTTP1: u32 = 1 << 0;
    /// `Upgrade: websocket`
    pub const UPGRADE_WEBSOCKET: u32 = 1 << 1;
    /// `Upgrade: h2c`
    pub const UPGRADE_H2C: u32 = 1 << 2;
    /// `Upgrade:` with another token.
    pub const UPGRADE_OTHER: u32 = 1 << 3;
    /// A status line with 101.
    pub const STATUS_101: u32 = 1 << 4;
    /// A status line with another 1xx.
    pub const INTERIM: u32 = 1 << 5;
    /// The empty line that ends a head.
    pub const HEAD_END: u32 = 1 << 6;
    /// A status line with 2xx to 9xx.
    pub const FINAL: u32 = 1 << 7;
    /// Not what may stand here: no request line at the start of a connection, no status line in a response.
    pub const UNKNOWN: u32 = 1 << 8;
    /// What follows a head is not another `GET`.
    pub const BODY: u32 = 1 << 9;
    /// A TLS `ClientHello`.
    pub const TLS: u32 = 1 << 10;
    /// The HTTP/2 connection preface.
    pub const PREFACE: u32 = 1 << 11;
    /// The first request's method is not `GET`: a body may follow its head.
    pub const OTHER_METHOD: u32 = 1 << 12;

    /// The signature of the PROXY protocol, version 2.
    pub const PROXY: u32 = 1 << 13;

    /// Any `Upgrade` header.
    pub const UPGRADES: u32 = UPGRADE_WEBSOCKET | UPGRADE_H2C | UPGRADE_OTHER;
    /// The run ends with these: what follows has another meaning.
    pub const STOP: u32 = HEAD_END | FINAL | UNKNOWN | BODY | TLS | PREFACE | PROXY;
}

// States. Chains that match a literal take one state a byte.
pub(super) const FIRST: u8 = 0;
pub(super) const METHOD: u8 = 1;
pub(super) const TARGET: u8 = 2;
/// "HTTP/1." after the target: seven states.
pub(super) const VERSION: u8 = 3;
pub(super) const VERSION_DIGIT: u8 = 10;
pub(super) const VERSION_END: u8 = 11;
pub(super) const REQUEST_LINE_CR: u8 = 12;
/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": state `PREFACE_AT + i` has matched `i + 1` bytes.
pub(super) const PREFACE_AT: u8 = 13;
/// 0x16 0x03 version length length 0x01: state `TLS_AT + i` has matched `i + 1` bytes.
pub(super) const TLS_AT: u8 = 36;
pub(super) const SKIP: u8 = 41;
pub(super) const LINE_START: u8 = 42;
pub(super) const BLANK_CR: u8 = 43;
/// "upgrade": state `NAME + i` has matched `i + 1` bytes; the last expects the colon.
pub(super) const NAME: u8 = 44;
pub(super) const VALUE: u8 = 51;
/// "websocket": state `WEBSOCKET + i` has matched `i + 1` bytes; the last expects a delimiter.
pub(super) const WEBSOCKET: u8 = 52;
/// "h2c", likewise.
pub(super) const H2C: u8 = 61;
pub(super) const OTHER: u8 = 64;
pub(super) const OTHER_VALUE: u8 = 65;
pub(super) const NEXT_REQUEST: u8 = 66;
/// "GET " of a following request: state `GET + i` has matched `i + 1` bytes.
pub(super) const GET: u8 = 67;
/// "HTTP/1." of a status line: state `STATUS + i` expects byte `i`.
pub(super) const STATUS: u8 = 70;
pub(super) const STATUS_VERSION: u8 = 77;
pub(super) const STATUS_SPACE: u8 = 78;
pub(super) const STATUS_CODE: u8 = 79;
pub(super) const STATUS_1: u8 = 80;
pub(super) const STATUS_10: u8 = 81;
pub(super) const STATUS_1X: u8 = 82;
pub(super) const STATUS_F: u8 = 83;
pub(super) const STATUS_FX: u8 = 84;
pub(super) const NEXT_CR: u8 = 85;
/// "GET " at the start of a connection: state `FIRST_GET + i` has matched `i + 1` bytes.
pub(super) const FIRST_GET: u8 = 86;
/// "PROXY " at the start of a connection: state `PROXY_LINE_AT + i` has matched `i + 3` bytes.
pub(super) const PROXY_LINE_AT: u8 = 89;
/// The rest of that line.
pub(super) const PROXY_LINE: u8 = 92;
/// The signature of PROXY's version 2: state `PROXY_AT + i` has matched `i + 1` bytes.
pub(super) const PROXY_AT: u8 = 93;
/// Rows of the table; more than there are states, so that a mask keeps an index inside.
pub(super) const STATES: usize = 128;

// Pseudo-states that report a bit and continue in a real state.
pub(super) const EVENT: u8 = 128;
pub(super) const E_HTTP1: u8 = EVENT;
pub(super) const E_WEBSOCKET: u8 = EVENT + 1;
pub(super) const E_WEBSOCKET_EOL: u8 = EVENT + 2;
pub(super) const E_H2C: u8 = EVENT + 3;
pub(super) const E_H2C_EOL: u8 = EVENT + 4;
pub(super) const E_OTHER_EOL: u8 = EVENT + 5;
pub(super) const E_101: u8 = EVENT + 6;
pub(super) const E_INTERIM: u8 = EVENT + 7;
pub(super) const E_HEAD_END: u8 = EVENT + 8;
pub(super) const E_FINAL: u8 = EVENT + 9;
pub(super) const E_UNKNOWN: u8 = EVENT + 10;
pub(super) const E_BODY: u8 = EVENT + 11;
pub(super) const E_TLS: u8 = EVENT + 12;
pub(super) const E_PREFACE: u8 = EVENT + 13;
pub(super) const E_OTHER_METHOD: u8 = EVENT + 14;
pub(super) const E_PROXY: u8 = EVENT + 15;
pub(super) const EVENTS: usize = 16;

/// For each pseudo-state the bit it reports and the state it continues in.
const AFTER: [(u32, u8); EVENTS] = {
    let mut after = [(bit::UNKNOWN, BODY_STATE); EVENTS];
    after[(E_HTTP1 - EVENT) as usize] = (bit::HTTP1, LINE_START);
    after[(E_WEBSOCKET - EVENT) as usize] = (bit::UPGRADE_WEBSOCKET, SKIP);
    after[(E_WEBSOCKET_EOL - EVENT) as usize] = (bit::UPGRADE_WEBSOCKET, LINE_START);
    after[(E_H2C - EVENT) as usize] = (bit::UPGRADE_H2C, VALUE);
    after[(E_H2C_EOL - EVENT) as usize] = (bit::UPGRADE_H2C, LINE_START);
    after[(E_OTHER_EOL - EVENT) as usize] = (bit::UPGRADE_OTHER, LINE_START);
    after[(E_101 - EVENT) as usize] = (bit::STATUS_101, SKIP);
    after[(E_INTERIM - EVENT) as usize] = (bit::INTERIM, SKIP);
    after[(E_HEAD_END - EVENT) as usize] = (bit::HEAD_END, NEXT_REQUEST);
    after[(E_FINAL - EVENT) as usize] = (bit::FINAL, STATUS);
    after[(E_UNKNOWN - EVENT) as usize] = (bit::UNKNOWN, STATUS);
    after[(E_BODY - EVENT) as usize] = (bit::BODY, BODY_STATE);
    after[(E_TLS - EVENT) as usize] = (bit::TLS, STATUS);
    after[(E_PREFACE - EVENT) as usize] = (bit::PREFACE, STATUS);
    after[(E_OTHER_METHOD - EVENT) as usize] = (bit::OTHER_METHOD, TARGET);
    after[(E_PROXY - EVENT) as usize] = (bit::PROXY, FIRST);
    after
};
/// A body is skipped by never running the automaton; the first byte of a run in this state is a segment's first.
pub(super) const BODY_STATE: u8 = NEXT_REQUEST;

/// State of a connection's first byte.
pub const REQUEST_FIRST: u8 = FIRST;

/// Fills the states of a literal chain: `first` expects `text[0]`, and so on; the byte after each state's literal goes
/// to the next state, the last to `done`; every other byte keeps what the table already says.
pub(super) const fn chain(
    mut t: Table,
    first: u8,
    text: &[u8],
    done: u8,
    fold_case: bool,
) -> Table {
    let mut i = 0;
    while i < text.len() {
        let to = if i + 1 == text.len() { done } else { first + i as u8 + 1 };
        let row = first as usize + i;
        t[row][text[i] as usize] = to;
        if fold_case {
            t[row][text[i].to_ascii_uppercase() as usize] = to;
        }
        i += 1;
    }
    t
}

pub(super) const fn fill(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize] = [to; 256];
        row += 1;
    }
    t
}

/// In a header line: a line feed starts the next line, whatever was being matched.
pub(super) const fn eol(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize][b'\n' as usize] = to;
        row += 1;
    }
    t
}

/// Within a method: any capital goes on, as a method that is no literal.
pub(super) const fn methods(mut t: Table, state: u8, count: u8) -> Table {
    let mut row = state;
    while row < state + count {
        let mut b = b'A';
        while b <= b'Z' {
            t[row as usize][b as usize] = METHOD;
            b += 1;
        }
        t[row as usize][b' ' as usize] = E_OTHER_METHOD;
        row += 1;
    }
    t
}

pub(super) type Table = [[u8; 256]; STATES];

/// `TABLE[state][byte]` is the next state, or a pseudo-state from [`EVENT`] on.
static TABLE: Table = http1::rows(first::rows(unknown()));

#[expect(clippy::large_stack_arrays, reason = "evaluated at compile time")]
const fn unknown() -> Table {
    [[E_UNKNOWN; 256]; STATES]
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

/// What one run over a chunk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The state to continue in.
    pub state: u8,
    /// Index of the first byte not consumed.
    pub at: usize,
    /// [`bit`]s met on the way, at most one of [`bit::STOP`].
    pub bits: u32,
}

/// Runs the automaton over `buf[from..len]` until a [`bit::STOP`] or the end.
#[inline(always)]
#[must_use]
pub fn run(state: u8, buf: &[u8; CHUNK], from: usize, len: usize) -> Run {
    let mut state = state;
    let mut bits = 0;
    let mut at = from;
    for _ in 0..CHUNK {
        if at >= len {
            break;
        }
        let byte = buf[at & (CHUNK - 1)];
        at += 1;
        // The mask changes nothing, and shows the verifier that the row is inside the table.
        state = TABLE[state as usize & (STATES - 1)][byte as usize];
        if state >= EVENT {
            let (event, next) = AFTER[(state - EVENT) as usize & (EVENTS - 1)];
            bits |= event;
            state = next;
            if bits & bit::STOP != 0 {
                break;
            }
        }
    }
    Run { state, at, bits }
}
