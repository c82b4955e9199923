//! The PROXY protocol, version 2 (`proxy-protocol.txt` of `HAProxy`, section 2.2): what stands between its signature, which
//! [`crate::protocol::first`] recognises, and the protocol behind it. Version 1 is a line of text, and the automaton reads it.

use super::{
    automaton::REQUEST_FIRST,
    facts::Facts,
    mode,
    parse::{Outcome, Parse},
};
use crate::{
    framing::{Framing, Header, Stretch, cut, skip},
    recorder::Recorder,
    source::Source,
    stream::{Parser, flag},
};

/// Behind the signature: version and command, family, and the length of what follows.
const HEADER: u32 = 4;

/// Begins to read the header, right behind the signature.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.begin(mode::PROXY, BEGIN, flag::FRAMES);
}

/// States: before the header is complete, and behind it.
const BEGIN: u8 = 0;
const ADDRESSES: u8 = 1;

/// The framing: one header, whose payload are addresses and TLVs; and its parser.
#[derive(Debug)]
pub enum Proxy {}

impl Framing for Proxy {
    const HEADER: u32 = HEADER;
    const STATES: bool = true;
    type Event = ();
    type Tally = ();

    #[inline(always)]
    fn read(_: &Parser, [low, _]: [u64; 2], available: u32) -> Option<Header<()>> {
        if available < HEADER {
            return None;
        }
        let length = u64::from((low >> 16) as u16).swap_bytes() >> 48;
        Some(Header { length: HEADER, payload: length, state: ADDRESSES, event: () })
    }

    #[inline(always)]
    fn take((): &mut (), _: &mut Parser, (): (), _: &mut impl Recorder) {}
}

impl Parse for Proxy {
    /// Whether the header is over.
    type Found = bool;

    #[inline(always)]
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        _: Stretch,
        recorder: &mut impl Recorder,
    ) -> Option<bool> {
        if parser.state == BEGIN {
            cut::<Self>(source, parser, &mut (), true, recorder);
        }
        if parser.state == ADDRESSES {
            source.advance(skip(parser, source.left()));
        }
        Some(parser.state == ADDRESSES && parser.left == 0)
    }

    #[inline(always)]
    fn is_news(over: &bool) -> bool {
        *over
    }

    #[inline(always)]
    fn conclude(_: &bool, _: bool, parser: &mut Parser, _: &mut Facts) -> Outcome {
        parser.begin(mode::HEADS, REQUEST_FIRST, 0);
        Outcome::default()
    }

    #[inline(always)]
    fn record(_: bool, _: u32, _: &mut impl Recorder) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recorder::Recorded, source::Slice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_follows_the_header_is_found_wherever_it_is_cut(
            addresses in prop::collection::vec(any::<u8>(), 0..600),
            cut in any::<prop::sample::Index>(),
            second in any::<prop::sample::Index>(),
        ) {
            let mut bytes = vec![0x21, 0x11];
            bytes.extend((addresses.len() as u16).to_be_bytes());
            bytes.extend(&addresses);
            let header = bytes.len();
            bytes.extend(b"GET");
            let mut parser = Parser::default();
            start(&mut parser);
            let mut cuts = [cut.index(bytes.len() + 1), second.index(bytes.len() + 1)];
            cuts.sort_unstable();
            let mut at = 0;
            for end in [cuts[0], cuts[1], bytes.len()] {
                let mut source = Slice(&bytes[at..end]);
                if Proxy::parse(&mut source, &mut parser, Proxy::RUN, &mut Recorded::default()).unwrap() {
                    prop_assert_eq!(end - source.0.len(), header);
                    return Ok(());
                }
                prop_assert!(source.0.is_empty());
                at = end;
            }
            prop_assert!(false, "the end was not found");
        }
    }
}
