//! TLS records (RFC 8446 section 5.1, RFC 5246 section 6.2), from the `ClientHello` until both sides are done with the handshake:
//! whether it completes, is broken off by an alert, or is answered by something else than TLS.
//!
//! A side is done with the handshake at its first encrypted record. From TLS 1.3 on that has the type of application data; in
//! TLS 1.2 it is the Finished behind `ChangeCipherSpec`. The alert of a TLS 1.3 client that does not accept the certificate is
//! encrypted as well, and told by its length: nothing else is so short.

pub mod counters;
mod guess;
#[cfg(test)]
mod tests;

pub use guess::TlsGuess;

use counters::{ALERTS, Description, HANDSHAKES, Handshake};

use super::{
    Protocol,
    facts::Facts,
    mode,
    parse::{End, Outcome, Parse},
};
use crate::{
    framing::{Framing, Header, LEAVES, Stretch, follow},
    recorder::Recorder,
    source::Source,
    stream::{Parser, flag, order},
};

// Parser::state
/// A record comes next.
const RECORD: u8 = 0;
/// The first of a server's.
const FIRST: u8 = 1;
/// `ChangeCipherSpec` has come: what follows is encrypted.
const CHANGED: u8 = 2;
/// No record of TLS.
const ALIEN: u8 = LEAVES;

// Facts::said
/// The client has begun with a `ClientHello`.
const HELLO: u8 = 1;
/// The client is done with the handshake.
const CLIENT_DONE: u8 = 2;
/// The server is.
const SERVER_DONE: u8 = 4;
/// One of them has sent an alert.
const ALERTED: u8 = 8;
/// What the handshake has come to is counted.
const OVER: u8 = 16;

/// A record's header, and an alert.
const HEADER: u32 = RECORD_HEADER + ALERT_LENGTH;
const RECORD_HEADER: u32 = 5;
const ALERT_LENGTH: u32 = 2;

// Types of records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// An alert of TLS 1.3: two bytes, the type that is hidden, and the tag of any of its ciphers but `CCM_8`.
const ENCRYPTED_ALERT: u64 = 19;
/// The longest Finished of TLS 1.2, with CBC; a second `ClientHello`, which may come behind `ChangeCipherSpec`, is longer.
const LONGEST_FINISHED: u64 = 96;

/// Begins in the client's stream, behind the sixth byte of its `ClientHello`, which is the first of the record's payload; facts take
/// note of it.
#[inline(always)]
pub const fn start(parser: &mut Parser, facts: &mut Facts, recent: u64) {
    parser.begin(mode::TLS, RECORD, flag::FRAMES);
    parser.left = (recent >> 8 & 0xffff).saturating_sub(1);
    facts.said = HELLO;
}

/// Of the response stream: a server's records come.
pub const ANSWER: u32 = order::of(mode::TLS, FIRST, flag::FRAMES, mode::HEADS);

/// The framing, and its parser.
#[derive(Debug)]
pub enum Tls {}

// Parser::scratch
/// What the server speaks instead of TLS, its [`Protocol`]; in [`Parser::granted`] are the [`bit`]s of the records of a run.
const ACTUAL: usize = 0;

/// What a record says, as bits; above them the [`Description`] of an alert, or what it is instead of TLS.
mod bit {
    /// The side is done with the handshake.
    pub(super) const DONE: u32 = 1;
    /// An alert.
    pub(super) const ALERT: u32 = 1 << 1;
    /// The server has answered with something else than TLS.
    pub(super) const MISMATCH: u32 = 1 << 2;
    /// No record of TLS.
    pub(super) const ALIEN: u32 = 1 << 3;
    /// Where the [`Description`](super::Description) stands.
    pub(super) const DESCRIPTION_SHIFT: u32 = 8;
    /// Where the [`Protocol`](super::Protocol) stands.
    pub(super) const ACTUAL_SHIFT: u32 = 16;
}

impl Framing for Tls {
    const HEADER: u32 = HEADER;
    const STATES: bool = true;
    type Event = u32;
    /// What is told goes through the parser: the verifier would follow the loop once for each sum.
    type Tally = ();

    #[inline(always)]
    fn read(parser: &Parser, [low, _]: [u64; 2], available: u32) -> Option<Header<u32>> {
        if available < RECORD_HEADER {
            return None;
        }
        let (kind, major) = (low as u8, (low >> 8) as u8);
        let payload = u64::from(((low >> 24) as u16).swap_bytes());
        let mut header = Header { length: RECORD_HEADER, payload, state: RECORD, event: 0 };
        if major != 3 || !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) {
            header.event = bit::ALIEN;
            if parser.state == FIRST {
                header.event |= bit::MISMATCH | actual(low) << bit::ACTUAL_SHIFT;
            }
            (header.payload, header.state) = (0, ALIEN);
        } else if kind == ALERT && payload == u64::from(ALERT_LENGTH) {
            if available < HEADER {
                return None;
            }
            let description = Description::of((low >> 48) as u8) as u32;
            header.event = bit::ALERT | description << bit::DESCRIPTION_SHIFT;
            (header.length, header.payload) = (HEADER, 0);
        } else if kind == CHANGE_CIPHER_SPEC {
            header.state = CHANGED;
        } else if kind == APPLICATION_DATA && payload == ENCRYPTED_ALERT {
            let description = Description::Encrypted as u32;
            header.event = bit::ALERT | description << bit::DESCRIPTION_SHIFT;
        } else if kind == APPLICATION_DATA
            || (kind == HANDSHAKE && parser.state == CHANGED && payload <= LONGEST_FINISHED)
        {
            header.event = bit::DONE;
        }
        Some(header)
    }

    #[inline(always)]
    fn take((): &mut (), parser: &mut Parser, event: u32, recorder: &mut impl Recorder) {
        if event & bit::ALERT != 0 && u32::from(parser.granted) & bit::DONE == 0 {
            let description = (event >> bit::DESCRIPTION_SHIFT) as usize & 31;
            recorder.add(&ALERTS, 2 * description + recorder.direction(), 1);
        }
        parser.granted |= event as u8;
        parser.scratch[ACTUAL] |= (event >> bit::ACTUAL_SHIFT) as u8;
    }
}

/// What the server speaks instead of TLS.
#[inline(always)]
const fn actual(low: u64) -> u32 {
    const TEXT: u64 = u64::from_le_bytes(*b"HTTP/\0\0\0");
    if low & (u64::MAX >> 24) == TEXT { Protocol::Http1 as u32 } else { Protocol::Tcp as u32 }
}

impl Parse for Tls {
    type Found = u32;

    const FRAMES: usize = 32;

    #[inline(always)]
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        stretch: Stretch,
        recorder: &mut impl Recorder,
    ) -> Option<u32> {
        recorder.hold();
        (parser.granted, parser.scratch[ACTUAL]) = (0, 0);
        follow::<Self>(source, parser, &mut (), stretch, recorder);
        let actual = u32::from(parser.scratch[ACTUAL]);
        Some(u32::from(parser.granted) | actual << bit::ACTUAL_SHIFT)
    }

    #[inline(always)]
    fn is_news(told: &u32) -> bool {
        *told != 0
    }

    #[inline(always)]
    fn conclude(told: &u32, is_request: bool, parser: &mut Parser, facts: &mut Facts) -> Outcome {
        let mut outcome = Outcome::default();
        if told & bit::ALERT != 0 {
            facts.said |= ALERTED;
        }
        if told & bit::DONE != 0 {
            facts.said |= if is_request { CLIENT_DONE } else { SERVER_DONE };
        }
        let done = CLIENT_DONE | SERVER_DONE;
        if told & bit::MISMATCH != 0 {
            outcome.news = told & !bit::DONE;
            facts.said |= OVER;
        } else if facts.said & (done | OVER | ALERTED) == done {
            outcome.news = bit::DONE;
            facts.said |= OVER;
        }
        // Nothing more is to be learned: of one side, or once the handshake is over, of both.
        if told & (bit::ALIEN | bit::DONE) != 0 {
            parser.mode = mode::OFF;
        }
        if outcome.news != 0 {
            outcome.order = order::STOP;
        }
        outcome
    }

    #[inline(always)]
    fn record(_: u32, news: u32, recorder: &mut impl Recorder) {
        if news & bit::MISMATCH != 0 {
            recorder.hold();
            recorder.add(&HANDSHAKES, Handshake::Mismatch as usize, 1);
            recorder.mismatch((news >> bit::ACTUAL_SHIFT & 7) as u8);
        } else if news != 0 {
            recorder.hold();
            recorder.add(&HANDSHAKES, Handshake::Completed as usize, 1);
        }
    }
}

/// A connection that speaks TLS has ended: its handshake may not have come to anything. What is an orderly end is encrypted.
#[inline(always)]
pub fn ended(facts: Facts, _: End, recorder: &mut impl Recorder) -> bool {
    if facts.said & (HELLO | OVER) == HELLO {
        let alerted = facts.said & ALERTED != 0;
        let outcome = if alerted { Handshake::Alert } else { Handshake::Closed };
        recorder.hold();
        recorder.add(&HANDSHAKES, outcome as usize, 1);
    }
    false
}

/// What the stored states mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let states = [RECORD, FIRST, CHANGED, ALIEN, HELLO, CLIENT_DONE, SERVER_DONE, ALERTED, OVER];
    hash.bytes(&states).words(&[ANSWER])
}
