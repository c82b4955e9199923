//! Names of roles, endings and directions, with their wire numbers.

/// Defines an enum with wire numbers, total conversions and label text.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident as $label_name:literal { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $label:literal,)+ }) => {
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

            /// The label that tells them apart, with all values.
            pub const LABEL: $crate::counters::Label =
                $crate::counters::Label { name: $label_name, values: &[$($label,)+] };

            /// The text used as a label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}
pub(crate) use wire_enum;

wire_enum! {
    /// Which end of the connection this node's socket is.
    Role as "role" {
        /// The socket was accepted.
        Server = 0 => "server",
        /// The socket connected.
        Client = 1 => "client",
        /// The connection is older than the programs, nobody listens on its port, and its bytes have not told yet.
        Unknown = 2 => "unknown",
    }
}

wire_enum! {
    /// Where the other end of the connection is.
    Path as "path" {
        /// In another pod, or in none.
        External = 0 => "external",
        /// In the same pod.
        Internal = 1 => "internal",
    }
}

wire_enum! {
    /// Which way, as this node's socket sees it; also the index of per-direction arrays.
    Direction as "direction" {
        /// From the peer.
        Received = 0 => "received",
        /// To the peer.
        Sent = 1 => "sent",
    }
}

wire_enum! {
    /// Which end of a connection did something.
    Side as "side" {
        /// This node's socket, or the program behind it.
        Local = 0 => "local",
        /// The other end.
        Peer = 1 => "peer",
    }
}

wire_enum! {
    /// How a connection ended, seen from this node's socket.
    Reason as "reason" {
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
    Failure as "reason" {
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
    Timeout as "kind" {
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
    ResetCause as "cause" {
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

impl Reason {
    /// Which side has ended the connection; `None` if neither did, or nobody knows.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> Option<Side> {
        match self {
            Self::Local | Self::ResetLocal | Self::Aborted => Some(Side::Local),
            Self::Peer | Self::ResetPeer => Some(Side::Peer),
            Self::Timeout | Self::Unknown => None,
        }
    }
}

/// What the numbers of these names mean.
pub(crate) const fn meaning(mut hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let all = [
        Role::LABEL,
        Path::LABEL,
        Direction::LABEL,
        Side::LABEL,
        Reason::LABEL,
        Failure::LABEL,
        Timeout::LABEL,
        ResetCause::LABEL,
    ];
    let mut i = 0;
    while i < all.len() {
        hash = hash.text(all[i].name).texts(all[i].values);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_round_trip() {
        for &r in Role::ALL {
            assert_eq!(Role::from_wire(r as u8), Some(r));
        }
        for &r in Reason::ALL {
            assert_eq!(Reason::from_wire(r as u8), Some(r));
        }
        assert_eq!(Reason::from_wire(200), None);
    }
}
