//! HTTP/2 frames (RFC 9113 section 4.1), in both directions of a connection: the streams that a client opens, `RST_STREAM` and
//! GOAWAY with their codes, and whether a request is gRPC ([`content_type`]).
//!
//! A client's preface is a claim. The server agrees by the SETTINGS that it begins with; only then a connection is taken for
//! gRPC. What a server sends instead is a mismatch.

mod content_type;
pub mod counters;
mod guess;
#[cfg(test)]
mod tests;

pub use guess::Http2Guess;

use counters::{ErrorCode, GOAWAYS, STREAM_RESETS, STREAMS};

use super::{
    Protocol,
    facts::Facts,
    mode,
    parse::{Outcome, Parse},
};
use crate::{
    automaton::Run,
    framing::{Framing, Header, LEAVES, Stretch, follow, min},
    recorder::Recorder,
    source::Source,
    stream::{Parser, STOPS, flag, order},
};

// Parser::state
/// A frame header comes next.
const FRAME: u8 = 0;
/// The first of a server's.
const FIRST: u8 = 1;
/// A payload of GOAWAY: the last stream, then the code.
const GOAWAY: u8 = STOPS;
/// A header block that has to be searched.
const BLOCK: u8 = STOPS | LEAVES;
/// What the server sends is no HTTP/2.
const ALIEN: u8 = LEAVES;

// Parser::granted
/// Header blocks are searched for the content type of gRPC.
const SEARCHES: u8 = 1;
/// The stream is the client's.
const REQUESTS: u8 = 2;
/// The server's SETTINGS have come, and that is not concluded yet.
const SETTLED: u8 = 4;
/// Something else has come, likewise; above it what it is.
const ALIENATED: u8 = 8;
/// Where the [`Protocol`] stands.
const ACTUAL_SHIFT: u8 = 4;

// Parser::scratch
/// State of the search.
const SEARCH: usize = 0;
/// The number of the last stream that was opened, its lower half.
const LAST: usize = 1;

// Facts::said
/// A request was gRPC.
const GRPC: u8 = 1;
/// The server has begun with SETTINGS.
const AGREED: u8 = 2;

/// A frame header and the code of `RST_STREAM`.
const HEADER: u32 = FRAME_HEADER + 4;
const FRAME_HEADER: u32 = 9;
/// The last stream and the code of GOAWAY.
const GOAWAY_FIELDS: u32 = 8;

// Types of frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY_FRAME: u8 = 7;
const CONTINUATION: u8 = 9;
/// Flag of SETTINGS.
const ACK: u8 = 1;

/// Begins right behind the connection preface, in the client's stream.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.begin(mode::HTTP2, FRAME, flag::FRAMES);
    parser.granted = REQUESTS | SEARCHES;
}

/// Goes on in mid-stream, `left` bytes before a frame's end: in the client's stream, or in the server's.
#[inline(always)]
pub const fn take_up(parser: &mut Parser, is_clients: bool, left: u64) {
    parser.begin(mode::HTTP2, FRAME, flag::FRAMES);
    parser.granted = if is_clients { REQUESTS | SEARCHES } else { 0 };
    parser.left = left;
}

/// A connection whose frames were found in both directions: the server speaks HTTP/2.
#[inline(always)]
pub const fn agreed(facts: &mut Facts) {
    facts.said |= AGREED;
}

/// Of the response stream: a server's frames come.
pub const ANSWER: u32 = order::of(mode::HTTP2, FIRST, flag::FRAMES, mode::HEADS);

/// Begins with a server's frames, of which the first byte has been read: it was 0.
#[inline(always)]
pub const fn start_answer(parser: &mut Parser, read: u8) {
    parser.begin(mode::HTTP2, FIRST, flag::FRAMES);
    parser.header = [0; 2];
    parser.pos = read;
}

/// The framing, and its parser.
#[derive(Debug)]
pub enum Http2 {}

/// What an element says, as bits; above them a code, or the lower half of a stream's number.
mod bit {
    /// HEADERS.
    pub(super) const HEADERS: u32 = 1;
    /// `RST_STREAM`.
    pub(super) const RESET: u32 = 1 << 1;
    /// The fields of GOAWAY.
    pub(super) const GOAWAY: u32 = 1 << 2;
    /// What a server begins with; what is told of it stands as in [`Parser::granted`](super::Parser::granted).
    pub(super) const FIRST: u32 = 1 << 3;
    /// Where a code or a number stands.
    pub(super) const VALUE_SHIFT: u32 = 8;
}

impl Framing for Http2 {
    const HEADER: u32 = HEADER;
    const STATES: bool = true;
    type Event = u32;
    /// What is told goes through the parser: the verifier would follow the loop once for each sum.
    type Tally = ();

    #[inline(always)]
    fn read(parser: &Parser, [low, high]: [u64; 2], available: u32) -> Option<Header<u32>> {
        if parser.state == GOAWAY {
            if available < GOAWAY_FIELDS {
                return None;
            }
            let payload = parser.left.wrapping_sub(u64::from(GOAWAY_FIELDS));
            let event = bit::GOAWAY | code((low >> 32) as u32);
            return Some(Header { length: GOAWAY_FIELDS, payload, state: FRAME, event });
        }
        if available < FRAME_HEADER {
            return None;
        }
        if parser.state == FIRST {
            return Some(first(low, high));
        }
        let (payload, kind) = (length(low), (low >> 24) as u8);
        if kind == RST_STREAM && payload == 4 {
            if available < HEADER {
                return None;
            }
            let event = bit::RESET | code((high >> 8) as u32);
            return Some(Header { length: HEADER, payload: 0, state: FRAME, event });
        }
        let mut header = Header { length: FRAME_HEADER, payload, state: FRAME, event: 0 };
        if kind == GOAWAY_FRAME && payload >= u64::from(GOAWAY_FIELDS) {
            header.state = GOAWAY;
        } else if kind == HEADERS || kind == CONTINUATION {
            if parser.granted & SEARCHES != 0 && payload != 0 {
                header.state = BLOCK;
            }
            if kind == HEADERS {
                // Bytes 7 and 8 are the lower half of the stream's number.
                let stream = ((low >> 56) << 8 | (high & 0xff)) as u32;
                header.event = bit::HEADERS | stream << bit::VALUE_SHIFT;
            }
        }
        Some(header)
    }

    #[inline(always)]
    fn take((): &mut (), parser: &mut Parser, event: u32, recorder: &mut impl Recorder) {
        let value = event >> bit::VALUE_SHIFT;
        if event & bit::HEADERS != 0 {
            parser.scratch[SEARCH] = content_type::START;
            let last = u16::from_le_bytes([parser.scratch[LAST], parser.scratch[LAST + 1]]);
            // Streams are opened in the order of their numbers; what comes for an open one are trailers.
            if parser.granted & REQUESTS != 0 && (value as u16).wrapping_sub(last).cast_signed() > 0
            {
                [parser.scratch[LAST], parser.scratch[LAST + 1]] = (value as u16).to_le_bytes();
                recorder.add(&STREAMS, 0, 1);
            }
        } else if event & (bit::RESET | bit::GOAWAY) != 0 {
            let combination = 2 * (value as usize & 15) + recorder.direction();
            if event & bit::RESET != 0 {
                recorder.add(&STREAM_RESETS, combination, 1);
            } else {
                recorder.add(&GOAWAYS, combination, 1);
            }
        } else if event & bit::FIRST != 0 {
            parser.granted |= value as u8;
        }
    }
}

/// The payload's length: the first three bytes.
#[inline(always)]
const fn length(low: u64) -> u64 {
    (((low as u32) << 8).swap_bytes()) as u64
}

/// An error code as its four bytes stand, as a value of an event.
#[inline(always)]
const fn code(bytes: u32) -> u32 {
    let code = bytes.swap_bytes();
    // By arithmetic: a choice would be two ways for the verifier.
    (min(code as u64, ErrorCode::Other as u64) as u32) << bit::VALUE_SHIFT
}

/// What a server begins with: SETTINGS, or something else.
#[inline(always)]
const fn first(low: u64, high: u64) -> Header<u32> {
    const TEXT: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
    let payload = length(low);
    // Type, flags but for ACK, and stream 0.
    let settings = (low >> 24) as u8 == SETTINGS
        && (low >> 32) as u8 & ACK == 0
        && low >> 40 == 0
        && high as u8 == 0
        && payload.is_multiple_of(6);
    if settings {
        let event = bit::FIRST | (SETTLED as u32) << bit::VALUE_SHIFT;
        return Header { length: FRAME_HEADER, payload, state: FRAME, event };
    }
    // An alert of TLS, any version.
    let actual = if low & (u64::MAX >> 8) == TEXT {
        Protocol::Http1
    } else if low & 0xffff == 0x0315 {
        Protocol::Tls
    } else {
        Protocol::Tcp
    };
    let told = ALIENATED | (actual as u8) << ACTUAL_SHIFT;
    let event = bit::FIRST | (told as u32) << bit::VALUE_SHIFT;
    Header { length: FRAME_HEADER, payload: 0, state: ALIEN, event }
}

impl Parse for Http2 {
    /// What the first frame of a server has told: [`SETTLED`] or [`ALIENATED`], or 0.
    type Found = u8;

    const FRAMES: usize = 96;

    #[inline(always)]
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        stretch: Stretch,
        recorder: &mut impl Recorder,
    ) -> Option<u8> {
        recorder.hold();
        follow::<Self>(source, parser, &mut (), stretch, recorder);
        if parser.state == BLOCK {
            parser.mode = mode::HTTP2_BLOCK;
        }
        Some(parser.granted & !(SEARCHES | REQUESTS))
    }

    #[inline(always)]
    fn is_news(told: &u8) -> bool {
        *told != 0
    }

    #[inline(always)]
    fn conclude(told: &u8, _: bool, parser: &mut Parser, facts: &mut Facts) -> Outcome {
        let mut outcome = Outcome::default();
        parser.granted &= SEARCHES | REQUESTS;
        if told & SETTLED != 0 {
            facts.said |= AGREED;
            agree(facts);
            return outcome;
        }
        parser.mode = mode::OFF;
        // Without the client's preface it was never expected.
        if facts.protocol == Protocol::Http2 as u8 {
            outcome.order = order::STOP;
            outcome.news = u32::from(*told);
        }
        outcome
    }

    #[inline(always)]
    fn record(_: u8, news: u32, recorder: &mut impl Recorder) {
        if news != 0 {
            recorder.mismatch((news >> ACTUAL_SHIFT & 7) as u8);
        }
    }
}

/// The parser of header blocks, as long as they are searched.
#[derive(Debug)]
pub enum HeaderBlock {}

impl Parse for HeaderBlock {
    type Found = Run;

    #[inline(always)]
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        _: Stretch,
        _: &mut impl Recorder,
    ) -> Option<Run> {
        let limit = min(parser.left, u64::from(u32::MAX)) as u32;
        source.run(&content_type::AUTOMATON, parser.scratch[SEARCH], 0, limit)
    }

    #[inline(always)]
    fn is_news(_: &Run) -> bool {
        true
    }

    #[inline(always)]
    fn conclude(run: &Run, _: bool, parser: &mut Parser, facts: &mut Facts) -> Outcome {
        parser.left -= u64::from(run.at);
        parser.scratch[SEARCH] = run.state;
        if run.bits != 0 {
            facts.said |= GRPC;
            parser.granted &= !SEARCHES;
            agree(facts);
        }
        if run.bits != 0 || parser.left == 0 {
            parser.mode = mode::HTTP2;
            parser.state = FRAME;
        }
        Outcome { consumed: run.at, ..Outcome::default() }
    }

    #[inline(always)]
    fn record(_: Run, _: u32, _: &mut impl Recorder) {}
}

/// The connection is gRPC once a request is, and the server speaks HTTP/2.
#[inline(always)]
const fn agree(facts: &mut Facts) {
    if facts.protocol == Protocol::Http2 as u8 && facts.said & (GRPC | AGREED) == GRPC | AGREED {
        facts.protocol = Protocol::Grpc as u8;
    }
}

/// What the stored states mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let states =
        [FRAME, FIRST, GOAWAY, BLOCK, ALIEN, SEARCHES, REQUESTS, SETTLED, ALIENATED, GRPC, AGREED];
    content_type::AUTOMATON.meaning(hash.bytes(&states)).words(&[ANSWER])
}
