//! Recognition in mid-stream: what a connection speaks whose first bytes nobody has seen.
//!
//! A stream in [`mode::GUESS`] is taken for frames of a protocol as long as its bytes allow it. At the start of a segment every
//! [`Guess`] judges whether a header of its protocol may stand there; then header follows header exactly, over the ends of
//! segments, and whatever is not plausible ends the chain. A chain that has been right often enough is a *claim*
//! ([`claim`]); the connection speaks a protocol once the claims of both its streams [`agree`]. Text is claimed by the line that
//! a message of HTTP/1 begins with.
//!
//! Two kinds of streams are in this mode:
//! - both of a connection that was adopted ([`begin`]), until it is recognised or [`is_given_up`];
//! - one that lost track, of a connection whose protocol is known ([`resume`]): its own claim is enough there. Whoever skips bytes
//!   that had to be read sets the parser to what [`resume`] returns, and does no more: the parser of this mode takes up the
//!   protocol's own at the next frame boundary that it is sure of.

use crate::{
    framing::{min, skip},
    label::Role,
    protocol::{Protocol, http2, tls, websocket},
    source::Source,
    stream::{Parser, flag, mode},
};

mod text;

#[cfg(test)]
mod tests;

/// Who may have sent a frame, as bits.
pub mod sender {
    /// The client.
    pub const CLIENT: u8 = 1;
    /// The server.
    pub const SERVER: u8 = 2;
    /// Either.
    pub const ANY: u8 = CLIENT | SERVER;
}

/// What a frame tells beside who sends it, as bits.
pub mod tell {
    /// A message of gRPC.
    pub const GRPC: u8 = 1;
    /// The start of a body that is no message of gRPC.
    pub const NOT_GRPC: u8 = 2;
}

/// A header as it is judged where one may stand.
///
/// Judges compute, and do not branch: each truth value is two ways to the verifier, and it follows all combinations of them
/// through everything behind. What must hold is a difference that is negative if it does not, and all of them are put
/// together by OR; numbers are below 2^62.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Negative, as a signed number, unless the header is plausible and complete; else nothing else has a meaning.
    pub doubt: u64,
    /// Bytes of the header.
    pub length: u32,
    /// Bytes of payload behind it.
    pub payload: u64,
    /// [`sender`].
    pub sender: u8,
    /// What the judge wants to know when it judges the next one.
    pub context: u8,
    /// [`tell`].
    pub tells: u8,
}

/// Protocols whose frames are told from chance.
pub trait Guess {
    /// Judges the header that starts with `bytes`, of which `available` are there, at most 16, and zeroes behind them.
    /// `context` is that of the header before, 0 without one.
    fn judge(bytes: [u64; 2], available: u32, context: u8) -> Judged;
}

/// Negative unless `number` is at least `least` and at most `most`.
#[inline(always)]
pub(super) const fn outside(number: u64, least: u64, most: u64) -> u64 {
    number | number.wrapping_sub(least) | most.wrapping_sub(number)
}

/// What a stream is taken for, in [`Parser::state`]; the context is in the upper half.
mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const WEBSOCKET: u8 = 1;
    pub(super) const HTTP2: u8 = 2;
    pub(super) const TLS: u8 = 3;
    /// A head of HTTP/1, or another text; no stream stays it.
    pub(super) const TEXT: u8 = 4;
    pub(super) const MASK: u8 = 7;
    pub(super) const CONTEXT_SHIFT: u8 = 4;
}

/// By what a stream is taken for and the next byte: what it is taken for. What begins a chain tells for what.
static KINDS: [[u8; 256]; 8] = {
    let mut kinds = [[0; 256]; 8];
    let mut row = 1;
    while row < kinds.len() {
        kinds[row] = [row as u8; 256];
        row += 1;
    }
    // A frame of HTTP/2 is shorter than 64 KiB. All others that may be anything may be WebSocket's.
    kinds[kind::NONE as usize] = [kind::WEBSOCKET; 256];
    kinds[kind::NONE as usize][0] = kind::HTTP2;
    let mut first = 20;
    while first < 24 {
        kinds[kind::NONE as usize][first] = kind::TLS;
        first += 1;
    }
    let mut i = 0;
    while i < text::FIRST.len() {
        kinds[kind::NONE as usize][text::FIRST[i] as usize] = kind::TEXT;
        i += 1;
    }
    kinds
};

/// Of [`Parser::scratch`]: ends of segments at which a frame ended.
const ENDS: usize = 0;
/// Frames.
const FRAMES: usize = 1;
/// [`tell`].
const TELLS: usize = 2;
/// Of [`Parser::header`]: segments in a row that were not plausible.
const FAILURES: usize = 0;

/// Likewise, the [`sender`] of the head that the last step has come to, or 0.
const HEAD: usize = 1;

/// Segments of each stream that were not plausible, after which a connection is judged to speak nothing that is known here.
const ENOUGH: u64 = 32;
/// Likewise, of one stream, while the other is silent or plausible.
const TOO_MANY: u64 = 1024;

/// What one step over a stream has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to be looked at, or the bytes are used up.
    On,
    /// The bytes at hand are no such frames: they are used up, and the chain is over.
    Implausible,
    /// A head of HTTP/1, or what else stands at a connection's start, begins here, sent by this [`sender`]; nothing is used up.
    Head(u8),
}

/// The parser of a stream of which nothing is known.
#[inline(always)]
#[must_use]
pub fn begin() -> Parser {
    Parser { mode: mode::GUESS, ..Parser::default() }
}

/// Makes `parser` that of a stream that lost track, of a connection that speaks a [`Protocol`] whose frames can be found again;
/// false, and nothing is changed, of any other.
#[inline(always)]
pub fn resume(parser: &mut Parser, protocol: u8) -> bool {
    let frames = [Protocol::WebSocket, Protocol::Http2, Protocol::Grpc];
    let found_again = frames.into_iter().any(|of| of as u8 == protocol);
    if found_again {
        *parser = Parser { flags: parser.flags & (flag::SYNCED | flag::PARKED), ..begin() };
    }
    found_again
}

/// Looks at what is left of the frame under way and at no more than one header behind it.
#[inline(always)]
pub fn step(source: &mut impl Source, parser: &mut Parser) -> Step {
    source.advance(skip(parser, source.left()));
    let left = source.left();
    if left == 0 {
        // Of one that is under way the end has not come.
        let ended = u8::from(parser.left == 0 && parser.state != kind::NONE);
        parser.scratch[ENDS] = parser.scratch[ENDS].saturating_add(ended);
        return Step::On;
    }
    let available = min(u64::from(left), 16) as u32;
    let Some(bytes) = source.peek(available) else { return fail(source, parser) };
    let context = parser.state >> kind::CONTEXT_SHIFT;
    let of = KINDS[usize::from(parser.state & kind::MASK)][usize::from(bytes[0] as u8)];
    let judged = match of {
        kind::WEBSOCKET => websocket::WebSocket::judge(bytes, available, context),
        kind::HTTP2 => http2::Http2Guess::judge(bytes, available, context),
        kind::TLS => tls::TlsGuess::judge(bytes, available, context),
        _ => {
            let head = text::head(bytes);
            return if head == 0 { fail(source, parser) } else { Step::Head(head) };
        }
    };
    let senders = senders(parser) & judged.sender;
    if judged.doubt.cast_signed() < 0 || senders == 0 {
        return fail(source, parser);
    }
    parser.state = of | judged.context << kind::CONTEXT_SHIFT;
    parser.granted = sender::ANY ^ senders;
    parser.left = judged.payload;
    parser.scratch[FRAMES] = parser.scratch[FRAMES].saturating_add(1);
    parser.scratch[TELLS] |= judged.tells;
    source.advance(judged.length);
    if source.left() == 0 && parser.left == 0 {
        parser.scratch[ENDS] = parser.scratch[ENDS].saturating_add(1);
    }
    Step::On
}

/// Leaves in the parser what the last step over a segment has come to, for whoever draws the conclusions.
#[inline(always)]
pub const fn leave(parser: &mut Parser, step: Step) {
    parser.header[HEAD] = match step {
        Step::Head(sender) => sender as u64,
        Step::On | Step::Implausible => 0,
    };
}

/// The [`sender`] of the head that was come to; 0 for none.
#[inline(always)]
#[must_use]
pub const fn left(parser: &Parser) -> u8 {
    parser.header[HEAD] as u8 & sender::ANY
}

/// Ends a chain.
#[inline(always)]
fn fail(source: &mut impl Source, parser: &mut Parser) -> Step {
    source.advance(source.left());
    parser.guess_anew();
    parser.header[FAILURES] += 1;
    Step::Implausible
}

/// Who may have sent the chain. The parser holds who has not, so that of a new one everybody may have.
#[inline(always)]
const fn senders(parser: &Parser) -> u8 {
    sender::ANY & !parser.granted
}

/// What streams claim, a byte for each: a [`Protocol`], who sends it, and how sure it is.
pub mod claims {
    /// The [`Protocol`](super::Protocol).
    pub(super) const PROTOCOL: u8 = 7;
    /// HTTP/2 whose messages have not told yet whether they are gRPC's.
    pub(super) const OPEN: u8 = 1 << 3;
    /// Where the [`sender`](super::sender) stands.
    pub(super) const SENDER_SHIFT: u8 = 4;
    /// So many segments were not plausible that nothing is expected of this stream any more.
    pub const GIVEN_UP: u8 = 1 << 6;
}

/// What a stream claims as far as it has come; 0 is nothing.
#[inline(always)]
#[must_use]
pub fn claim(parser: &Parser) -> u8 {
    let (ends, frames) = (parser.scratch[ENDS], parser.scratch[FRAMES]);
    let protocol = match parser.state & kind::MASK {
        // A header of two bytes may be chance: two ends of segments, or three frames and one.
        kind::WEBSOCKET if ends >= 2 || (frames >= 3 && ends != 0) => Protocol::WebSocket as u8,
        kind::HTTP2 if ends != 0 => {
            if parser.scratch[TELLS] & tell::GRPC != 0 {
                Protocol::Grpc as u8
            } else if parser.scratch[TELLS] & tell::NOT_GRPC != 0 {
                Protocol::Http2 as u8
            } else {
                Protocol::Http2 as u8 | claims::OPEN
            }
        }
        kind::TLS if ends != 0 => Protocol::Tls as u8,
        _ if parser.header[FAILURES] >= ENOUGH => return claims::GIVEN_UP,
        _ => return 0,
    };
    protocol | senders(parser) << claims::SENDER_SHIFT
}

/// The claim of a stream in which a head of HTTP/1 was sent by this [`sender`].
#[inline(always)]
#[must_use]
pub const fn claim_of_head(sender: u8) -> u8 {
    Protocol::Http1 as u8 | sender << claims::SENDER_SHIFT
}

/// Whether a claim is one of HTTP/1.
#[inline(always)]
#[must_use]
pub const fn is_http1(claim: u8) -> bool {
    claim & claims::PROTOCOL == Protocol::Http1 as u8
}

/// Whether a claim names no protocol.
#[inline(always)]
#[must_use]
pub const fn is_nothing(claim: u8) -> bool {
    claim & claims::PROTOCOL == Protocol::Tcp as u8
}

/// Whether a claim is of this [`Protocol`], or would be if gRPC were told from HTTP/2.
#[inline(always)]
#[must_use]
pub const fn is_of(claim: u8, protocol: u8) -> bool {
    let claimed = claim & claims::PROTOCOL;
    claimed == protocol || (is_http2(claimed) && is_http2(protocol))
}

#[inline(always)]
const fn is_http2(protocol: u8) -> bool {
    protocol == Protocol::Http2 as u8 || protocol == Protocol::Grpc as u8
}

/// Whether the stream with this claim is certainly the client's.
#[inline(always)]
#[must_use]
pub const fn is_clients(claim: u8) -> bool {
    claim >> claims::SENDER_SHIFT & sender::ANY == sender::CLIENT
}

/// What both streams agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The [`Protocol`].
    pub protocol: u8,
    /// Whether the first of the two streams is the client's; of no meaning where `told` is false.
    pub first_is_clients: bool,
    /// Whether the claims tell whose stream is whose.
    pub told: bool,
}

/// What the claims of the streams from client to server and back, as far as the `role` of the connection tells which is which,
/// agree on.
#[inline(always)]
#[must_use]
pub fn agree(first: u8, second: u8, role: u8) -> Option<Agreed> {
    let one = first & claims::PROTOCOL;
    let other = second & claims::PROTOCOL;
    let protocol = if one == other {
        // Neither has told: wait for a message.
        if first & second & claims::OPEN != 0 {
            return None;
        }
        one
    } else if is_http2(one) && is_http2(other) {
        Protocol::Grpc as u8
    } else {
        return None;
    };
    let (a, b) = (first >> claims::SENDER_SHIFT, second >> claims::SENDER_SHIFT);
    let straight = a & sender::CLIENT != 0 && b & sender::SERVER != 0;
    let crossed = a & sender::SERVER != 0 && b & sender::CLIENT != 0;
    let known = role != Role::Unknown as u8;
    let told = known || straight != crossed;
    // Records of TLS look the same in both directions; of everything else it is worth waiting for what tells.
    let fits = if known { straight } else { told || protocol == Protocol::Tls as u8 };
    (protocol != Protocol::Tcp as u8 && fits && (straight || crossed)).then_some(Agreed {
        protocol,
        first_is_clients: straight,
        told,
    })
}

/// Whether nothing is to be expected of a connection whose streams claim this, one of which is that of `parser`.
#[inline(always)]
#[must_use]
pub const fn is_given_up(first: u8, second: u8, parser: &Parser) -> bool {
    (first & second & claims::GIVEN_UP != 0) || parser.header[FAILURES] >= TOO_MANY
}

/// Makes the parser of a stream whose head turned out to be none guess on.
#[inline(always)]
pub const fn go_on(parser: &mut Parser) {
    parser.guess_anew();
    parser.header[FAILURES] += 1;
}

/// Hands a stream whose chain was right over to the parser of its protocol; it is the client's or the server's. One without a
/// chain stays as it is.
#[inline(always)]
pub fn take_up(parser: &mut Parser, is_clients: bool) {
    if parser.mode != mode::GUESS {
        return;
    }
    let left = parser.left;
    parser.granted = 0;
    match parser.state & kind::MASK {
        kind::WEBSOCKET => {
            websocket::start(parser);
            parser.left = left;
        }
        kind::HTTP2 if is_clients => http2::take_up(parser, left),
        kind::HTTP2 | kind::TLS => parser.mode = mode::OFF,
        _ => {}
    }
}
