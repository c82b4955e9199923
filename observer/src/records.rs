//! The log of ended connections (`--connection-log`): one line each, like an access log that is written at the close.
//!
//! Records come through a ring buffer that is allowed to drop; what it drops is counted (`observer_lost_total`), and no
//! metric depends on it. A line names addresses, times and counts, and nothing of what was said on the connection.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use observer_common::{
    conn::{RX, TX},
    protocol::{Protocol, Reason, Role},
    record::ConnRecord,
};
use thiserror::Error;
use tracing::info;

use crate::attribute::Identity;

/// One ended connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The socket's cgroup id.
    pub cgroup: u64,
    /// Server or client.
    pub role: Role,
    /// The protocol it spoke last.
    pub protocol: Protocol,
    /// How it ended.
    pub reason: Reason,
    /// This node's address.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// From the established handshake to the end of the socket.
    pub lifetime: Duration,
    /// From the last payload, or the birth without any, to the end.
    pub idle: Duration,
    /// Payload bytes received and sent.
    pub bytes: [u64; 2],
    /// Segments sent again.
    pub retransmits: u32,
}

/// A record that this version cannot read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Not the length of a record.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// Unknown role, protocol or reason number.
    #[error("a record with an unknown number")]
    Number,
}

impl TryFrom<&[u8]> for Ended {
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
        let (born, closed) =
            (long(offset_of!(ConnRecord, born_ns)), long(offset_of!(ConnRecord, closed_ns)));
        let payload = match long(offset_of!(ConnRecord, payload_ns)) {
            0 => born,
            payload => payload,
        };
        Ok(Self {
            cgroup: long(offset_of!(ConnRecord, cgroup)),
            role: Role::from_wire(byte(offset_of!(ConnRecord, role))).ok_or(RecordError::Number)?,
            protocol: Protocol::from_wire(byte(offset_of!(ConnRecord, protocol)))
                .ok_or(RecordError::Number)?,
            reason: Reason::from_wire(byte(offset_of!(ConnRecord, reason)))
                .ok_or(RecordError::Number)?,
            local: address(offset_of!(ConnRecord, local_addr), offset_of!(ConnRecord, local_port)),
            peer: address(offset_of!(ConnRecord, peer_addr), offset_of!(ConnRecord, peer_port)),
            lifetime: Duration::from_nanos(closed.saturating_sub(born)),
            idle: Duration::from_nanos(closed.saturating_sub(payload)),
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

impl Ended {
    /// Writes the line.
    pub fn log(&self, identity: &Identity) {
        info!(
            target: "connection",
            namespace = identity.namespace,
            pod = identity.pod,
            container = identity.container,
            role = self.role.label(),
            protocol = self.protocol.label(),
            local = %self.local,
            peer = %self.peer,
            reason = self.reason.label(),
            seconds = self.lifetime.as_secs_f64(),
            idle_seconds = self.idle.as_secs_f64(),
            received_bytes = self.bytes[RX],
            sent_bytes = self.bytes[TX],
            retransmits = self.retransmits,
            "closed"
        );
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
        put(offset_of!(ConnRecord, closed_ns), &5_000_u64.to_ne_bytes());
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
        let ended = Ended::try_from(&bytes[..]).unwrap();
        assert_eq!(
            (ended.cgroup, ended.role, ended.protocol, ended.reason),
            (7, Role::Client, Protocol::Tls, Reason::ResetPeer)
        );
        assert_eq!(ended.peer, "192.0.2.1:443".parse().unwrap());
        assert_eq!(
            (ended.lifetime, ended.idle),
            (Duration::from_micros(4), Duration::from_micros(1))
        );
        assert_eq!(ended.bytes, [0, 9]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ended::try_from(&bytes[..]);
        }
    }
}
