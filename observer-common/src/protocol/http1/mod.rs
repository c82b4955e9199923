//! One automaton for the first bytes of a client and for HTTP/1 heads (RFC 9112), as a transition table.
//!
//! It answers four questions and skips everything else at one table look-up a byte:
//! - what do a client's first bytes say: an HTTP/1 request line, the HTTP/2 preface (RFC 9113 section 3.4), a TLS
//!   `ClientHello` record (RFC 8446 section 5.1), or something else;
//! - does a request head carry an `Upgrade` header (RFC 9110 section 7.8), and for what;
//! - what is the status of a response: 101, another 1xx, final;
//! - does the head of a 101 name `websocket`.
//!
//! A table instead of nested matches: the verifier sees one path per byte, whatever the bytes are, and the state
//! survives in one byte between segments.
//!
//! Bodies are not followed. After a request head the automaton looks whether a `GET` comes next, else it waits in
//! [`REQUEST_BODY`] for a segment that starts with one: an upgrade request is always a `GET` (RFC 6455 section 4.1).
//! A body that looks like a request can at worst make the automaton look at the following response's status line.

use crate::{CHUNK, flow::upgrade};

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

    /// Any `Upgrade` header.
    pub const UPGRADES: u32 = UPGRADE_WEBSOCKET | UPGRADE_H2C | UPGRADE_OTHER;
    /// The run ends with these: what follows has another meaning.
    pub const STOP: u32 = HEAD_END | FINAL | UNKNOWN | BODY | TLS | PREFACE;
}

// States. Chains that match a literal take one state a byte.
const FIRST: u8 = 0;
const METHOD: u8 = 1;
const TARGET: u8 = 2;
/// "HTTP/1." after the target: seven states.
const VERSION: u8 = 3;
const VERSION_DIGIT: u8 = 10;
const VERSION_END: u8 = 11;
const REQUEST_LINE_CR: u8 = 12;
/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": state `PREFACE_AT + i` has matched `i + 1` bytes.
const PREFACE_AT: u8 = 13;
/// 0x16 0x03 version length length 0x01: state `TLS_AT + i` has matched `i + 1` bytes.
const TLS_AT: u8 = 36;
const SKIP: u8 = 41;
const LINE_START: u8 = 42;
const BLANK_CR: u8 = 43;
/// "upgrade": state `NAME + i` has matched `i + 1` bytes; the last expects the colon.
const NAME: u8 = 44;
const VALUE: u8 = 51;
/// "websocket": state `WEBSOCKET + i` has matched `i + 1` bytes; the last expects a delimiter.
const WEBSOCKET: u8 = 52;
/// "h2c", likewise.
const H2C: u8 = 61;
const OTHER: u8 = 64;
const OTHER_VALUE: u8 = 65;
const NEXT_REQUEST: u8 = 66;
/// "GET " of a following request: state `GET + i` has matched `i + 1` bytes.
const GET: u8 = 67;
/// "HTTP/1." of a status line: state `STATUS + i` expects byte `i`.
const STATUS: u8 = 70;
const STATUS_VERSION: u8 = 77;
const STATUS_SPACE: u8 = 78;
const STATUS_CODE: u8 = 79;
const STATUS_1: u8 = 80;
const STATUS_10: u8 = 81;
const STATUS_1X: u8 = 82;
const STATUS_F: u8 = 83;
const STATUS_FX: u8 = 84;
const NEXT_CR: u8 = 85;
/// "GET " at the start of a connection: state `FIRST_GET + i` has matched `i + 1` bytes.
const FIRST_GET: u8 = 86;
/// Rows of the table; more than there are states, so that a mask keeps an index inside.
const STATES: usize = 128;

// Pseudo-states that report a bit and continue in a real state.
const EVENT: u8 = 128;
const E_HTTP1: u8 = EVENT;
const E_WEBSOCKET: u8 = EVENT + 1;
const E_WEBSOCKET_EOL: u8 = EVENT + 2;
const E_H2C: u8 = EVENT + 3;
const E_H2C_EOL: u8 = EVENT + 4;
const E_OTHER_EOL: u8 = EVENT + 5;
const E_101: u8 = EVENT + 6;
const E_INTERIM: u8 = EVENT + 7;
const E_HEAD_END: u8 = EVENT + 8;
const E_FINAL: u8 = EVENT + 9;
const E_UNKNOWN: u8 = EVENT + 10;
const E_BODY: u8 = EVENT + 11;
const E_TLS: u8 = EVENT + 12;
const E_PREFACE: u8 = EVENT + 13;
const E_OTHER_METHOD: u8 = EVENT + 14;
const EVENTS: usize = 16;

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
    after
};
/// A body is skipped by never running the automaton; the first byte of a run in this state is a segment's first.
const BODY_STATE: u8 = NEXT_REQUEST;

/// State of a connection's first byte.
pub const REQUEST_FIRST: u8 = FIRST;
/// State of a request stream between heads: the next segment that starts with `GET ` is a head.
pub const REQUEST_BODY: u8 = BODY_STATE;
/// State before a status line.
pub const RESPONSE_START: u8 = STATUS;

/// Fills the states of a literal chain: `first` expects `text[0]`, and so on; the byte after each state's literal goes
/// to the next state, the last to `done`; every other byte keeps what the table already says.
const fn chain(mut t: Table, first: u8, text: &[u8], done: u8, fold_case: bool) -> Table {
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

const fn fill(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize] = [to; 256];
        row += 1;
    }
    t
}

/// In a header line: a line feed starts the next line, whatever was being matched.
const fn eol(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize][b'\n' as usize] = to;
        row += 1;
    }
    t
}

/// Within a method: any capital goes on, as a method that is no literal.
const fn methods(mut t: Table, state: u8, count: u8) -> Table {
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

type Table = [[u8; 256]; STATES];

/// `TABLE[state][byte]` is the next state, or a pseudo-state from [`EVENT`] on.
static TABLE: Table = table();

#[expect(clippy::large_stack_arrays, reason = "evaluated at compile time")]
const fn table() -> Table {
    let t: Table = [[E_UNKNOWN; 256]; STATES];
    status_lines(following_requests(upgrade_values(header_lines(first_bytes(t)))))
}

/// The start of a connection.
const fn first_bytes(mut t: Table) -> Table {
    let mut b;

    // First byte and method: capitals up to a space.
    b = b'A';
    while b <= b'Z' {
        t[FIRST as usize][b as usize] = METHOD;
        t[METHOD as usize][b as usize] = METHOD;
        b += 1;
    }
    t[METHOD as usize][b'-' as usize] = METHOD;
    t[METHOD as usize][b' ' as usize] = E_OTHER_METHOD;
    t[FIRST as usize][b'\r' as usize] = FIRST;
    t[FIRST as usize][b'\n' as usize] = FIRST;

    // GET is told from the other methods: no body follows it.
    t = methods(t, FIRST_GET, 3);
    t[FIRST as usize][b'G' as usize] = FIRST_GET;
    t = chain(t, FIRST_GET, b"ET ", TARGET, false);

    // Target: visible bytes up to a space. A line that ends without a version is not HTTP/1.
    b = 0x21;
    while b < 0xff {
        if b != 0x7f {
            t[TARGET as usize][b as usize] = TARGET;
        }
        b += 1;
    }
    t[TARGET as usize][0xff] = TARGET;
    t[TARGET as usize][b' ' as usize] = VERSION;
    t = chain(t, VERSION, b"HTTP/1.", VERSION_DIGIT, false);
    b = b'0';
    while b <= b'9' {
        t[VERSION_DIGIT as usize][b as usize] = VERSION_END;
        b += 1;
    }
    t[VERSION_END as usize][b'\r' as usize] = REQUEST_LINE_CR;
    t[VERSION_END as usize][b'\n' as usize] = E_HTTP1;
    t[REQUEST_LINE_CR as usize][b'\n' as usize] = E_HTTP1;

    // HTTP/2 preface. Up to "PRI " a deviation may still be an HTTP/1 method.
    t = methods(t, PREFACE_AT, 3);
    t[PREFACE_AT as usize][b' ' as usize] = E_OTHER_METHOD;
    t[PREFACE_AT as usize + 1][b' ' as usize] = E_OTHER_METHOD;
    t[FIRST as usize][b'P' as usize] = PREFACE_AT;
    t = chain(t, PREFACE_AT, b"RI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E_PREFACE, false);

    // TLS record header of a handshake that starts with a ClientHello.
    t[FIRST as usize][0x16] = TLS_AT;
    t[TLS_AT as usize][0x03] = TLS_AT + 1;
    b = 0;
    while b <= 4 {
        t[TLS_AT as usize + 1][b as usize] = TLS_AT + 2;
        b += 1;
    }
    t = fill(t, TLS_AT + 2, 1, TLS_AT + 3);
    t = fill(t, TLS_AT + 3, 1, TLS_AT + 4);
    t[TLS_AT as usize + 4][0x01] = E_TLS;
    t
}

/// Header lines up to the value of `Upgrade`.
const fn header_lines(mut t: Table) -> Table {
    t = fill(t, SKIP, 1, SKIP);
    t = eol(t, SKIP, 1, LINE_START);
    t = fill(t, LINE_START, 1, SKIP);
    t[LINE_START as usize][b'\r' as usize] = BLANK_CR;
    t[LINE_START as usize][b'\n' as usize] = E_HEAD_END;
    t[LINE_START as usize][b'u' as usize] = NAME;
    t[LINE_START as usize][b'U' as usize] = NAME;
    t = fill(t, BLANK_CR, 1, SKIP);
    t[BLANK_CR as usize][b'\n' as usize] = E_HEAD_END;
    t = fill(t, NAME, 7, SKIP);
    t = eol(t, NAME, 7, LINE_START);
    t = chain(t, NAME, b"pgrade:", VALUE, true);
    t
}

/// The value of `Upgrade`: a list of tokens.
const fn upgrade_values(mut t: Table) -> Table {
    t = fill(t, VALUE, 1, OTHER);
    t = eol(t, VALUE, 1, LINE_START);
    t = fill(t, WEBSOCKET, 9, OTHER);
    t = eol(t, WEBSOCKET, 9, E_OTHER_EOL);
    t = fill(t, H2C, 3, OTHER);
    t = eol(t, H2C, 3, E_OTHER_EOL);
    t[VALUE as usize][b'w' as usize] = WEBSOCKET;
    t[VALUE as usize][b'W' as usize] = WEBSOCKET;
    t[VALUE as usize][b'h' as usize] = H2C;
    t[VALUE as usize][b'H' as usize] = H2C;
    t = chain(t, WEBSOCKET, b"ebsocket", WEBSOCKET + 8, true);
    t = chain(t, H2C, b"2c", H2C + 2, true);
    t = fill(t, OTHER, 1, OTHER);
    t = eol(t, OTHER, 1, E_OTHER_EOL);
    t = fill(t, OTHER_VALUE, 1, OTHER);
    t = eol(t, OTHER_VALUE, 1, E_OTHER_EOL);
    t[OTHER_VALUE as usize][b'w' as usize] = WEBSOCKET;
    t[OTHER_VALUE as usize][b'W' as usize] = WEBSOCKET;
    t[OTHER_VALUE as usize][b'h' as usize] = H2C;
    t[OTHER_VALUE as usize][b'H' as usize] = H2C;
    // Delimiters within the list.
    let delimiters = b" \t,\r;/";
    let mut i = 0;
    while i < delimiters.len() {
        let d = delimiters[i] as usize;
        t[WEBSOCKET as usize + 8][d] = E_WEBSOCKET;
        t[H2C as usize + 2][d] = E_H2C;
        i += 1;
    }
    t[WEBSOCKET as usize + 8][b'\n' as usize] = E_WEBSOCKET_EOL;
    t[H2C as usize + 2][b'\n' as usize] = E_H2C_EOL;
    t[VALUE as usize][b' ' as usize] = VALUE;
    t[VALUE as usize][b'\t' as usize] = VALUE;
    t[VALUE as usize][b',' as usize] = VALUE;
    t[VALUE as usize][b'\r' as usize] = VALUE;
    t[OTHER_VALUE as usize][b' ' as usize] = OTHER_VALUE;
    t[OTHER_VALUE as usize][b'\t' as usize] = OTHER_VALUE;
    t[OTHER_VALUE as usize][b',' as usize] = OTHER_VALUE;
    t[OTHER as usize][b',' as usize] = OTHER_VALUE;
    t
}

/// What may follow a head in the same stream: line breaks to be ignored (RFC 9112 section 2.2) and a GET.
const fn following_requests(mut t: Table) -> Table {
    t = fill(t, NEXT_REQUEST, 4, E_BODY);
    t[NEXT_REQUEST as usize][b'\r' as usize] = NEXT_CR;
    t[NEXT_REQUEST as usize][b'\n' as usize] = NEXT_REQUEST;
    t = fill(t, NEXT_CR, 1, E_BODY);
    t[NEXT_CR as usize][b'\n' as usize] = NEXT_REQUEST;
    t[NEXT_REQUEST as usize][b'G' as usize] = GET;
    t = chain(t, GET, b"ET ", SKIP, false);
    t
}

/// Status lines.
const fn status_lines(mut t: Table) -> Table {
    let mut b;
    t = chain(t, STATUS, b"HTTP/1.", STATUS_VERSION, false);
    b = b'0';
    while b <= b'9' {
        t[STATUS_VERSION as usize][b as usize] = STATUS_SPACE;
        t[STATUS_1 as usize][b as usize] = STATUS_1X;
        t[STATUS_10 as usize][b as usize] = E_INTERIM;
        t[STATUS_1X as usize][b as usize] = E_INTERIM;
        t[STATUS_F as usize][b as usize] = STATUS_FX;
        t[STATUS_FX as usize][b as usize] = E_FINAL;
        if b >= b'2' {
            t[STATUS_CODE as usize][b as usize] = STATUS_F;
        }
        b += 1;
    }
    t[STATUS_SPACE as usize][b' ' as usize] = STATUS_CODE;
    t[STATUS_CODE as usize][b'1' as usize] = STATUS_1;
    t[STATUS_1 as usize][b'0' as usize] = STATUS_10;
    t[STATUS_10 as usize][b'1' as usize] = E_101;
    t
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

/// Whether `words` hold exactly one whole `GET` head of `len` bytes without an `Upgrade` header: what nearly every
/// request is, told at eight bytes a step. `false` only means that [`run`] has to look.
///
/// The words are little-endian and zero behind the head. Between heads ([`REQUEST_BODY`]) a `true` leaves the automaton
/// where it is.
#[inline(always)]
#[must_use]
pub fn is_plain_get<const WORDS: usize>(words: &[u64; WORDS], len: usize) -> bool {
    let ones = u64::from_le_bytes([1; 8]);
    // Bytes equal to `b` show as 0x80 in their place; above such a byte a wrong 0x80 may follow, which only costs a run.
    let equal = |word: u64, b: u8| {
        let x = word ^ (ones * u64::from(b));
        x.wrapping_sub(ones) & !x & (ones << 7)
    };
    if len < 16 || len >= WORDS * 8 || words[0] as u32 != u32::from_le_bytes(*b"GET ") {
        return false;
    }
    // The last four bytes; those of a head without any header line would be cut by the start of a word.
    let (last, shift) = ((len - 4) >> 3, ((len - 4) & 7) * 8);
    let low = words[last & (WORDS - 1)] >> shift;
    let high = if shift > 32 { words[(last + 1) & (WORDS - 1)] << (64 - shift) } else { 0 };
    if (low | high) as u32 != u32::from_le_bytes(*b"\r\n\r\n") {
        return false;
    }
    // The line feed of the last line, which the empty line follows.
    let (end, mark) = ((len - 3) >> 3, 0x80 << (((len - 3) & 7) * 8));
    let mut suspicious = 0;
    for i in 0..WORDS - 1 {
        if i * 8 >= len {
            break;
        }
        let following = (words[i] >> 8) | (words[i + 1] << 56);
        let line_feeds = equal(words[i], b'\n');
        // An empty line before the last: another head follows in the same segment.
        let mut empty = line_feeds & (equal(following, b'\r') | equal(following, b'\n'));
        if i == end {
            empty &= !mark;
        }
        let second = (words[i] >> 16) | (words[i + 1] << 48);
        let upgrade = equal(following | (ones << 5), b'u') & equal(second | (ones << 5), b'p');
        suspicious |= empty | (line_feeds & upgrade);
    }
    suspicious == 0
}

/// The [`upgrade`] bits that `bits` name.
#[inline(always)]
#[must_use]
pub const fn upgrades(bits: u32) -> u8 {
    let mut named = 0;
    if bits & bit::UPGRADE_WEBSOCKET != 0 {
        named |= upgrade::WEBSOCKET;
    }
    if bits & bit::UPGRADE_H2C != 0 {
        named |= upgrade::H2C;
    }
    if bits & bit::UPGRADE_OTHER != 0 {
        named |= upgrade::OTHER;
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs the automaton over the bytes, cut at `cut`, from `state`; returns the end state and all bits met.
    fn bits(state: u8, bytes: &[u8], cut: usize) -> (u8, u32) {
        let (mut state, mut met) = (state, 0);
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        for piece in [first, second] {
            let mut at = 0;
            while at < piece.len() {
                let chunk = &piece[at..piece.len().min(at + CHUNK)];
                let mut buf = [0; CHUNK];
                buf[..chunk.len()].copy_from_slice(chunk);
                let run = run(state, &buf, 0, chunk.len());
                assert!(run.at > 0 && run.at <= chunk.len());
                state = run.state;
                met |= run.bits;
                at += run.at;
                if run.bits & bit::STOP & !bit::HEAD_END != 0 {
                    return (state, met);
                }
            }
        }
        (state, met)
    }

    fn words(bytes: &[u8]) -> [u64; 64] {
        let mut padded = bytes.to_vec();
        padded.resize(512, 0);
        let mut words = [0; 64];
        for (word, chunk) in words.iter_mut().zip(padded.chunks(8)) {
            *word = u64::from_le_bytes(chunk.try_into().unwrap());
        }
        words
    }

    const WS: u32 = bit::HTTP1 | bit::UPGRADE_WEBSOCKET | bit::HEAD_END;

    #[test]
    fn first_bytes() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], bit::HTTP1 | bit::HEAD_END),
            (b"\r\nGET / HTTP/1.0\n\n", bit::HTTP1 | bit::HEAD_END),
            (b"POST /x?y HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"M-SEARCH * HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"PUT / HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"GETS / HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"PRIME / HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", bit::PREFACE),
            (b"PRI * HTTP/2.0\r\n\r\nSX", bit::UNKNOWN),
            (b"\x16\x03\x01\x02\x00\x01\x00", bit::TLS),
            (b"\x16\x03\x01\x02\x00\x02", bit::UNKNOWN),
            (b"\x16\x03\x09", bit::UNKNOWN),
            (b"GET foo\r\n", bit::UNKNOWN),
            (b"CONNECT {\"verbose\":false}\r\n", bit::UNKNOWN | bit::OTHER_METHOD),
            (b"OPTIONS rtsp://h/ RTSP/1.0\r\n", bit::UNKNOWN | bit::OTHER_METHOD),
            (b"GET / HTTP/1.1 \r\n", bit::UNKNOWN),
            (b"EHLO mail\r\n", bit::UNKNOWN | bit::OTHER_METHOD),
            (b"SSH-2.0-x\r\n", bit::UNKNOWN),
            (b"\0\0\0\x01", bit::UNKNOWN),
            (b"GET /x HTTP/1.1\r\nUPGRADE:websocket\r\n\r\n", WS),
            (b"GET /x HTTP/1.1\r\nupgrade: \tWebSocket \r\n\r\n", WS),
            (b"GET /x HTTP/1.1\r\nUpgrade: foo, websocket\r\n\r\n", WS),
            (b"GET /x HTTP/1.1\r\nUpgrade: websocket/13\r\n\r\n", WS),
            (b"GET /x HTTP/1.1\nUpgrade: websocket\n\n", WS),
            (
                b"GET /x HTTP/1.1\r\nUpgrade: websockets\r\n\r\n",
                bit::HTTP1 | bit::UPGRADE_OTHER | bit::HEAD_END,
            ),
            (
                b"GET /x HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
                bit::HTTP1 | bit::UPGRADE_H2C | bit::HEAD_END,
            ),
            (b"GET /x HTTP/1.1\r\nUpgrade: h2c, websocket\r\n\r\n", WS | bit::UPGRADE_H2C),
            (
                b"GET /x HTTP/1.1\r\nX-Upgrade: websocket\r\nUpgraded: websocket\r\n\r\n",
                bit::HTTP1 | bit::HEAD_END,
            ),
            (
                b"GET /x HTTP/1.1\r\nX: Upgrade: websocket\r\nUpgrade:\r\n\r\n",
                bit::HTTP1 | bit::HEAD_END,
            ),
        ] {
            for cut in 0..=bytes.len() {
                assert_eq!(
                    bits(REQUEST_FIRST, bytes, cut).1,
                    want,
                    "{:?} cut at {cut}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
    }

    #[test]
    fn status_lines() {
        for (bytes, want) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], bit::FINAL),
            (b"HTTP/1.0 404 ", bit::FINAL),
            (b"HTTP/1.1 999", bit::FINAL),
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                bit::INTERIM | bit::HEAD_END | bit::BODY,
            ),
            (b"HTTP/1.1 110 x\r\n", bit::INTERIM),
            (b"HTTP/2 200", bit::UNKNOWN),
            (b"HTTP/1.1 099", bit::UNKNOWN),
            (b"<html>HTTP/1.1 101", bit::UNKNOWN),
            (
                b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n",
                bit::STATUS_101 | bit::UPGRADE_WEBSOCKET | bit::HEAD_END,
            ),
            (
                b"HTTP/1.1 101\nupgrade: foo\n\n",
                bit::STATUS_101 | bit::UPGRADE_OTHER | bit::HEAD_END,
            ),
        ] {
            for cut in 0..=bytes.len() {
                let met = bits(RESPONSE_START, bytes, cut).1;
                assert_eq!(
                    met & !bit::BODY,
                    want & !bit::BODY,
                    "{:?} cut at {cut}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
    }

    #[test]
    fn plain_gets() {
        for (bytes, plain) in [
            (&b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8088\r\n\r\n"[..], true),
            (b"GET / HTTP/1.1\r\n\r\n", true),
            (b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\n\r\n", true),
            (b"GET / HTTP/1.1\r\nHost: a\r\nUPgrade: b\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\nHost: a\r\nx: b\r\n", false),
            (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", false),
            (b"HEAD / HTTP/1.1\r\n\r\n", false),
        ] {
            assert_eq!(
                is_plain_get(&words(bytes), bytes.len()),
                plain,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    fn head() -> impl Strategy<Value = Vec<u8>> {
        let line =
            prop_oneof!["[a-zA-Z-]{1,9}: [ -~]{0,12}", "[Uu][Pp]grade: (websocket|h2c|x)", "u"];
        (
            prop::collection::vec(line, 0..6),
            any::<bool>(),
            prop_oneof!["", "GET / HTTP/1.1\r\n\r\n", "[ -~\r\n]{0,20}"],
        )
            .prop_map(|(lines, crlf, tail)| {
                let eol = if crlf { "\r\n" } else { "\n" };
                let mut head = format!("GET /path HTTP/1.1{eol}");
                for line in &lines {
                    head.extend([line, eol]);
                }
                (head + eol + &tail).into_bytes()
            })
    }

    proptest! {
        #[test]
        fn a_plain_get_says_nothing_to_the_automaton(head in head()) {
            if is_plain_get(&words(&head), head.len()) {
                prop_assert_eq!(bits(REQUEST_BODY, &head, 0), (REQUEST_BODY, bit::HEAD_END));
            }
        }

        #[test]
        fn cuts_change_nothing(head in head(), cut in any::<prop::sample::Index>()) {
            let whole = bits(REQUEST_FIRST, &head, 0);
            prop_assert_eq!(bits(REQUEST_FIRST, &head, cut.index(head.len() + 1)), whole);
        }

        #[test]
        fn hostile_bytes_never_stall(bytes in prop::collection::vec(any::<u8>(), 0..5000), state in 0_u8..89, cut in any::<usize>()) {
            let _ = bits(state, &bytes, cut % (bytes.len() + 1));
            let length = bytes.len().min(511);
            let _ = is_plain_get(&words(&bytes[..length]), length);
        }
    }
}
