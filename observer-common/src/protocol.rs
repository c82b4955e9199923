//! Names of protocols, roles and endings, with their wire numbers.

/// Defines an enum with wire numbers, total conversions and label text.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// Every variant, in the order of the wire numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The variant with this wire number, or `None` for a number that this version does not know.
            #[must_use]
            pub const fn from_wire(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }

            /// The text used as a label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

wire_enum! {
    /// What a connection speaks, as far as its bytes have told.
    Protocol {
        /// Nothing recognised: another protocol, or no payload yet.
        Tcp = 0 => "tcp",
        /// A TLS record with a `ClientHello`.
        Tls = 1 => "tls",
        /// HTTP/1.0 or HTTP/1.1 (RFC 9112).
        Http1 = 2 => "http1",
        /// HTTP/2 (RFC 9113), by its connection preface.
        Http2 = 3 => "http2",
        /// HTTP/2 whose first request carries `content-type: application/grpc`.
        Grpc = 4 => "grpc",
        /// An HTTP/1.1 connection that a `101` response turned into a WebSocket (RFC 6455).
        WebSocket = 5 => "websocket",
        /// An HTTP/1.1 connection that a `101` response turned into something else.
        Upgrade = 6 => "upgrade",
    }
}

wire_enum! {
    /// Which end of the connection this node's socket is.
    Role {
        /// The socket was accepted.
        Server = 0 => "server",
        /// The socket connected.
        Client = 1 => "client",
    }
}

wire_enum! {
    /// How a connection ended, seen from this node's socket.
    Reason {
        /// We sent the first FIN.
        Local = 0 => "local",
        /// The peer sent the first FIN.
        Peer = 1 => "peer",
        /// We reset the connection.
        ResetLocal = 2 => "reset_local",
        /// The peer reset the connection.
        ResetPeer = 3 => "reset_peer",
        /// Retransmissions, keep-alive probes or the user timeout ran out.
        Timeout = 4 => "timeout",
        /// The socket was destroyed with data unread or by the death of its process.
        Aborted = 5 => "aborted",
        /// Nothing seen explains the end.
        Unknown = 6 => "unknown",
    }
}

wire_enum! {
    /// Why an attempt to connect failed.
    Failure {
        /// The peer answered with a reset: nobody listens there, or a firewall rejects.
        Refused = 0 => "refused",
        /// Nobody answered.
        TimedOut = 1 => "timed_out",
        /// The network said that there is no way.
        Unreachable = 2 => "unreachable",
        /// The program closed the socket before an answer came.
        Cancelled = 3 => "cancelled",
    }
}

wire_enum! {
    /// What ran out of time.
    Timeout {
        /// An attempt to connect.
        Connect = 0 => "connect",
        /// Retransmissions of data, by count or by `TCP_USER_TIMEOUT`.
        Retransmission = 1 => "retransmission",
        /// Keep-alive probes of an idle connection, by count or by `TCP_USER_TIMEOUT`.
        Keepalive = 2 => "keepalive",
    }
}

wire_enum! {
    /// Why this node sent a reset (the kernel's `enum sk_rst_reason`, from Linux 6.10 on; several of its values share one
    /// of these).
    ResetCause {
        /// The kernel does not say.
        Unspecified = 0 => "unspecified",
        /// A segment for which there is no socket.
        NoSocket = 1 => "no_socket",
        /// The program closed the socket with data unread.
        AbortOnClose = 2 => "abort_on_close",
        /// The program asked for it (`SO_LINGER` 0), or the linger time in `FIN_WAIT2` was over.
        AbortOnLinger = 3 => "abort_on_linger",
        /// Data arrived for a socket that the program had closed.
        AbortOnData = 4 => "abort_on_data",
        /// Out of memory for orphaned sockets.
        AbortOnMemory = 5 => "abort_on_memory",
        /// The program disconnected the socket.
        Disconnect = 6 => "disconnect",
        /// Keep-alive probes were not answered.
        KeepaliveTimeout = 7 => "keepalive_timeout",
        /// A segment that breaks the protocol or fits no state of the connection.
        InvalidSegment = 8 => "invalid_segment",
        /// A segment for a connection in `TIME_WAIT`.
        TimeWait = 9 => "time_wait",
        /// A reason of MPTCP.
        Mptcp = 10 => "mptcp",
    }
}

/// Slots for [`Failure`] and for [`Timeout`] in a cell; a power of two so that kernel code can mask the index.
pub const FAILURES: usize = 4;
/// Slots for [`ResetCause`] in a cell; a power of two, likewise.
pub const RESET_CAUSES: usize = 16;

/// Slots for [`Reason`] in a cell; a power of two so that kernel code can mask the index.
pub const REASONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_round_trip() {
        for &p in Protocol::ALL {
            assert_eq!(Protocol::from_wire(p as u8), Some(p));
        }
        for &r in Role::ALL {
            assert_eq!(Role::from_wire(r as u8), Some(r));
        }
        for &r in Reason::ALL {
            assert_eq!(Reason::from_wire(r as u8), Some(r));
            assert!((r as usize) < REASONS);
        }
        assert_eq!(Protocol::from_wire(200), None);
    }
}
