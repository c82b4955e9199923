//! The protocols, one room for each: the parser of its bytes and the counters of what they say.
//!
//! To add one: a folder here, a line in [`protocols`], a page in `docs/protocols/`. Nothing outside of the room names it.

use crate::{counters::Block, label::wire_enum, meaning::Meaning};

pub mod adopted;
pub mod automaton;
pub mod first;
pub mod guess;
pub mod http1;
pub mod http2;
pub mod proxy;
pub mod tls;
pub mod websocket;

/// The one list of protocols: what a connection speaks, its wire number and label, and the block of its counters if it
/// has any of its own.
macro_rules! protocols {
    ($($(#[$meta:meta])* $name:ident = $number:literal => $label:literal $(, counters $block:path)?;)+) => {
        wire_enum! {
            /// What a connection speaks, as far as its bytes have told.
            Protocol as "protocol" { $($(#[$meta])* $name = $number => $label,)+ }
        }

        /// The blocks of those that have counters of their own.
        pub static BLOCKS: &[&Block] = &[$($(&$block,)?)+];

        impl Protocol {
            /// Whether cells of this protocol have a slot of its own.
            #[inline(always)]
            #[must_use]
            pub const fn has_block(protocol: u8) -> bool {
                const MASK: u32 = 0 $($(| { let _ = &$block; 1 << $number })?)+;
                MASK >> (protocol & 31) & 1 != 0
            }
        }

        /// What the numbers of protocols mean, and the words of their blocks.
        pub(crate) const fn meaning(mut hash: Meaning) -> Meaning {
            hash = http2::meaning(automaton::meaning(hash.texts(Protocol::LABEL.values)));
            hash = http1::exchange::meaning(hash);
            $($(hash = $block.meaning(hash);)?)+
            hash
        }
    };
}

protocols! {
    /// Nothing recognised: another protocol, or no payload yet.
    Tcp = 0 => "tcp";
    /// A TLS record with a `ClientHello`.
    Tls = 1 => "tls";
    /// HTTP/1.0 or HTTP/1.1 (RFC 9112).
    Http1 = 2 => "http1";
    /// HTTP/2 (RFC 9113), by its connection preface.
    Http2 = 3 => "http2";
    /// HTTP/2 whose first request carries `content-type: application/grpc`.
    Grpc = 4 => "grpc";
    /// An HTTP/1.1 connection that a `101` response turned into a WebSocket (RFC 6455).
    WebSocket = 5 => "websocket", counters websocket::counters::BLOCK;
    /// An HTTP/1.1 connection that a `101` response turned into something else.
    Upgrade = 6 => "upgrade";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Owner;

    #[test]
    fn wire_numbers_round_trip() {
        for &p in Protocol::ALL {
            assert_eq!(Protocol::from_wire(p as u8), Some(p));
            let block = BLOCKS.iter().any(|block| block.owner == Owner::Protocol(p as u8));
            assert_eq!(Protocol::has_block(p as u8), block, "{p:?}");
        }
        assert_eq!(Protocol::from_wire(200), None);
        assert!(!Protocol::has_block(200));
    }

    #[test]
    fn overflow_cells_are_distinct() {
        let mut seen = [false; crate::wire::slot::OVERFLOW_CELLS as usize];
        for role in crate::label::Role::ALL {
            for protocol in Protocol::ALL {
                let cell = crate::wire::slot::overflow_cell(*role as u8, *protocol as u8) as usize;
                assert!(!seen[cell]);
                seen[cell] = true;
            }
        }
    }
}
