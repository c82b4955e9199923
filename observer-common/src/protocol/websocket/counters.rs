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

wire_enum! {
    /// Why a connection was closed (RFC 6455 section 7.4 and the registry that it begins).
    CloseCode as "code" {
        /// Normal Closure.
        Normal = 0 => "1000",
        /// Going Away: a server that stops, a page that is left.
        GoingAway = 1 => "1001",
        /// Protocol error.
        ProtocolError = 2 => "1002",
        /// Unsupported Data.
        UnsupportedData = 3 => "1003",
        /// No code: a Close frame without one.
        None = 4 => "1005",
        /// Abnormal Closure: TCP has ended without a Close frame.
        Abnormal = 5 => "1006",
        /// Invalid frame payload data: no UTF-8.
        InvalidData = 6 => "1007",
        /// Policy Violation.
        PolicyViolation = 7 => "1008",
        /// Message Too Big.
        TooBig = 8 => "1009",
        /// Mandatory Extension.
        MandatoryExtension = 9 => "1010",
        /// Internal Error.
        InternalError = 10 => "1011",
        /// Service Restart.
        ServiceRestart = 11 => "1012",
        /// Try Again Later.
        TryAgainLater = 12 => "1013",
        /// Bad Gateway.
        BadGateway = 13 => "1014",
        /// Of libraries and frameworks.
        Registered = 14 => "3xxx",
        /// Of the application's own.
        Private = 15 => "4xxx",
        /// A code that must not be sent.
        Other = 16 => "other",
    }
}

impl CloseCode {
    /// That of a code as it was sent.
    #[inline(always)]
    #[must_use]
    pub const fn of(code: u16) -> usize {
        /// By the lower four bits of the number: 1008 to 1015, then 1000 to 1007. The compiler would fold a difference into the
        /// table's address, which the verifier refuses ("min value is outside of the allowed memory range").
        const BY_BITS: [CloseCode; 16] = {
            use CloseCode::{
                BadGateway, GoingAway, InternalError, InvalidData, MandatoryExtension, Normal,
                Other, PolicyViolation, ProtocolError, ServiceRestart, TooBig, TryAgainLater,
                UnsupportedData,
            };
            [
                PolicyViolation,
                TooBig,
                MandatoryExtension,
                InternalError,
                ServiceRestart,
                TryAgainLater,
                BadGateway,
                Other,
                Normal,
                GoingAway,
                ProtocolError,
                UnsupportedData,
                Other,
                Other,
                Other,
                InvalidData,
            ]
        };
        match code {
            1000..=1015 => BY_BITS[code as usize & 15] as usize,
            3000..=3999 => Self::Registered as usize,
            4000..=4999 => Self::Private as usize,
            _ => Self::Other as usize,
        }
    }
}

wire_enum! {
    /// Who began to close a connection.
    Initiator as "initiator" {
        /// The server.
        Server = 0 => "server",
        /// The client.
        Client = 1 => "client",
    }
}

counters! {
    /// What a WebSocket cell has.
    BLOCK: Owner::Protocols(1 << Protocol::WebSocket as u32), from 3;
    words {
        /// Frames that break RFC 6455.
        INVALID_FRAMES: 1;
        /// Connections that were closed.
        CLOSES: 64 by [CloseCode::LABEL, Initiator::LABEL] => Family {
            name: "websocket_closes",
            help: "WebSocket connections of the replica's users that were closed, by the code of the first Close frame and who sent it; 1006 without one, by who ended the connection.",
            rows: Rows::Replica,
            level: Level::Standard,
            zeros: Zeros::None,
        };
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
