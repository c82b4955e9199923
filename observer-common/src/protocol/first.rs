//! What a client's first bytes say: an HTTP/1 request line, the HTTP/2 preface (RFC 9113 section 3.4), a TLS `ClientHello`
//! record (RFC 8446 section 5.1), or something else; each of them also behind the PROXY protocol.

use super::automaton::{
    E_HTTP1, E_OTHER_METHOD, E_PREFACE, E_PROXY, E_TLS, FIRST, FIRST_GET, METHOD, PREFACE_AT,
    PROXY_AT, PROXY_LINE, PROXY_LINE_AT, REQUEST_LINE_CR, TARGET, TLS_AT, Table, VERSION,
    VERSION_DIGIT, VERSION_END, chain, fill, methods,
};

/// The rows of a connection's start.
pub(super) const fn rows(mut t: Table) -> Table {
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
    proxy(t)
}

/// The PROXY protocol (`proxy-protocol.txt` of `HAProxy`), behind which the first bytes come.
const fn proxy(mut t: Table) -> Table {
    // Version 1 is a line; up to "PROXY " a deviation may still be an HTTP/1 method.
    t = methods(t, PROXY_LINE_AT, 3);
    t[PREFACE_AT as usize + 1][b'O' as usize] = PROXY_LINE_AT;
    t = chain(t, PROXY_LINE_AT, b"XY ", PROXY_LINE, false);
    let mut b = 0x20;
    while b < 0x7f {
        t[PROXY_LINE as usize][b] = PROXY_LINE;
        b += 1;
    }
    t[PROXY_LINE as usize][b'\r' as usize] = PROXY_LINE;
    t[PROXY_LINE as usize][b'\n' as usize] = FIRST;

    // Version 2 is binary; its first four bytes are line breaks, which may also come before a request.
    t[FIRST as usize][b'\r' as usize] = PROXY_AT;
    let mut row = PROXY_AT as usize;
    while row < PROXY_AT as usize + 4 {
        t[row] = t[FIRST as usize];
        row += 1;
    }
    chain(t, PROXY_AT, b"\n\r\n\0\r\nQUIT\n", E_PROXY, false)
}
