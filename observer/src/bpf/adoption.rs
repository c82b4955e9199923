//! The iterator that gives sockets from before the start their state.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
    programs::{Iter, ProgramError, links::LinkError},
};
use nix::time::{ClockId, clock_gettime};
use observer_common::{
    label::{Path, Role},
    protocol::{guess, http1::exchange},
    stream::Stream,
    wire::conn::{Conn, MAX_FOUND, NO_CELL, flag, phase},
};
use thiserror::Error;

/// A connection that exists.
#[derive(Clone, Debug)]
pub struct Existing {
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// The socket's cgroup id.
    pub cgroup: u64,
    /// Which end of the connection it is.
    pub role: Role,
    /// Where the other end is.
    pub path: Path,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// Time since the last payload.
    pub quiet: Duration,
}

/// Why connections could not be adopted.
#[derive(Debug, Error)]
pub enum AdoptionError {
    /// The table of what was found could not be filled.
    #[error("cannot fill the table of connections: {0}")]
    Map(#[from] MapError),
    /// The iterator was refused.
    #[error("cannot attach the iterator: {0}")]
    Program(#[from] ProgramError),
    /// The iterator was refused.
    #[error("cannot start the iterator: {0}")]
    Link(#[from] LinkError),
    /// The iterator broke off.
    #[error("the iterator broke off: {0}")]
    Run(#[from] std::io::Error),
}

/// [`Conn`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct State(Conn);
// SAFETY: `repr(C)`, integers only, no padding (its size is the sum of its fields, asserted where it is defined).
unsafe impl Pod for State {}

/// The iterator and the table it looks up.
pub struct Adopter<'a> {
    pub(super) program: &'a mut Iter,
    pub(super) found: HashMap<MapData, u64, State>,
}

impl Adopter<'_> {
    /// Gives the sockets of the calling thread's network namespace their state, if they are among `existing` and have
    /// none. How many of them the iterator has not met: it has skipped them, or they are gone.
    ///
    /// # Errors
    /// If the kernel refuses; what has been adopted until then stays.
    pub fn adopt(&mut self, existing: &[Existing]) -> Result<usize, AdoptionError> {
        let mut missed = 0;
        for part in existing.chunks(MAX_FOUND) {
            for socket in part {
                self.found.insert(socket.cookie, State(state(socket)), 0)?;
            }
            let outcome = self.run();
            for socket in part {
                let met = self.found.get(&socket.cookie, 0)?.0.phase != phase::ESTABLISHED;
                missed += usize::from(!met);
                self.found.remove(&socket.cookie)?;
            }
            outcome?;
        }
        Ok(missed)
    }

    fn run(&mut self) -> Result<(), AdoptionError> {
        let link = self.program.attach()?;
        let mut iterator = self.program.take_link(link)?.into_file()?;
        let mut nothing = Vec::new();
        iterator.read_to_end(&mut nothing)?;
        Ok(())
    }
}

/// The state that the socket gets.
fn state(socket: &Existing) -> Conn {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(1, |now| {
        now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()
    });
    let quiet = u64::try_from(socket.quiet.as_nanos()).unwrap_or(0);
    let payload_ns = now.saturating_sub(quiet).max(1);
    let (local, peer) = (socket.local, socket.peer);
    Conn {
        cookie: socket.cookie,
        cgroup: socket.cgroup,
        born_ns: now,
        ticks: [0; 2],
        facts: exchange::adopted().word(),
        rtt_ns: 0,
        cell: NO_CELL,
        retransmits: 0,
        port: if socket.role == Role::Server { local.port() } else { peer.port() },
        role: socket.role as u8,
        reset_cause: 0,
        flags: flag::CONFIRMED
            | flag::ADDRESSED
            | flag::ADOPTED
            | if socket.path == Path::Internal { flag::INTERNAL } else { 0 },
        local_port: local.port(),
        peer_port: peer.port(),
        phase: phase::ESTABLISHED,
        orders: [0; 2],
        kept: [0; 2],
        fin_seq: 0,
        room_1: 0,
        request: Stream { payload_ns, parser: guess::begin(), ..Stream::default() },
        room_2: [0; 4],
        response: Stream { parser: guess::begin(), ..Stream::default() },
        closed_ns: 0,
        error_ns: 0,
        syn_ns: 0,
        local_addr: words(local.ip()),
        peer_addr: words(peer.ip()),
    }
}

/// An address as four words in network order, IPv4 as IPv4-mapped IPv6.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    std::array::from_fn(|i| {
        let at = 4 * i;
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_the_kernel_programs_write_them() {
        assert_eq!(
            words("10.1.2.3".parse().unwrap()),
            [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 1, 2, 3])]
        );
        assert_eq!(words("::1".parse().unwrap()), [0, 0, 0, 1_u32.to_be()]);
    }

    #[test]
    fn an_adopted_connection_counts_for_the_servers_port() {
        let existing = |role| Existing {
            cookie: 7,
            cgroup: 8,
            role,
            path: Path::External,
            local: "127.0.0.1:9000".parse().unwrap(),
            peer: "127.0.0.1:40000".parse().unwrap(),
            quiet: Duration::from_secs(3),
        };
        assert_eq!(state(&existing(Role::Server)).port, 9000);
        let client = state(&existing(Role::Client));
        assert_eq!(client.port, 40000);
        assert!(
            client.born_ns - client.request.payload_ns >= 3_000_000_000
                || client.request.payload_ns == 1
        );
    }
}
