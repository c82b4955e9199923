//! What WebSocket connections are counted by, beside what all connections are.

use crate::{
    counters,
    counters::{Family, Level, Owner, Rows, Zeros},
    label::Direction,
    protocol::Protocol,
};

counters! {
    /// What a WebSocket cell has.
    BLOCK: Owner::Protocol(Protocol::WebSocket as u8), from 3;
    words {
        /// Frames that break RFC 6455.
        INVALID_FRAMES: 1;
    }
    shares {
        /// Data messages.
        MESSAGES: 2 by [Direction::LABEL] => Family {
            name: "websocket_messages",
            help: "Text and binary messages on the replica's server connections, by direction as the server sees it.",
            rows: Rows::Replica,
            level: Level::Core,
            zeros: Zeros::All,
        };
    }
}
