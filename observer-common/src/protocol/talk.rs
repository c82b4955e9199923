//! A connection on the host, for tests: its two streams are driven as the kernel side drives them, from the parsers of the same list.

use super::{
    Protocol, begin, ended,
    facts::Facts,
    http1, http2, mode,
    parse::{End, Parse},
    proxy, tls, websocket,
};
use crate::{
    framing::Stretch,
    label::Direction,
    recorder::Recorded,
    source::Slice,
    stream::{self, Parser, order},
};

/// A connection, as its server sees it.
#[derive(Debug)]
pub(crate) struct Talk {
    parsers: [Parser; 2],
    orders: [u32; 2],
    waiting: Vec<u8>,
    pub(crate) facts: Facts,
    /// The protocols that it was found to speak, in order.
    pub(crate) spoken: Vec<Protocol>,
    /// What was counted, of both directions.
    pub(crate) recorded: Recorded,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self {
            parsers: begin(),
            orders: [order::NONE; 2],
            waiting: Vec::new(),
            facts: Facts::default(),
            spoken: Vec::new(),
            recorded: Recorded::default(),
        }
    }

    /// A segment from the client.
    pub(crate) fn client(&mut self, bytes: &[u8]) -> &mut Self {
        self.segment(0, bytes);
        self
    }

    /// A segment from the server.
    pub(crate) fn server(&mut self, bytes: &[u8]) -> &mut Self {
        self.segment(1, bytes);
        // What waits for an answer may have it now.
        let waiting = std::mem::take(&mut self.waiting);
        self.segment(0, &waiting);
        self
    }

    /// The connection ends; whether that is an orderly end.
    pub(crate) fn end(&mut self, end: End) -> bool {
        self.recorded.begin(0);
        ended(self.facts, end, &mut self.recorded)
    }

    /// How often a combination of a counter was counted.
    pub(crate) fn count(&self, counter: &str, combination: usize) -> u64 {
        let counts = self.recorded.counts.iter();
        counts
            .filter(|(name, of, _)| *name == counter && *of == combination)
            .map(|(.., count)| count)
            .sum()
    }

    fn segment(&mut self, stream: usize, bytes: &[u8]) {
        let order = std::mem::take(&mut self.orders[stream]);
        if order != order::NONE {
            stream::obey(&mut self.parsers[stream], order);
        }
        let mut source = Slice(bytes);
        for _ in 0..=2 * bytes.len() {
            match self.parsers[stream].mode {
                _ if source.0.is_empty() => return,
                mode::OFF => return,
                mode::WAIT => return self.waiting.extend(source.0),
                mode => self.step(mode, stream, &mut source),
            }
        }
        panic!("{stream} stalls in {:?}", self.parsers[stream]);
    }

    fn parse<P: Parse>(&mut self, stream: usize, source: &mut Slice<'_>) {
        let is_request = stream == 0;
        let direction = if is_request { Direction::Received } else { Direction::Sent };
        self.recorded.begin(direction as usize);
        let parser = &mut self.parsers[stream];
        let found = P::parse(source, parser, Stretch { frames: 3, rare: true }, &mut self.recorded)
            .expect("there are bytes");
        // What is held before the loop is another than what is held behind it.
        self.recorded.begin(direction as usize);
        let mut news = 0;
        if P::is_news(&found) {
            let before = self.facts.protocol;
            let outcome = P::conclude(&found, is_request, parser, &mut self.facts);
            news = outcome.news;
            source.0 = &source.0[outcome.consumed as usize..];
            if outcome.order != order::NONE {
                self.orders[1 - stream] = outcome.order;
            }
            if self.facts.protocol != before {
                self.spoken.push(Protocol::from_wire(self.facts.protocol).expect("it is known"));
            }
        }
        P::record(found, news, &mut self.recorded);
    }
}

macro_rules! steps {
    (
        spoken { $($spoken:tt)* }
        counters { $($counters:tt)* }
        parsers { $(
            $(#[$about:meta])*
            $mode:ident = $place:literal: $packet:ident, $small:ident, $large:ident
                => $room:ident::$parser:ident, $tells:literal;
        )+ }
    ) => {
        impl Talk {
            /// One run of the parser of a mode.
            fn step(&mut self, mode: u8, stream: usize, source: &mut Slice<'_>) {
                match mode {
                    $(mode::$mode => self.parse::<$room::$parser>(stream, source),)+
                    _ => panic!("no parser has the mode {mode}"),
                }
            }
        }
    };
}

crate::protocols!(steps);

/// Cuts `bytes` in two at every place, and calls `then` with both parts.
pub(crate) fn cuts(bytes: &[u8], mut then: impl FnMut(&[u8], &[u8])) {
    for cut in 0..=bytes.len() {
        let (first, second) = bytes.split_at(cut);
        then(first, second);
    }
}
