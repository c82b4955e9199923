use super::{
    counters::{Answer, To},
    *,
};
use crate::{
    counters::Counter,
    protocol::{
        Protocol,
        talk::{Talk, cuts},
    },
};

const ASK: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const FIN: End = End { is_error: false, by_client: true };
const RESET: End = End { is_error: true, by_client: true };

fn answers(talk: &Talk, to: To, answer: Answer) -> u64 {
    talk.count("UPGRADES", to as usize * Counter::places(&Answer::LABEL) + answer as usize)
}

/// All that was counted of upgrades.
fn all(talk: &Talk) -> u64 {
    let counts = talk.recorded.counts.iter();
    counts.filter(|(name, ..)| *name == "UPGRADES").map(|(.., count)| count).sum()
}

#[test]
fn upgrades_are_counted_by_their_answers_wherever_these_are_cut() {
    for (answer, expected) in [
        (SWITCHED, Answer::Switching),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", Answer::BadGateway),
        (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", Answer::UpgradeRequired),
        (b"HTTP/1.0 200 OK\r\n\r\n", Answer::Ok),
        (b"HTTP/1.1 418 I'm a teapot\r\n\r\n", Answer::ClientError),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 503 No\r\n\r\n",
            Answer::ServiceUnavailable,
        ),
    ] {
        cuts(answer, |first, second| {
            let mut talk = Talk::new();
            talk.client(ASK).server(first).server(second).end(FIN);
            assert_eq!(answers(&talk, To::WebSocket, expected), 1, "{first:?}");
            assert_eq!(all(&talk), 1, "{first:?}");
        });
        let mut talk = Talk::new();
        talk.client(ASK);
        for &byte in answer {
            talk.server(&[byte]);
        }
        assert_eq!((answers(&talk, To::WebSocket, expected), all(&talk)), (1, 1));
    }
}

#[test]
fn the_answer_is_the_one_to_the_request_that_asked() {
    let mut talk = Talk::new();
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    talk.client(&[&get[..], get, ASK].concat());
    talk.server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    talk.server(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(all(&talk), 0);
    talk.server(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answers(&talk, To::WebSocket, Answer::Forbidden), all(&talk)), (1, 1));
    // Refused, and asked again.
    talk.client(ASK).server(SWITCHED);
    assert_eq!((answers(&talk, To::WebSocket, Answer::Switching), all(&talk)), (1, 2));
    assert_eq!(talk.spoken, [Protocol::Http1, Protocol::WebSocket]);
}

#[test]
fn no_answer_is_one_too() {
    for (end, answer) in [(FIN, Answer::Closed), (RESET, Answer::Reset)] {
        let mut talk = Talk::new();
        assert!(!talk.client(ASK).end(end));
        assert_eq!((answers(&talk, To::WebSocket, answer), all(&talk)), (1, 1));
    }
}

#[test]
fn other_protocols_are_told_from_websocket() {
    let mut talk = Talk::new();
    talk.client(b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n");
    talk.server(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!((answers(&talk, To::Other, Answer::Switching), all(&talk)), (1, 1));
}

#[test]
fn what_asks_for_nothing_counts_nothing() {
    let quoted = [&b"POST / HTTP/1.1\r\nContent-Length: 80\r\n\r\n"[..], ASK].concat();
    for request in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &quoted] {
        let mut talk = Talk::new();
        talk.client(request).server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").end(FIN);
        assert_eq!(all(&talk), 0);
    }
    // The body of a POST comes in a segment of its own.
    let mut talk = Talk::new();
    talk.client(b"POST / HTTP/1.1\r\nContent-Length: 80\r\n\r\n").client(ASK);
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").end(FIN);
    assert_eq!(all(&talk), 0);
}

const CONNECT: &[u8] = b"CONNECT db:443 HTTP/1.1\r\nHost: db:443\r\n\r\n";
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n";

#[test]
fn what_is_inside_a_tunnel_is_recognised_wherever_the_answer_is_cut() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for (inside, speaks) in [
        (&hello[..], &[Protocol::Tls][..]),
        (preface, &[Protocol::Http2]),
        (get, &[Protocol::Http1]),
        (b"SSH-2.0-x\r\n", &[]),
    ] {
        let expected = [&[Protocol::Http1, Protocol::Upgrade][..], speaks].concat();
        cuts(ESTABLISHED, |first, second| {
            let mut talk = Talk::new();
            talk.client(CONNECT).server(first).server(second).client(inside);
            assert_eq!(talk.spoken, expected, "cut at {}", first.len());
        });
        cuts(CONNECT, |first, second| {
            let mut talk = Talk::new();
            talk.client(first).client(second).server(ESTABLISHED).client(inside);
            assert_eq!(talk.spoken, expected, "the request is cut at {}", first.len());
        });
        // Sent before the answer has come.
        let mut talk = Talk::new();
        talk.client(&[CONNECT, inside].concat()).server(ESTABLISHED);
        assert_eq!((talk.spoken, all(&Talk::new())), (expected, 0));
    }
    let mut talk = Talk::new();
    talk.client(CONNECT).server(ESTABLISHED).client(ASK).server(SWITCHED);
    let expected = [Protocol::Http1, Protocol::Upgrade, Protocol::Http1, Protocol::WebSocket];
    assert_eq!(talk.spoken, expected);
}

#[test]
fn a_tunnel_that_is_refused_is_none() {
    let mut talk = Talk::new();
    talk.client(CONNECT).server(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    talk.client(CONNECT).server(ESTABLISHED).client(ASK);
    assert_eq!(talk.spoken, [Protocol::Http1, Protocol::Upgrade, Protocol::Http1]);
    assert_eq!(all(&talk), 0);
}

#[test]
fn an_upgrade_may_be_asked_for_by_any_method_in_a_later_request() {
    let exec =
        b"POST /api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\n\
                 Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let get = b"GET / HTTP/1.1\r\nHost: k\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: k\r\nContent-Length: 7\r\n\r\nPOSTED\n";
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for before in [&b""[..], get, post] {
        let mut talk = Talk::new();
        if !before.is_empty() {
            talk.client(before).server(ok);
        }
        talk.client(exec).server(switched);
        assert_eq!(talk.spoken, [Protocol::Http1, Protocol::Upgrade], "{before:?}");
    }
}
