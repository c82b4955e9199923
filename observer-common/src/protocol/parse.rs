//! What a parser program does, whatever the protocol: it reads on in its stream, concludes what that means for the connection, and
//! counts it. The kernel side drives all of them alike, and so do tests.

use super::facts::Facts;
use crate::{framing::Stretch, recorder::Recorder, source::Source, stream::Parser};

/// A parser.
pub trait Parse {
    /// What a stretch of bytes has told.
    type Found;

    /// Whether segments of few frames, none of them rare, are read by the segment programs themselves.
    const INLINE: bool = false;
    /// Whether what an adopted connection speaks may turn out in it.
    const RECOGNISES: bool = false;
    /// Frames that one run of a program follows at most.
    const FRAMES: usize = 1;
    /// All that one run of a program is for.
    const RUN: Stretch = Stretch { frames: Self::FRAMES, rare: true };

    /// Reads on in the source, as far as `stretch` says; `None` if its bytes cannot be had.
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        stretch: Stretch,
        recorder: &mut impl Recorder,
    ) -> Option<Self::Found>;

    /// Whether [`Parse::conclude`] has anything to conclude: most stretches tell nothing that is news to the connection.
    fn is_news(found: &Self::Found) -> bool;

    /// Concludes what that means, in the client's stream (`is_request`) or the server's. Called again with the parser and the
    /// facts as they were if the other stream has changed the facts meanwhile.
    fn conclude(
        found: &Self::Found,
        is_request: bool,
        parser: &mut Parser,
        facts: &mut Facts,
    ) -> Outcome;

    /// Counts it; `news` is that of the outcome.
    fn record(found: Self::Found, news: u32, recorder: &mut impl Recorder);
}

/// What follows from a stretch of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the source that are done with, beyond those that [`Parse::parse`] has gone over.
    pub consumed: u32,
    /// What the other stream is to do: [`crate::stream::order`].
    pub order: u32,
    /// What happened only now, in the room's own words; 0 for nothing.
    pub news: u32,
}

/// How a connection has ended, as its protocol's room needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// By a reset, a time-out or the like.
    pub is_error: bool,
    /// By the client; by the server otherwise.
    pub by_client: bool,
}
