//! Records of single connections: how the kernel tells of one that has ended, or that was found to speak a protocol.
//!
//! Records come through a ring buffer that is allowed to drop; what it drops is counted (`observer_lost_total`), and no
//! count depends on it. They name addresses, times and counts, and nothing of what was said on the connection.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use observer_common::{
    label::{Reason, ResetCause, Role},
    protocol::Protocol,
    wire::{
        conn::{RX, TX, flag},
        event::{ConnRecord, kind},
    },
};
use thiserror::Error;
/// The target of the lines of `--connection-log`.
pub const TARGET: &str = "connection";

/// One connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What has happened.
    pub event: Event,
    /// The socket's cgroup id.
    pub cgroup: u64,
    /// Server or client.
    pub role: Role,
    /// The protocol it spoke last.
    pub protocol: Protocol,
    /// This node's address.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// When it happened, by `CLOCK_MONOTONIC`.
    pub at: Duration,
    /// From the established handshake until then; from the adoption of one that is older than the programs.
    pub lifetime: Duration,
    /// Whether it is older than the programs.
    pub adopted: bool,
    /// From the last payload, or the birth without any, until then; never longer than the lifetime.
    pub idle: Duration,
    /// Payload bytes received and sent.
    pub bytes: [u64; 2],
    /// Segments sent again.
    pub retransmits: u32,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection was found to speak its protocol.
    Identified,
    /// The connection is open: it was looked at, and nothing has happened.
    Open,
    /// The connection has ended.
    Ended {
        /// How.
        reason: Reason,
        /// Why this node has sent a reset, if it has.
        reset: Option<ResetCause>,
    },
}

/// A record that this version cannot read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Not the length of a record.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// Unknown kind, role, protocol or reason number.
    #[error("a record with an unknown number")]
    Number,
}

impl TryFrom<&[u8]> for Record {
    type Error = RecordError;

    fn try_from(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() != size_of::<ConnRecord>() {
            return Err(RecordError::Length(bytes.len()));
        }
        let byte = |offset: usize| bytes[offset];
        let short = |offset: usize| u16::from_ne_bytes([bytes[offset], bytes[offset + 1]]);
        let long = |offset: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[offset + i]));
        let address = |offset: usize, port: usize| {
            let octets: [u8; 16] = std::array::from_fn(|i| bytes[offset + i]);
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), short(port))
        };
        let (born, at) =
            (long(offset_of!(ConnRecord, born_ns)), long(offset_of!(ConnRecord, at_ns)));
        // 0 without any. Payload is timed by the kernel's tick, which lags: it may seem older than the connection.
        let payload = long(offset_of!(ConnRecord, payload_ns)).max(born);
        let flags = u32::from(short(offset_of!(ConnRecord, flags)));
        let event = match byte(offset_of!(ConnRecord, kind)) {
            kind::IDENTIFIED => Event::Identified,
            kind::ENDED => Event::Ended {
                reason: Reason::from_wire(byte(offset_of!(ConnRecord, reason)))
                    .ok_or(RecordError::Number)?,
                reset: (flags & flag::RESET_LOCAL != 0).then(|| {
                    ResetCause::from_wire(byte(offset_of!(ConnRecord, reset_cause)))
                        .unwrap_or(ResetCause::Unspecified)
                }),
            },
            _ => return Err(RecordError::Number),
        };
        Ok(Self {
            event,
            cgroup: long(offset_of!(ConnRecord, cgroup)),
            role: Role::from_wire(byte(offset_of!(ConnRecord, role))).ok_or(RecordError::Number)?,
            protocol: Protocol::from_wire(byte(offset_of!(ConnRecord, protocol)))
                .ok_or(RecordError::Number)?,
            local: address(offset_of!(ConnRecord, local_addr), offset_of!(ConnRecord, local_port)),
            peer: address(offset_of!(ConnRecord, peer_addr), offset_of!(ConnRecord, peer_port)),
            at: Duration::from_nanos(at),
            lifetime: Duration::from_nanos(at.saturating_sub(born)),
            adopted: flags & flag::ADOPTED != 0,
            idle: Duration::from_nanos(at.saturating_sub(payload)),
            bytes: {
                let mut counts = [0; 2];
                counts[RX] = long(offset_of!(ConnRecord, rx_bytes));
                counts[TX] = long(offset_of!(ConnRecord, tx_bytes));
                counts
            },
            retransmits: u32::from_ne_bytes(std::array::from_fn(|i| {
                bytes[offset_of!(ConnRecord, retransmits) + i]
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_read_where_the_kernel_writes_it() {
        let mut bytes = [0; size_of::<ConnRecord>()];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(offset_of!(ConnRecord, cgroup), &7_u64.to_ne_bytes());
        put(offset_of!(ConnRecord, born_ns), &1_000_u64.to_ne_bytes());
        put(offset_of!(ConnRecord, at_ns), &5_000_u64.to_ne_bytes());
        put(offset_of!(ConnRecord, payload_ns), &4_000_u64.to_ne_bytes());
        put(offset_of!(ConnRecord, tx_bytes), &9_u64.to_ne_bytes());
        put(
            offset_of!(ConnRecord, peer_addr),
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1],
        );
        put(offset_of!(ConnRecord, peer_port), &443_u16.to_ne_bytes());
        put(offset_of!(ConnRecord, role), &[Role::Client as u8]);
        put(offset_of!(ConnRecord, protocol), &[Protocol::Tls as u8]);
        put(offset_of!(ConnRecord, reason), &[Reason::ResetPeer as u8]);
        let flags = flag::RESET_LOCAL | flag::ADOPTED;
        put(offset_of!(ConnRecord, flags), &(flags as u16).to_ne_bytes());
        put(offset_of!(ConnRecord, reset_cause), &[ResetCause::AbortOnClose as u8]);
        let ended = Record::try_from(&bytes[..]).unwrap();
        let event =
            Event::Ended { reason: Reason::ResetPeer, reset: Some(ResetCause::AbortOnClose) };
        assert_eq!(
            (ended.cgroup, ended.role, ended.protocol, ended.event, ended.adopted),
            (7, Role::Client, Protocol::Tls, event, true)
        );
        assert_eq!(ended.peer, "192.0.2.1:443".parse().unwrap());
        assert_eq!(
            (ended.lifetime, ended.idle),
            (Duration::from_micros(4), Duration::from_micros(1))
        );
        assert_eq!((ended.at, ended.bytes), (Duration::from_micros(5), [0, 9]));
        bytes[offset_of!(ConnRecord, kind)] = kind::IDENTIFIED;
        assert_eq!(Record::try_from(&bytes[..]).unwrap().event, Event::Identified);
        // The kernel's tick lags behind.
        let early = 900_u64.to_ne_bytes();
        bytes[offset_of!(ConnRecord, payload_ns)..][..8].copy_from_slice(&early);
        let early = Record::try_from(&bytes[..]).unwrap();
        assert_eq!(early.idle, early.lifetime, "no connection idles for longer than it lives");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::try_from(&bytes[..]);
        }
    }
}
