//! The PROXY protocol, version 2 (`proxy-protocol.txt` of `HAProxy`, section 2.2): what stands between its signature, which
//! [`crate::protocol::first`] recognises, and the protocol behind it. Version 1 is a line of text, and the automaton reads it.

use crate::{
    framing::{Framing, Header, cut, skip},
    recorder::Recorder,
    source::Source,
    stream::{Parser, mode},
};

/// Behind the signature: version and command, family, and the length of what follows.
const HEADER: u32 = 4;

/// Begins to read the header, right behind the signature.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.mode = mode::PROXY;
    parser.state = BEGIN;
    parser.pos = 0;
    parser.left = 0;
}

/// Reads on; true when the PROXY protocol is over, and the source is at the first byte of what it stands before.
#[inline(always)]
pub fn follow(source: &mut impl Source, parser: &mut Parser) -> bool {
    if parser.state == BEGIN {
        let mut headers = 0;
        cut::<Proxy>(source, parser, &mut headers);
        if headers == 0 {
            return false;
        }
        parser.state = ADDRESSES;
    }
    source.advance(skip(parser, source.left()));
    parser.left == 0
}

/// States: before the header is complete, and behind it.
const BEGIN: u8 = 0;
const ADDRESSES: u8 = 1;

/// The framing: one header, whose payload are addresses and TLVs.
#[derive(Debug)]
pub enum Proxy {}

impl Framing for Proxy {
    const HEADER: u32 = HEADER;
    type Event = ();
    /// Headers read.
    type Tally = u64;

    #[inline(always)]
    fn read([low, _]: [u64; 2], available: u32) -> Option<Header<()>> {
        if available < HEADER {
            return None;
        }
        let length = u64::from((low >> 16) as u16).swap_bytes() >> 48;
        Some(Header { length: HEADER, payload: length, event: () })
    }

    #[inline(always)]
    fn add(headers: &mut u64, (): ()) {
        *headers += 1;
    }

    #[inline(always)]
    fn record(_: u64, _: usize, _: &mut impl Recorder) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Slice;
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
                if follow(&mut source, &mut parser) {
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
