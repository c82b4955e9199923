//! What connections of HTTP/2, and of gRPC over it, are counted by, beside what all connections are.

use crate::{
    counters,
    counters::{Family, Level, Owner, Rows, Zeros},
    label::{Direction, wire_enum},
    protocol::Protocol,
};

wire_enum! {
    /// Error codes (RFC 9113 section 7).
    ErrorCode as "code" {
        /// Graceful.
        NoError = 0 => "no_error",
        /// The peer breaks the protocol.
        ProtocolError = 1 => "protocol_error",
        /// An error of the sender's own.
        InternalError = 2 => "internal_error",
        /// Flow control was not kept.
        FlowControlError = 3 => "flow_control_error",
        /// Settings were not acknowledged.
        SettingsTimeout = 4 => "settings_timeout",
        /// A frame for a stream that is half-closed.
        StreamClosed = 5 => "stream_closed",
        /// A frame of an invalid size.
        FrameSizeError = 6 => "frame_size_error",
        /// The stream was not processed: the request may be sent again.
        RefusedStream = 7 => "refused_stream",
        /// The stream is not needed any more: a deadline, or a client that has gone.
        Cancel = 8 => "cancel",
        /// The state of header compression cannot be maintained.
        CompressionError = 9 => "compression_error",
        /// A tunnel's connection was reset or closed.
        ConnectError = 10 => "connect_error",
        /// Excessive load: `too_many_pings` of gRPC.
        EnhanceYourCalm = 11 => "enhance_your_calm",
        /// The transport is not secure enough.
        InadequateSecurity = 12 => "inadequate_security",
        /// HTTP/1.1 is required.
        Http11Required = 13 => "http_1_1_required",
        /// A code that RFC 9113 does not have.
        Other = 14 => "other",
    }
}

counters! {
    /// What a cell of HTTP/2 or gRPC has.
    BLOCK: Owner::Protocols(1 << Protocol::Http2 as u32 | 1 << Protocol::Grpc as u32), from 3;
    words {
        /// Streams that were reset.
        STREAM_RESETS: 32 by [ErrorCode::LABEL, Direction::LABEL] => Family {
            name: "http2_stream_resets",
            help: "Streams of HTTP/2 and gRPC that were reset (RST_STREAM), by error code.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Connections that were announced to end.
        GOAWAYS: 32 by [ErrorCode::LABEL, Direction::LABEL] => Family {
            name: "http2_goaways",
            help: "GOAWAY frames of HTTP/2 and gRPC, by error code; an orderly end may have two.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
    }
    shares {
        /// Streams that clients have opened.
        STREAMS: 1 => Family {
            name: "http2_streams",
            help: "Streams of HTTP/2 and gRPC that clients have opened: requests.",
            rows: Rows::Endpoint,
            level: Level::Full,
            zeros: Zeros::None,
        };
    }
}
