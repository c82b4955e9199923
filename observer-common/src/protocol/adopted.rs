//! What an adopted connection is, once its streams have been guessed at ([`guess`]).

use super::{
    Protocol,
    guess::{self, Agreed},
    http1::exchange::{Facts, GUESSING},
};
use crate::stream::Parser;

/// What follows from a stream's guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// Both streams agree; the facts have the protocol.
    Recognised {
        /// Whether the claims tell whose stream is whose.
        told: bool,
        /// Whether the first of the two streams is the client's.
        first_is_clients: bool,
    },
    /// The connection is known to speak what this stream was taken for.
    Confirmed,
    /// The connection speaks nothing that is recognised here.
    GivenUp,
    /// It is known what the connection speaks, and nothing that this stream is needed for.
    Void,
}

impl Verdict {
    /// As a number.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Confirmed => 1,
            Self::GivenUp => 2,
            Self::Void => 3,
            Self::Recognised { told, first_is_clients } => {
                4 | (told as u64) << 3 | (first_is_clients as u64) << 4
            }
        }
    }

    /// The one that has this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(word: u64) -> Self {
        match word & 7 {
            1 => Self::Confirmed,
            2 => Self::GivenUp,
            3 => Self::Void,
            4 => Self::Recognised { told: word & 8 != 0, first_is_clients: word & 16 != 0 },
            _ => Self::Open,
        }
    }
}

/// Draws the conclusions from what a stream, the request stream or the other one, claims; `parser` is its parser, and `role`
/// that of the connection.
#[inline(always)]
pub fn conclude(
    is_request: bool,
    role: u8,
    claim: u8,
    parser: &Parser,
    facts: &mut Facts,
) -> Verdict {
    if facts.guessing != GUESSING {
        return known(claim, facts);
    }
    // Between two heads of HTTP/1 is anything.
    let before = facts.claims[usize::from(!is_request)];
    let kept = guess::is_http1(before) && guess::is_nothing(claim);
    let mine = if kept { before | claim } else { claim };
    facts.claims[usize::from(!is_request)] = mine;
    let [first, second] = facts.claims;
    if let Some(agreed) = guess::agree(first, second, role) {
        facts.protocol = agreed.protocol;
        facts.guessing = 0;
        let Agreed { told, first_is_clients, .. } = agreed;
        return Verdict::Recognised { told, first_is_clients };
    }
    if guess::is_given_up(first, second, parser) {
        facts.guessing = 0;
        return Verdict::GivenUp;
    }
    Verdict::Open
}

/// A stream that is guessed at although it is known what the connection speaks: it has lost track, or its own guess comes later
/// than the other's order.
#[inline(always)]
fn known(claim: u8, facts: &Facts) -> Verdict {
    let frames = [Protocol::WebSocket, Protocol::Http2, Protocol::Grpc, Protocol::Tls];
    if !frames.into_iter().any(|of| of as u8 == facts.protocol) {
        return Verdict::Void;
    }
    if guess::is_of(claim, facts.protocol) { Verdict::Confirmed } else { Verdict::Open }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_the_one_of_its_number() {
        let recognised = [false, true].into_iter().flat_map(|told| {
            [false, true].map(|first_is_clients| Verdict::Recognised { told, first_is_clients })
        });
        let others = [Verdict::Open, Verdict::Confirmed, Verdict::GivenUp, Verdict::Void];
        for verdict in recognised.chain(others) {
            assert_eq!(Verdict::of(verdict.word()), verdict);
        }
    }
}
