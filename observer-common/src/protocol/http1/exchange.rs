//! What requests and responses of one connection say to each other: which response answers a request for an upgrade, and what
//! the connection is then.
//!
//! The two streams of a connection may be worked on at once, by two processors. Each has a parser of its own, which nobody else
//! touches; what both must know are the [`Facts`], one word, changed as a whole; and what one stream asks of the other is an
//! [`order`], which the other obeys before it reads on.

use super::{
    super::{
        Protocol,
        automaton::{REQUEST_FIRST, Run, bit},
        guess, http2, proxy, websocket,
    },
    REQUEST_BODY, RESPONSE_START, upgrade, upgrades,
};
use crate::{
    meaning::Meaning,
    stream::{Parser, flag, mode, order},
};

/// [`Facts::unanswered`] is not known. What asks for an upgrade may then be part of a body that quotes a request: only
/// the very next response can grant it.
pub const UNCOUNTED: u8 = u8::MAX;

/// What both streams of a connection know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// [`Protocol`].
    pub protocol: u8,
    /// [`upgrade`] bits that a request asked for and no response has answered.
    pub asked: u8,
    /// Requests since the last response segment, the one being read not included; their responses come first.
    /// [`UNCOUNTED`] when there was anything but `GET` heads.
    pub unanswered: u8,
    /// Final responses to come before the one to the request that asked for an upgrade.
    pub before_answer: u8,
    /// What the streams claim, of a connection that was adopted: [`guess::claim`].
    pub claims: [u8; 2],
    /// [`GUESSING`], or 0.
    pub guessing: u8,
}

/// In [`Facts::guessing`]: the connection was adopted, and what it speaks is not known yet. Whoever takes it away has settled
/// that, and counts it.
pub const GUESSING: u8 = 1;

impl Facts {
    /// From the word that the connection's state holds.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            protocol: word as u8,
            asked: (word >> 8) as u8,
            unanswered: (word >> 16) as u8,
            before_answer: (word >> 24) as u8,
            claims: [(word >> 40) as u8, (word >> 48) as u8],
            guessing: (word >> 56) as u8,
        }
    }

    /// As the connection's state holds them.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.protocol as u64
            | (self.asked as u64) << 8
            | (self.unanswered as u64) << 16
            | (self.before_answer as u64) << 24
            | (self.claims[0] as u64) << 40
            | (self.claims[1] as u64) << 48
            | (self.guessing as u64) << 56
    }

    /// The head of a request is over.
    #[inline(always)]
    pub const fn plain_request(&mut self) {
        if self.unanswered < UNCOUNTED - 1 {
            self.unanswered += 1;
        }
    }
}

/// What the word of the facts means.
pub(crate) const fn meaning(hash: Meaning) -> Meaning {
    let each = Facts {
        protocol: 1,
        asked: 2,
        unanswered: 3,
        before_answer: 4,
        claims: [5, 6],
        guessing: 7,
    };
    hash.number(each.word()).number(UNCOUNTED as u64)
}

/// What follows from a run of the automaton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The rest of the bytes at hand, behind where the run ended, have nothing to tell.
    pub rest_is_void: bool,
    /// What the other stream is to do: [`order`].
    pub order: u32,
}

/// A connection of which nothing has been seen: the parsers of both streams. Until the request stream decides, the response
/// may: its request can have been missed.
#[inline(always)]
#[must_use]
pub fn begin() -> [Parser; 2] {
    let parser = |state| Parser { mode: mode::HTTP1, state, ..Parser::default() };
    [parser(REQUEST_FIRST), parser(RESPONSE_START)]
}

/// What is known of a connection that is being adopted.
#[must_use]
pub const fn adopted() -> Facts {
    Facts {
        protocol: Protocol::Tcp as u8,
        asked: 0,
        unanswered: 0,
        before_answer: 0,
        claims: [0; 2],
        guessing: GUESSING,
    }
}

/// Draws the conclusions from a run over the request stream (`is_request`) or the response stream.
#[inline(always)]
pub fn conclude(is_request: bool, parser: &mut Parser, facts: &mut Facts, run: Run) -> Outcome {
    let outcome =
        if is_request { request(parser, facts, run) } else { response(parser, facts, run) };
    if facts.protocol != Protocol::Tcp as u8 {
        facts.guessing = 0;
    }
    outcome
}

#[inline(always)]
fn request(parser: &mut Parser, facts: &mut Facts, run: Run) -> Outcome {
    let mut outcome = Outcome { rest_is_void: false, order: order::NONE };
    parser.state = run.state;
    // Of a connection that was adopted the answer has to agree.
    if run.bits & bit::HTTP1 != 0 && facts.guessing == 0 {
        facts.protocol = Protocol::Http1 as u8;
        outcome.order = order::STOP;
    }
    if run.bits & bit::UPGRADES != 0 {
        if facts.asked == 0 {
            facts.before_answer = if facts.unanswered == UNCOUNTED { 0 } else { facts.unanswered };
        }
        facts.asked |= upgrades(run.bits);
        outcome.order = order::ANSWER;
    }
    if run.bits & bit::UNKNOWN != 0 && facts.guessing != 0 {
        guess::go_on(parser);
        return Outcome { rest_is_void: true, order: order::NONE };
    }
    if run.bits & (bit::TLS | bit::UNKNOWN) != 0 {
        if run.bits & bit::TLS != 0 {
            facts.protocol = Protocol::Tls as u8;
        }
        parser.mode = mode::OFF;
        return Outcome { rest_is_void: true, order: order::STOP };
    }
    if run.bits & bit::PREFACE != 0 {
        facts.protocol = Protocol::Http2 as u8;
        http2::start(parser);
        outcome.order = order::STOP;
    }
    if run.bits & bit::PROXY != 0 {
        proxy::start(parser);
    }
    if run.bits & (bit::OTHER_METHOD | bit::BODY) != 0 {
        facts.unanswered = UNCOUNTED;
    }
    if run.bits & bit::HEAD_END != 0 {
        // What comes behind a request for a WebSocket may be its first frame: that is known once the answer is.
        if facts.asked & upgrade::WEBSOCKET != 0 && facts.unanswered != UNCOUNTED {
            parser.mode = mode::WAIT;
        }
        facts.plain_request();
    }
    // Not a head that could ask for an upgrade: the rest of the segment is somebody's body.
    outcome.rest_is_void = run.bits & bit::BODY != 0;
    outcome
}

#[inline(always)]
fn response(parser: &mut Parser, facts: &mut Facts, run: Run) -> Outcome {
    let mut outcome = Outcome { rest_is_void: true, order: order::NONE };
    parser.state = run.state;
    if run.bits & bit::STATUS_101 != 0 {
        parser.flags |= flag::SWITCHING;
        parser.granted = 0;
    }
    if run.bits & bit::INTERIM != 0 {
        parser.flags |= flag::INTERIM;
    }
    if run.bits & bit::UPGRADES != 0 && parser.flags & flag::SWITCHING != 0 {
        parser.granted |= upgrades(run.bits);
    }
    if run.bits & bit::UNKNOWN != 0 {
        // Not the start of a response. With an upgrade pending this is the body of an earlier response (requests
        // were pipelined): the next segment may start the right one. Otherwise there is nothing to wait for.
        if facts.asked == 0 {
            parser.mode = mode::OFF;
        }
        parser.state = RESPONSE_START;
        return outcome;
    }
    if run.bits & bit::FINAL != 0 {
        // A status line without a recognised request before it: HTTP/1 all the same.
        if facts.protocol == Protocol::Tcp as u8 {
            facts.protocol = Protocol::Http1 as u8;
            outcome.order = order::RECOGNISED;
        }
        if facts.asked != 0 {
            if facts.before_answer != 0 {
                // The response to an earlier of several pipelined requests; the next starts in a segment of its own.
                facts.before_answer -= 1;
                parser.state = RESPONSE_START;
                return outcome;
            }
            outcome.order = order::REQUESTS;
        }
        facts.asked = 0;
        parser.mode = mode::OFF;
        return outcome;
    }
    outcome.rest_is_void = false;
    if run.bits & bit::HEAD_END != 0 {
        if parser.flags & flag::SWITCHING != 0 {
            outcome.order = switch(parser, facts);
        } else {
            // An interim response is over; the next head follows.
            parser.flags &= !flag::INTERIM;
            parser.state = RESPONSE_START;
        }
    }
    outcome
}

/// The head of a 101 is complete: the connection is now what the head named. What the request stream is to do.
#[inline(always)]
fn switch(parser: &mut Parser, facts: &mut Facts) -> u32 {
    facts.asked = 0;
    parser.flags &= !flag::SWITCHING;
    if parser.granted & upgrade::WEBSOCKET != 0 {
        facts.protocol = Protocol::WebSocket as u8;
        websocket::start(parser);
        return order::WEBSOCKET;
    }
    parser.mode = mode::OFF;
    if parser.granted & upgrade::H2C != 0 {
        facts.protocol = Protocol::Http2 as u8;
        // The client sends the connection preface next (RFC 7540 section 3.2).
        return order::PREFACE;
    }
    facts.protocol = Protocol::Upgrade as u8;
    order::STOP
}

/// Does what the other stream asks for.
#[inline(always)]
pub fn obey(parser: &mut Parser, order: u32) {
    match order {
        order::STOP => parser.mode = mode::OFF,
        order::ANSWER => {
            parser.mode = mode::HTTP1;
            parser.state = RESPONSE_START;
            parser.flags &= !(flag::SWITCHING | flag::INTERIM);
        }
        // One that was lost track of stays so.
        order::WEBSOCKET if parser.mode != mode::OFF => websocket::start(parser),
        order::PREFACE => {
            parser.mode = mode::HTTP1;
            parser.state = REQUEST_FIRST;
        }
        order::REQUESTS if parser.mode == mode::WAIT => {
            parser.mode = mode::HTTP1;
            parser.state = REQUEST_BODY;
        }
        order::RECOGNISED if parser.mode == mode::HTTP1 => parser.state = REQUEST_BODY,
        order::GUESSED_CLIENT => guess::take_up(parser, true),
        order::GUESSED_SERVER => guess::take_up(parser, false),
        _ => {}
    }
}

/// Bytes of a stream were missed; returns what the other stream is to do. The request stream then waits for the next head; the
/// response stream, when it was being read, for the next status line. Frame followers cannot find the next frame boundary and
/// give up.
#[inline(always)]
pub const fn resync(is_request: bool, parser: &mut Parser, protocol: u8) -> u32 {
    if parser.mode != mode::HTTP1 {
        parser.mode = mode::OFF;
        return order::NONE;
    }
    if is_request {
        parser.state = REQUEST_BODY;
        // The request that was missed may have asked for an upgrade: let the response tell.
        return if protocol == Protocol::Http1 as u8 { order::ANSWER } else { order::NONE };
    }
    parser.state = RESPONSE_START;
    parser.flags &= !(flag::SWITCHING | flag::INTERIM);
    order::NONE
}
