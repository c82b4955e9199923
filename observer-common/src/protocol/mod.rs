//! The protocols, one room for each: the parser of its bytes and the counters of what they say.
//!
//! To add one: a folder here, its lines in [`protocols`](crate::protocols), a page in `docs/protocols/`. Nothing outside of the
//! room names it.

use crate::{
    counters::Block, label::wire_enum, meaning::Meaning, recorder::Recorder, stream::Parser,
};
use facts::Facts;
use parse::End;

pub mod adopted;
pub mod automaton;
pub mod facts;
pub mod first;
pub mod guess;
pub mod http1;
pub mod http2;
pub mod parse;
pub mod proxy;
#[cfg(test)]
mod talk;
pub mod tls;
pub mod websocket;

/// The one list of protocols, given to the macro `$make`: what a connection may speak, the rooms that have counters of their own,
/// and the parsers of its streams.
///
/// What a connection may speak has a wire number and a label, and it may have a protocol that it is found to speak first
/// (`after`), a room that wants to know of ends (`ends`), and `users`, who have
/// families of their own, in whose help texts it is called so; `with` the room that counts frames which break the protocol.
///
/// A parser has a number, which is the mode of the streams that it reads, three programs (of a packet's bytes, of a kept segment
/// in a small block, and in a large one), the type that implements [`Parse`](parse::Parse), and what the programs tell.
/// Kernels know programs by 15 characters of their names.
#[macro_export]
macro_rules! protocols {
    ($make:ident) => {
        $make! {
            spoken {
                /// Nothing recognised: another protocol, or no payload yet.
                Tcp = 0 => "tcp";
                /// A TLS record with a `ClientHello`.
                Tls = 1 => "tls", ends tls;
                /// HTTP/1.0 or HTTP/1.1 (RFC 9112).
                Http1 = 2 => "http1", ends http1;
                /// HTTP/2 (RFC 9113), by its connection preface.
                Http2 = 3 => "http2";
                /// HTTP/2 of which a request carries `content-type: application/grpc`, with a server that speaks it.
                Grpc = 4 => "grpc", after Http2, users "gRPC";
                /// An HTTP/1.1 connection that a `101` response turned into a WebSocket (RFC 6455).
                WebSocket = 5 => "websocket", ends websocket, users "WebSocket" with websocket;
                /// An HTTP/1.1 connection that a `101` response turned into something else.
                Upgrade = 6 => "upgrade";
            }
            counters { http1, http2, tls, websocket }
            parsers {
                /// Heads of requests and responses, and the first bytes of everything.
                HEADS = 1: parse_http1, parse_http1_small, parse_http1_large => http1::Heads,
                    "protocols by a connection's first bytes, upgrades by their answers";
                /// Frames of HTTP/2, in both directions.
                HTTP2 = 2: parse_http2, parse_http2_small, parse_http2_large => http2::Http2,
                    "streams and connections of HTTP/2 that are broken off";
                /// Header blocks of HTTP/2, until one is gRPC's.
                HTTP2_BLOCK = 8: parse_h2_block, parse_h2_block_s, parse_h2_block_l => http2::HeaderBlock,
                    "gRPC among HTTP/2";
                /// WebSocket frames; segments of few are followed without a tail call.
                WEBSOCKET = 3: parse_websocket, parse_ws_small, parse_ws_large => websocket::WebSocket,
                    "WebSocket messages and closes in segments of many frames";
                /// The header of the PROXY protocol, version 2.
                PROXY = 4: parse_proxy, parse_proxy_small, parse_proxy_large => proxy::Proxy,
                    "protocols behind a PROXY header";
                /// Records of a TLS handshake.
                TLS = 6: parse_tls, parse_tls_small, parse_tls_large => tls::Tls,
                    "how TLS handshakes end";
            }
        }
    };
}

macro_rules! define {
    (@user $protocol:expr, $users:literal) => { $protocol };

    (
        spoken { $(
            $(#[$meta:meta])*
            $name:ident = $number:literal => $label:literal $(, after $first:ident)? $(, ends $end:ident)? $(, users $users:literal $(with $frames:ident)?)?;
        )+ }
        counters { $($room:ident),+ }
        parsers { $(
            $(#[$about:meta])*
            $mode:ident = $place:literal: $packet:ident, $small:ident, $large:ident
                => $of:ident::$parser:ident, $tells:literal;
        )+ }
    ) => {
        wire_enum! {
            /// What a connection speaks, as far as its bytes have told.
            Protocol as "protocol" { $($(#[$meta])* $name = $number => $label,)+ }
        }

        /// The blocks of those that have counters of their own.
        pub static BLOCKS: &[&Block] = &[$(&$room::counters::BLOCK),+];

        impl Protocol {
            /// Whether cells of this protocol have a slot of its own.
            #[inline(always)]
            #[must_use]
            pub const fn has_block(protocol: u8) -> bool {
                $($room::counters::BLOCK.owner.is_of(protocol))||+
            }

            /// Those whose users have families of their own.
            pub const USERS: &[Self] = &[$($(define!(@user Self::$name, $users),)?)+];

            /// The protocol that a connection is found to speak before it is found to speak this one, if there is such a step.
            #[inline(always)]
            #[must_use]
            pub const fn after(protocol: u8) -> Option<Self> {
                match protocol {
                    $($($number => Some(Self::$first),)?)+
                    _ => None,
                }
            }
        }

        /// A connection that knew these facts has ended: whether that was an orderly end, whatever TCP says.
        #[inline(always)]
        pub fn ended(facts: Facts, end: End, recorder: &mut impl Recorder) -> bool {
            match facts.protocol {
                $($($number => $end::ended(facts, end, recorder),)?)+
                _ => false,
            }
        }

        /// The parser that a stream's next bytes go to.
        pub mod mode {
            pub use crate::stream::mode::*;

            $($(#[$about])* pub const $mode: u8 = $place;)+

            /// All of them.
            pub(super) const ALL: &[u8] = &[OFF, WAIT, GUESS, $($mode),+];
        }

        const _: () = {
            let mut modes = [false; crate::stream::program::OF_SMALL as usize];
            let mut i = 0;
            while i < mode::ALL.len() {
                assert!(!modes[mode::ALL[i] as usize], "two parsers have one number");
                modes[mode::ALL[i] as usize] = true;
                i += 1;
            }
        };

        /// What the numbers of protocols mean, and the words of their blocks.
        pub(crate) const fn meaning(mut hash: Meaning) -> Meaning {
            hash = automaton::HEADS.meaning(hash.texts(Protocol::LABEL.values).bytes(mode::ALL));
            hash = tls::meaning(http1::exchange::meaning(http2::meaning(hash)));
            $(hash = $room::counters::BLOCK.meaning(hash);)+
            hash
        }
    };
}

protocols!(define);

/// A connection of which nothing has been seen: the parsers of both streams.
#[inline(always)]
#[must_use]
pub fn begin() -> [Parser; 2] {
    http1::exchange::begin()
}

/// Does what the other stream asks for.
#[inline(always)]
pub fn obey(parser: &mut Parser, order: u32) {
    match order {
        adopted::CLIENTS => guess::take_up(parser, true),
        adopted::SERVERS => guess::take_up(parser, false),
        order => crate::stream::obey(parser, order),
    }
}

/// Bytes of a stream were missed: its parser takes up wherever it can. What the other stream is to do:
/// [`crate::stream::order`]. Frame followers cannot find the next frame boundary and give up.
#[inline(always)]
pub const fn resync(is_request: bool, parser: &mut Parser, protocol: u8) -> u32 {
    if parser.mode == mode::HEADS {
        return http1::exchange::resync(is_request, parser, protocol);
    }
    parser.mode = mode::OFF;
    crate::stream::order::NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_round_trip() {
        for &p in Protocol::ALL {
            assert_eq!(Protocol::from_wire(p as u8), Some(p));
            let block = BLOCKS.iter().any(|block| block.owner.is_of(p as u8));
            assert_eq!(Protocol::has_block(p as u8), block, "{p:?}");
        }
        assert_eq!(Protocol::from_wire(200), None);
        assert!(!Protocol::has_block(200));
        assert_eq!(Protocol::after(Protocol::Grpc as u8), Some(Protocol::Http2));
    }
}
