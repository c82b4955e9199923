//! What requests and responses of one connection say to each other: which response answers a request for an upgrade, and what
//! the connection is then.
//!
//! The two streams of a connection may be worked on at once, by two processors. Each has a parser of its own, which nobody else
//! touches; what both must know are the [`Facts`]; and what one stream asks of the other is an
//! [`order`], which the other obeys before it reads on.

use super::{
    super::{
        Protocol,
        automaton::{REQUEST_FIRST, Run, bit},
        facts::{Facts, UNCOUNTED},
        guess, http2, mode,
        parse::Outcome,
        proxy, tls, websocket,
    },
    RECENT, REQUEST_BODY, RESPONSE_START,
    counters::{self, Answer},
    upgrade, upgrades,
};
use crate::stream::{Parser, flag, order};

/// Of the response stream: a status line comes next that has to be read.
const ANSWER: u32 = order::of(mode::HEADS, RESPONSE_START, 0, order::ANY);
/// Of the request stream: first bytes come next, such as a connection preface.
const PREFACE: u32 = order::of(mode::HEADS, REQUEST_FIRST, 0, order::ANY);
/// Of the request stream: the upgrade was refused, requests go on.
const REQUESTS: u32 = order::of(mode::HEADS, REQUEST_BODY, 0, mode::WAIT);
/// Of the request stream: a response has come before its first request was recognised.
const RECOGNISED: u32 = order::of(mode::HEADS, REQUEST_BODY, 0, mode::HEADS);

/// What the stored orders mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    hash.words(&[ANSWER, PREFACE, REQUESTS, RECOGNISED])
}

/// A connection of which nothing has been seen: the parsers of both streams. Until the request stream decides, the response
/// may: its request can have been missed.
#[inline(always)]
#[must_use]
pub fn begin() -> [Parser; 2] {
    let parser = |state| Parser { mode: mode::HEADS, state, ..Parser::default() };
    [parser(REQUEST_FIRST), parser(RESPONSE_START)]
}

/// Draws the conclusions from a run over the request stream (`is_request`) or the response stream.
#[inline(always)]
pub fn conclude(is_request: bool, parser: &mut Parser, facts: &mut Facts, run: Run) -> Outcome {
    let conclusion =
        if is_request { request(parser, facts, run) } else { response(parser, facts, run) };
    let consumed = if conclusion.rest_is_void { run.of } else { run.at };
    if parser.mode == mode::HEADS {
        parser.header[RECENT] = run.recent;
    }
    Outcome { consumed, order: conclusion.order, news: conclusion.news }
}

/// What follows from a run of the automaton.
struct Conclusion {
    /// The rest of the bytes at hand, behind where the run ended, have nothing to tell.
    rest_is_void: bool,
    /// What the other stream is to do.
    order: u32,
    /// How a request for an upgrade was answered: the combination of [`counters::UPGRADES`] plus one; 0 for none.
    news: u32,
}

/// In [`Facts::said`]: what asks for an upgrade is a request, and no part of a body that quotes one.
pub(super) const CERTAIN: u8 = 1;

#[inline(always)]
fn request(parser: &mut Parser, facts: &mut Facts, run: Run) -> Conclusion {
    let mut outcome = Conclusion { rest_is_void: false, order: order::NONE, news: 0 };
    parser.state = run.state;
    // Of a connection that was adopted the answer has to agree.
    if run.bits & bit::HTTP1 != 0 && facts.guessing == 0 {
        facts.protocol = Protocol::Http1 as u8;
        // A `CONNECT` may have been read before the version.
        outcome.order = if facts.asked == 0 { order::STOP } else { ANSWER };
    }
    if run.bits & bit::CONNECT != 0 {
        if facts.asked == 0 {
            let certain = facts.unanswered != UNCOUNTED;
            facts.before_answer = if certain { facts.unanswered } else { 0 };
            // Whether it was granted is none of the counted answers.
            facts.said &= !CERTAIN;
        }
        facts.asked |= upgrade::TUNNEL;
        outcome.order = ANSWER;
    }
    if run.bits & bit::UPGRADES != 0 {
        if facts.asked == 0 {
            let certain = facts.unanswered != UNCOUNTED;
            facts.before_answer = if certain { facts.unanswered } else { 0 };
            facts.said = if certain { facts.said | CERTAIN } else { facts.said & !CERTAIN };
        }
        facts.asked |= upgrades(run.bits);
        outcome.order = ANSWER;
    }
    if run.bits & bit::TLS != 0 {
        facts.protocol = Protocol::Tls as u8;
        tls::start(parser, facts, run.recent);
        outcome.order = tls::ANSWER;
    }
    if run.bits & bit::UNKNOWN != 0 && facts.guessing != 0 {
        guess::go_on(parser);
        return Conclusion { rest_is_void: true, order: order::NONE, news: 0 };
    }
    if run.bits & bit::UNKNOWN != 0 {
        facts.asked = 0;
        parser.mode = mode::OFF;
        return Conclusion { rest_is_void: true, order: order::STOP, news: 0 };
    }
    if run.bits & bit::PREFACE != 0 {
        facts.protocol = Protocol::Http2 as u8;
        http2::start(parser);
        outcome.order = http2::ANSWER;
    }
    if run.bits & bit::PROXY != 0 {
        proxy::start(parser);
    }
    if run.bits & (bit::OTHER_METHOD | bit::BODY) != 0 {
        facts.unanswered = UNCOUNTED;
    }
    if run.bits & bit::HEAD_END != 0 {
        // What comes behind a request for a WebSocket may be its first frame, and what comes behind one for a tunnel may go
        // through it: that is known once the answer is.
        if facts.asked & (upgrade::WEBSOCKET | upgrade::TUNNEL) != 0
            && facts.unanswered != UNCOUNTED
        {
            parser.mode = mode::WAIT;
        }
        facts.plain_request();
    }
    // Not a head that could ask for an upgrade: the rest of the segment is somebody's body.
    outcome.rest_is_void = run.bits & bit::BODY != 0;
    outcome
}

#[inline(always)]
fn response(parser: &mut Parser, facts: &mut Facts, run: Run) -> Conclusion {
    let mut outcome = Conclusion { rest_is_void: true, order: order::NONE, news: 0 };
    parser.state = run.state;
    if run.bits & bit::STATUS_101 != 0 {
        parser.flags |= flag::SWITCHING;
        parser.granted = 0;
    }
    if run.bits & bit::INTERIM != 0 {
        parser.flags |= flag::INTERIM;
    }
    let tunnels = parser.granted & upgrade::TUNNEL != 0;
    if run.bits & bit::UPGRADES != 0 && parser.flags & flag::SWITCHING != 0 && !tunnels {
        parser.granted |= upgrades(run.bits);
    }
    let is_begun =
        facts.protocol == Protocol::Tcp as u8 || facts.protocol == Protocol::Upgrade as u8;
    if run.bits & bit::ZERO != 0 && is_begun {
        // Servers of HTTP/2 may begin before the client's preface has come.
        http2::start_answer(parser, 1);
        outcome.rest_is_void = false;
        return outcome;
    }
    if run.bits & (bit::UNKNOWN | bit::ZERO) != 0 {
        // Not the start of a response. With an upgrade pending this is the body of an earlier response (requests
        // were pipelined): the next segment may start the right one. Otherwise there is nothing to wait for.
        if facts.asked == 0 {
            parser.mode = mode::OFF;
        }
        parser.state = RESPONSE_START;
        return outcome;
    }
    if run.bits & bit::SUCCESS != 0
        && facts.asked & upgrade::TUNNEL != 0
        && facts.before_answer == 0
        && facts.protocol == Protocol::Http1 as u8
    {
        // The tunnel begins behind the head.
        parser.flags |= flag::SWITCHING;
        parser.granted = upgrade::TUNNEL;
        outcome.rest_is_void = false;
        return outcome;
    }
    if run.bits & (bit::FINAL | bit::SUCCESS) != 0 {
        // A status line without a recognised request before it: HTTP/1 all the same.
        if facts.protocol == Protocol::Tcp as u8 {
            facts.protocol = Protocol::Http1 as u8;
            outcome.order = RECOGNISED;
        }
        if facts.asked != 0 {
            if facts.before_answer != 0 {
                // The response to an earlier of several pipelined requests; the next starts in a segment of its own.
                facts.before_answer -= 1;
                parser.state = RESPONSE_START;
                return outcome;
            }
            outcome.order = REQUESTS;
            if facts.said & CERTAIN != 0 && facts.protocol == Protocol::Http1 as u8 {
                outcome.news =
                    1 + (counters::to(facts.asked) + Answer::of(status(run.recent))) as u32;
            }
        }
        facts.asked = 0;
        facts.unanswered = 0;
        parser.mode = mode::OFF;
        return outcome;
    }
    outcome.rest_is_void = false;
    if run.bits & bit::HEAD_END != 0 {
        if parser.flags & flag::SWITCHING != 0 {
            if facts.protocol == Protocol::Http1 as u8 && !tunnels {
                let granted = if facts.asked != 0 { facts.asked } else { parser.granted };
                outcome.news = 1 + counters::upgrade(granted, Answer::Switching) as u32;
            }
            outcome.order = switch(parser, facts);
        } else {
            // An interim response is over; the next head follows.
            parser.flags &= !flag::INTERIM;
            parser.state = RESPONSE_START;
        }
    }
    outcome
}

/// The status whose last digit has just been read.
#[inline(always)]
const fn status(recent: u64) -> u32 {
    let digits = recent as u32 & 0x000f_0f0f;
    100 * (digits >> 16) + 10 * (digits >> 8 & 0xff) + (digits & 0xff)
}

/// The head of a 101, or of the answer to a `CONNECT`, is complete: the connection is now what the head named. What the request stream is to do.
#[inline(always)]
fn switch(parser: &mut Parser, facts: &mut Facts) -> u32 {
    facts.asked = 0;
    facts.said = 0;
    parser.flags &= !flag::SWITCHING;
    if parser.granted & upgrade::WEBSOCKET != 0 {
        facts.protocol = Protocol::WebSocket as u8;
        websocket::start(parser);
        return websocket::FOLLOW;
    }
    let granted = parser.granted;
    if granted & upgrade::TUNNEL != 0 {
        // Whatever goes through it begins as a connection does.
        facts.protocol = Protocol::Upgrade as u8;
        facts.unanswered = 0;
        parser.begin(mode::HEADS, RESPONSE_START, 0);
        return PREFACE;
    }
    parser.mode = mode::OFF;
    if granted & upgrade::H2C != 0 {
        facts.protocol = Protocol::Http2 as u8;
        http2::start_answer(parser, 0);
        // The client sends the connection preface next (RFC 7540 section 3.2).
        return PREFACE;
    }
    facts.protocol = Protocol::Upgrade as u8;
    order::STOP
}

/// Bytes of a stream of heads were missed; returns what the other stream is to do. The request stream then waits for the next
/// head; the response stream, when it was being read, for the next status line.
#[inline(always)]
pub const fn resync(is_request: bool, parser: &mut Parser, protocol: u8) -> u32 {
    if is_request {
        parser.state = REQUEST_BODY;
        // The request that was missed may have asked for an upgrade: let the response tell.
        return if protocol == Protocol::Http1 as u8 { ANSWER } else { order::NONE };
    }
    parser.state = RESPONSE_START;
    parser.flags &= !(flag::SWITCHING | flag::INTERIM);
    order::NONE
}
