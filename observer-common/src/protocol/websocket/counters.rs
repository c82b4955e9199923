//! What WebSocket connections are counted by, beside what all connections are.

use crate::{
    counters,
    counters::{Family, Level, Owner, Rows, Zeros},
    label::{Direction, wire_enum},
    protocol::Protocol,
};

wire_enum! {
    /// Control frames that keep a connection alive.
    Control as "kind" {
        /// `Ping` (RFC 6455 section 5.5.2).
        Ping = 0 => "ping",
        /// `Pong` (section 5.5.3).
        Pong = 1 => "pong",
    }
}

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
            help: "Text and binary messages on the connections of the replica's users, by direction as the replica sees it. A fragmented message counts once.",
            rows: Rows::Replica,
            level: Level::Core,
            zeros: Zeros::All,
        };
        /// Pings and pongs.
        CONTROL_FRAMES: 4 by [Control::LABEL, Direction::LABEL] => Family {
            name: "websocket_control_frames",
            help: "Pings and pongs on the connections of the replica's users, by direction as the replica sees it.",
            rows: Rows::Replica,
            level: Level::Full,
            zeros: Zeros::None,
        };
    }
}
