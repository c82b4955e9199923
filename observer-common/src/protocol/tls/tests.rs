use proptest::prelude::*;

use super::*;
use crate::{
    label::Direction,
    protocol::talk::{Talk, cuts},
};

const END: End = End { is_error: false, by_client: true };

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((payload.len() as u16).to_be_bytes());
    record.extend(payload);
    record
}

/// A handshake message of this type that fills its record.
fn message(kind: u8, length: usize) -> Vec<u8> {
    let mut payload = vec![kind];
    payload.resize(length, 0);
    record(HANDSHAKE, &payload)
}

fn hello() -> Vec<u8> {
    message(1, 517)
}

fn changed() -> Vec<u8> {
    record(CHANGE_CIPHER_SPEC, &[1])
}

fn handshakes(talk: &Talk) -> [u64; 4] {
    [Handshake::Completed, Handshake::Alert, Handshake::Mismatch, Handshake::Closed]
        .map(|outcome| talk.count("HANDSHAKES", outcome as usize))
}

/// The answers of servers, and what clients say then, of TLS 1.3 and 1.2.
fn completed() -> [(Vec<u8>, Vec<u8>); 3] {
    let data = |length: usize| record(APPLICATION_DATA, &vec![7; length]);
    [
        (
            [message(2, 122), changed(), data(23), data(900), data(69)].concat(),
            [changed(), data(69)].concat(),
        ),
        // Without the records that are there for middle boxes only.
        ([message(2, 122), data(1000)].concat(), [data(53), data(40)].concat()),
        (
            [message(2, 80), message(11, 900), message(14, 4), changed(), message(200, 40)]
                .concat(),
            [message(16, 70), changed(), message(77, 40)].concat(),
        ),
    ]
}

#[test]
fn handshakes_complete_wherever_they_are_cut() {
    for (server, client) in completed() {
        cuts(&server, |first, second| {
            let mut talk = Talk::new();
            talk.client(&hello()).server(first).server(second);
            assert_eq!(handshakes(&talk), [0; 4]);
            talk.client(&client).end(END);
            assert_eq!(handshakes(&talk), [1, 0, 0, 0]);
            assert_eq!(talk.spoken, [Protocol::Tls]);
        });
        cuts(&[hello(), client.clone()].concat(), |first, second| {
            let mut talk = Talk::new();
            talk.client(first).client(second).server(&server).end(END);
            assert_eq!(handshakes(&talk), [1, 0, 0, 0], "{first:?}");
            assert_eq!(talk.recorded.counts.len(), 1);
        });
    }
}

#[test]
fn a_second_hello_is_no_end() {
    let mut talk = Talk::new();
    talk.client(&hello()).server(&[message(2, 88), changed()].concat());
    talk.client(&[changed(), hello()].concat()).end(END);
    assert_eq!(handshakes(&talk), [0, 0, 0, 1]);
}

#[test]
fn alerts_say_why() {
    let alert = |description| record(ALERT, &[2, description]);
    let encrypted = record(APPLICATION_DATA, &[0; 19]);
    let flight = [message(2, 122), record(APPLICATION_DATA, &[0; 1000])].concat();
    for (server, client, description, direction) in [
        (alert(40), vec![], Description::HandshakeFailure, Direction::Sent),
        (alert(112), vec![], Description::UnrecognizedName, Direction::Sent),
        (
            [message(2, 80), message(11, 900)].concat(),
            alert(48),
            Description::UnknownCa,
            Direction::Received,
        ),
        (flight, encrypted, Description::Encrypted, Direction::Received),
    ] {
        cuts(&server, |first, second| {
            let mut talk = Talk::new();
            talk.client(&hello()).server(first).server(second).client(&client).end(END);
            assert_eq!(handshakes(&talk), [0, 1, 0, 0], "{description:?} {first:?}");
            let combination = 2 * description as usize + direction as usize;
            assert_eq!(talk.count("ALERTS", combination), 1, "{description:?}");
        });
    }
}

#[test]
fn what_is_no_tls_is_a_mismatch() {
    for (answer, actual) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Protocol::Http1),
        (b"SSH-2.0-OpenSSH_9\r\n", Protocol::Tcp),
    ] {
        cuts(answer, |first, second| {
            let mut talk = Talk::new();
            talk.client(&hello()).server(first).server(second).end(END);
            assert_eq!(handshakes(&talk), [0, 0, 1, 0], "{first:?}");
            assert_eq!(talk.recorded.mismatches, [actual as u8]);
        });
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_stall(
        client in prop::collection::vec(any::<u8>(), 0..300),
        server in prop::collection::vec(any::<u8>(), 0..300),
        answered in any::<bool>(),
    ) {
        let mut talk = Talk::new();
        talk.client(&hello());
        if answered {
            talk.server(&message(2, 100));
        }
        talk.server(&server).client(&client).server(&server).end(END);
        prop_assert_eq!(handshakes(&talk).into_iter().sum::<u64>(), 1);
    }
}
