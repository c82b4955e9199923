//! A connection record: the details of a connection at one moment, sent through the ring buffer. Records may be dropped
//! (and are then counted); no metric depends on them.

/// Why a record is sent.
pub mod kind {
    /// The connection has ended.
    pub const ENDED: u8 = 0;
    /// The connection was found to speak a protocol.
    pub const IDENTIFIED: u8 = 1;
}

/// One connection at one moment. 104 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ConnRecord {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// The socket's cgroup id.
    pub cgroup: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at ESTABLISHED.
    pub born_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the moment: CLOSE, or the segment that told the protocol.
    pub at_ns: u64,
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
    /// [`crate::label::Role`].
    pub role: u8,
    /// [`crate::protocol::Protocol`].
    pub protocol: u8,
    /// [`crate::label::Reason`]; of an ended connection only.
    pub reason: u8,
    /// [`crate::label::ResetCause`] of the reset this node sent, 0 if it sent none.
    pub reset_cause: u8,
    /// Segments sent again.
    pub retransmits: u32,
    /// The lower half of [`crate::wire::conn::flag`], which is all there are.
    pub flags: u16,
    /// [`kind`].
    pub kind: u8,
    /// Always 0.
    pub zero: u8,
}

const _: () = assert!(size_of::<ConnRecord>() == 104);
