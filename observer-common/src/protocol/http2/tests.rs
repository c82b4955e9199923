use proptest::prelude::*;

use super::{counters::ErrorCode, *};
use crate::{
    label::Direction,
    protocol::talk::{Talk, cuts},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const RECEIVED: usize = Direction::Received as usize;
const SENT: usize = Direction::Sent as usize;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn headers(stream: u32, content_type: &[u8]) -> Vec<u8> {
    let mut block = b"\x83\x86\x45\x04/a/b\x5f".to_vec();
    block.push(content_type.len() as u8);
    block.extend(content_type);
    frame(HEADERS, 4, stream, &block)
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn goaway(code: u32, debug: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 0, 0, 3];
    payload.extend(code.to_be_bytes());
    payload.extend(debug);
    frame(GOAWAY_FRAME, 0, 0, &payload)
}

const GRPC_TYPE: &[u8] = b"application/grpc";
const H2_GRPC: [Protocol; 2] = [Protocol::Http2, Protocol::Grpc];

#[test]
fn resets_and_goaways_are_counted_wherever_they_are_cut() {
    let client =
        [PREFACE, &settings(), &headers(1, GRPC_TYPE), &headers(3, GRPC_TYPE), &reset(1, 8)]
            .concat();
    let trailers = frame(HEADERS, 5, 1, b"\x88");
    let server = [
        settings(),
        trailers,
        reset(1, 2),
        reset(3, 8),
        goaway(11, b"too_many_pings"),
        frame(0, 0, 3, &[0; 300]),
        goaway(0, b""),
        reset(5, 77),
    ]
    .concat();
    let check = |talk: &Talk| {
        assert_eq!(talk.spoken, H2_GRPC);
        let resets = |code, direction| talk.count("STREAM_RESETS", 2 * code as usize + direction);
        assert_eq!(resets(ErrorCode::Cancel, RECEIVED), 1);
        assert_eq!(resets(ErrorCode::Cancel, SENT), 1);
        assert_eq!(resets(ErrorCode::InternalError, SENT), 1);
        assert_eq!(resets(ErrorCode::Other, SENT), 1);
        let goaways = |code| talk.count("GOAWAYS", 2 * code as usize + SENT);
        assert_eq!((goaways(ErrorCode::EnhanceYourCalm), goaways(ErrorCode::NoError)), (1, 1));
        assert_eq!(talk.count("STREAMS", 0), 2);
    };
    cuts(&server, |first, second| {
        let mut talk = Talk::new();
        talk.client(&client).server(first).server(second);
        check(&talk);
    });
    cuts(&client, |first, second| {
        let mut talk = Talk::new();
        // A server may begin before the client.
        talk.server(&server).client(first).client(second);
        check(&talk);
    });
    let mut talk = Talk::new();
    for &byte in &client {
        talk.client(&[byte]);
    }
    for &byte in &server {
        talk.server(&[byte]);
    }
    check(&talk);
}

#[test]
fn a_connection_is_grpc_once_a_request_is_and_the_server_agrees() {
    for (content_type, spoken) in [
        (GRPC_TYPE, &H2_GRPC[..]),
        (b"application/grpc+proto", &H2_GRPC),
        (b"application/grpc-web", &H2_GRPC[..1]),
        (b"text/html", &H2_GRPC[..1]),
    ] {
        let mut talk = Talk::new();
        let client = [PREFACE, &settings(), &headers(1, content_type)].concat();
        talk.client(&client);
        assert_eq!(talk.spoken, [Protocol::Http2], "a claim is no fact");
        talk.server(&settings());
        assert_eq!(talk.spoken, spoken);
        // A later request may be gRPC, too.
        talk.client(&headers(3, GRPC_TYPE));
        assert_eq!(talk.spoken, H2_GRPC);
    }
}

#[test]
fn a_header_block_may_be_cut_into_frames() {
    let block = b"\x83\x86\x45\x04/a/b\x5f\x10application/grpc";
    cuts(block, |first, second| {
        let frames = [frame(HEADERS, 0, 1, first), frame(CONTINUATION, 4, 1, second)].concat();
        cuts(&frames, |one, other| {
            let mut talk = Talk::new();
            talk.client(PREFACE).client(one).client(other).server(&settings());
            assert_eq!(talk.spoken, H2_GRPC, "{first:?} {one:?}");
        });
    });
}

#[test]
fn another_answer_is_a_mismatch() {
    let client = [PREFACE, &settings(), &headers(1, GRPC_TYPE)].concat();
    for (answer, actual) in [
        (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], Protocol::Http1),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n<html>", Protocol::Http1),
        (b"\x15\x03\x01\x00\x02\x02\x46 and more", Protocol::Tls),
        (b"-ERR unknown command 'PRI'\r\n", Protocol::Tcp),
    ] {
        cuts(answer, |first, second| {
            let mut talk = Talk::new();
            talk.client(&client).server(first).server(second).client(&headers(3, GRPC_TYPE));
            assert_eq!(talk.spoken, [Protocol::Http2]);
            assert_eq!(talk.recorded.mismatches, [actual as u8], "{first:?}");
            assert_eq!(talk.recorded.counts, [("STREAMS", 0, 1)]);
        });
    }
}

#[test]
fn what_begins_with_a_zero_is_not_http2_for_that() {
    let mut talk = Talk::new();
    talk.server(&[0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9]).client(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        (&talk.spoken[..], &talk.recorded.mismatches[..]),
        (&[Protocol::Http1][..], &[][..])
    );
}

proptest! {
    #[test]
    fn any_frames_are_counted_exactly(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..9, 0_usize..40, 0_u32..20), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (mut bytes, mut resets, mut goaways) = (settings(), [0; 15], [0; 15]);
        for (kind, flags, stream, length, code) in frames {
            let known = (code as usize).min(14);
            bytes.extend(match kind {
                RST_STREAM => {
                    resets[known] += 1;
                    reset(stream, code)
                }
                GOAWAY_FRAME => {
                    goaways[known] += 1;
                    goaway(code, &vec![0xff; length])
                }
                kind => frame(kind, flags, stream, &vec![0; length]),
            });
        }
        let mut talk = Talk::new();
        talk.client(PREFACE);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            talk.server(&bytes[at..end]);
            at = end;
        }
        for code in 0..15 {
            prop_assert_eq!(talk.count("STREAM_RESETS", 2 * code + SENT), resets[code]);
            prop_assert_eq!(talk.count("GOAWAYS", 2 * code + SENT), goaways[code]);
        }
    }

    #[test]
    fn hostile_bytes_never_stall(
        client in prop::collection::vec(any::<u8>(), 0..300),
        server in prop::collection::vec(any::<u8>(), 0..300),
        settled in any::<bool>(),
    ) {
        let mut talk = Talk::new();
        talk.client(PREFACE);
        if settled {
            talk.server(&settings());
        }
        talk.client(&client).server(&server).client(&client);
    }
}
