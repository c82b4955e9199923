//! HTTP/1 (RFC 9112): heads, and what requests and responses say to each other ([`exchange`]).
//!
//! Bodies are not followed. After a request head the automaton looks whether a `GET` comes next, else it waits in
//! [`REQUEST_BODY`] for a segment that starts with one: an upgrade request is always a `GET` (RFC 6455 section 4.1).
//! A body that looks like a request can at worst make the automaton look at the following response's status line.

pub mod exchange;

use super::automaton::{
    BLANK_CR, BODY_STATE, E_101, E_BODY, E_FINAL, E_H2C, E_H2C_EOL, E_HEAD_END, E_INTERIM,
    E_OTHER_EOL, E_WEBSOCKET, E_WEBSOCKET_EOL, GET, H2C, LINE_START, NAME, NEXT_CR, NEXT_REQUEST,
    OTHER, OTHER_VALUE, Run, SKIP, STATUS, STATUS_1, STATUS_1X, STATUS_10, STATUS_CODE, STATUS_F,
    STATUS_FX, STATUS_SPACE, STATUS_VERSION, Table, VALUE, WEBSOCKET, bit, chain, eol, fill,
};

/// What a request or a 101 response named in its `Upgrade` header; bits, since a request may name several.
pub mod upgrade {
    /// `websocket`
    pub const WEBSOCKET: u8 = 1;
    /// `h2c`
    pub const H2C: u8 = 2;
    /// Any other token.
    pub const OTHER: u8 = 4;
}

/// State of a request stream between heads: the next segment that starts with `GET ` is a head.
pub const REQUEST_BODY: u8 = BODY_STATE;
/// State before a status line.
pub const RESPONSE_START: u8 = STATUS;

/// The rows of heads.
#[expect(clippy::large_types_passed_by_value, reason = "evaluated at compile time")]
pub(super) const fn rows(t: Table) -> Table {
    status_lines(following_requests(upgrade_values(header_lines(t))))
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

/// What the automaton finds in a connection's first bytes if they are a whole plain `GET` head ([`is_plain_get`],
/// [`is_request_line`]).
pub const PLAIN_FIRST: Run = Run { state: REQUEST_BODY, at: 0, bits: bit::HTTP1 | bit::HEAD_END };

/// Words of a first line that [`is_request_line`] looks at.
const LINE_WORDS: usize = 16;

/// Whether `words`, which start with `GET `, start with a request line of HTTP/1. `false` only means that [`super::automaton::run`]
/// has to look.
#[inline(always)]
#[must_use]
pub fn is_request_line<const WORDS: usize>(words: &[u64; WORDS]) -> bool {
    const { assert!(LINE_WORDS + 2 <= WORDS) }
    let ones = u64::from_le_bytes([1; 8]);
    for i in 0..LINE_WORDS {
        // The space behind the method is no stop.
        let word = if i == 0 { words[i] | 0x4000_0000 } else { words[i] };
        // Bytes below 0x21, and 0x7f: what ends the target. Above the first such byte a wrong mark may follow.
        let delete = word ^ (ones * 0x7f);
        let stops = ((word.wrapping_sub(ones * 0x21) & !word)
            | (delete.wrapping_sub(ones) & !delete))
            & (ones << 7);
        if stops != 0 {
            // The first mark's byte: its bit, shifted to that byte's place, picks it from the numbers 7 to 0.
            let first = (stops & stops.wrapping_neg()) >> 7;
            let shift = (first.wrapping_mul(0x0001_0203_0405_0607) >> 56 & 7) * 8;
            let from = |i: usize| (words[i] >> shift) | (words[i + 1] << 1 << (63 - shift));
            let [version, end] = [from(i), from(i + 1)];
            let digit = end as u8;
            return version == u64::from_le_bytes(*b" HTTP/1.")
                && digit.wrapping_sub(b'0') < 10
                && (end >> 8) as u16 == u16::from_le_bytes(*b"\r\n");
        }
    }
    false
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
    use crate::{
        CHUNK,
        protocol::automaton::{REQUEST_FIRST, run},
    };
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
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n", bit::HTTP1),
            (b"PROXY UNKNOWN\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bit::PREFACE),
            (b"PROXY UNKNOWN\r\n\x16\x03\x01\x02\x00\x01\x00", bit::TLS),
            (b"PROPFIND / HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"PROXIES / HTTP/1.1\r\n", bit::HTTP1 | bit::OTHER_METHOD),
            (b"PROXY \x01", bit::UNKNOWN),
            (b"\r\n\r\n\0\r\nQUIT\n\x21", bit::PROXY),
            (b"\r\n\r\n\0\r\nQUIX", bit::UNKNOWN),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", bit::HTTP1),
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

    #[test]
    fn request_lines() {
        for (line, is_one) in [
            (&b"GET / HTTP/1.1\r\n"[..], true),
            (b"GET /index?x=1&y=%20#\xc3\xbf HTTP/1.0\r\n", true),
            (b"GET  HTTP/1.1\r\n", true),
            (b"GET / HTTP/1.1\n", false),
            (b"GET /\x7f HTTP/1.1\r\n", false),
            (b"GET /\n HTTP/1.1\r\n", false),
            (b"GET / x HTTP/1.1\r\n", false),
            (b"GET / HTTP/2.0\r\n", false),
            (b"GET / HTTP/1.x\r\n", false),
            (b"GET / HTTP/1.1 \r\n", false),
            (b"GET /", false),
        ] {
            assert_eq!(
                is_request_line(&words(line)),
                is_one,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
        // At every place in a word, up to the longest line that is looked at.
        for target in 0..LINE_WORDS * 8 + 8 {
            let line = ["GET /", &"a".repeat(target), " HTTP/1.1\r\nHost: b\r\n\r\n"].concat();
            let is_one = 5 + target < LINE_WORDS * 8;
            assert_eq!(is_request_line(&words(line.as_bytes())), is_one, "{target}");
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
        fn a_plain_first_request_is_what_the_automaton_finds(
            target in prop_oneof![
                "[!-~]{0,140}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..9),
            ],
            end in prop_oneof!["", " HTTP/1\\.[0-9]", " HTTP/[0-9.]{0,3}", " [ -~]{0,9}"],
            rest in prop_oneof!["\r\n", "\r\nHost: a\r\n", "\n", "[ -~\r\n]{0,20}"],
        ) {
            let head = [b"GET ", target.as_slice(), end.as_bytes(), rest.as_bytes(), b"\r\n"].concat();
            if is_plain_get(&words(&head), head.len()) && is_request_line(&words(&head)) {
                prop_assert_eq!(
                    bits(REQUEST_FIRST, &head, 0),
                    (PLAIN_FIRST.state, PLAIN_FIRST.bits)
                );
            }
        }

        #[test]
        fn cuts_change_nothing(head in head(), cut in any::<prop::sample::Index>()) {
            let whole = bits(REQUEST_FIRST, &head, 0);
            prop_assert_eq!(bits(REQUEST_FIRST, &head, cut.index(head.len() + 1)), whole);
        }

        #[test]
        fn hostile_bytes_never_stall(bytes in prop::collection::vec(any::<u8>(), 0..5000), state in 0_u8..104, cut in any::<usize>()) {
            let _ = bits(state, &bytes, cut % (bytes.len() + 1));
            let length = bytes.len().min(511);
            let _ = is_plain_get(&words(&bytes[..length]), length);
        }
    }
}
