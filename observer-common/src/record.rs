//! A connection record: the details of one ended connection, sent through the ring buffer. Records may be dropped (and
//! are then counted); no metric depends on them.

/// One ended connection. 104 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ConnRecord {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The socket's cgroup id.
    pub cgroup: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at ESTABLISHED.
    pub born_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at CLOSE.
    pub closed_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the last payload in either direction, 0 without any.
    pub payload_ns: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// Payload bytes sent.
    pub tx_bytes: u64,
    /// Local address; IPv4 as IPv4-mapped IPv6; network order.
    pub local_addr: [u32; 4],
    /// Peer address; IPv4 as IPv4-mapped IPv6; network order.
    pub peer_addr: [u32; 4],
    /// Local port.
    pub local_port: u16,
    /// Peer port.
    pub peer_port: u16,
    /// [`crate::protocol::Role`].
    pub role: u8,
    /// [`crate::protocol::Protocol`].
    pub protocol: u8,
    /// [`crate::protocol::Reason`].
    pub reason: u8,
    /// [`crate::protocol::ResetCause`] of the reset this node sent, 0 if it sent none.
    pub reset_cause: u8,
    /// Segments sent again.
    pub retransmits: u32,
    /// [`crate::conn::flag`].
    pub flags: u16,
    /// Always 0.
    pub zero: u16,
}

const _: () = assert!(size_of::<ConnRecord>() == 104);
