//! Connections that are older than the kernel programs: found in every network namespace, and handed to the kernel as
//! the state that their sockets get.
//!
//! `sock_diag` tells what exists and to which cgroup it belongs; the iterator of [`crate::bpf::adoption`] attaches the
//! state, under each socket's lock. The programs are attached before: what is opened meanwhile they see themselves, and
//! the iterator leaves it alone.

use std::{collections::HashSet, fs, ops::RangeInclusive};

use anyhow::Context as _;
use observer_common::label::Role;
use tracing::{info, warn};

use crate::bpf::adoption::{Adopter, Existing};

mod namespaces;
mod sockets;

use sockets::Socket;

/// Twice: a socket that moves between the kernel's tables during a dump may be left out of it.
const PASSES: u32 = 2;

/// Adopts the established connections of every network namespace that can be entered; says in the log how many, and
/// what could not be entered.
pub fn adopt_all(mut adopter: Adopter<'_>) {
    let mut found = HashSet::new();
    let visited = namespaces::visit_all(|| {
        for _ in 0..PASSES {
            let sockets = sockets::dump()?;
            let existing = existing(&sockets, &client_ports());
            found.extend(existing.iter().map(|socket| socket.cookie));
            adopter.adopt(&existing).context("the kernel's iterator failed")?;
        }
        Ok(())
    });
    for failure in &visited.failures {
        warn!(
            error = format!("{failure:#}"),
            "connections of a network namespace from before the start are not seen"
        );
    }
    info!(
        connections = found.len(),
        namespaces = visited.entered,
        "looked for connections from before the start"
    );
}

/// The connections among the sockets of the thread's namespace.
fn existing(sockets: &[Socket], ports: &RangeInclusive<u16>) -> Vec<Existing> {
    let listening: HashSet<u16> =
        sockets.iter().filter(|socket| socket.listens).map(|socket| socket.local.port()).collect();
    sockets
        .iter()
        .filter(|socket| !socket.listens && socket.cgroup != 0)
        .map(|socket| Existing {
            cookie: socket.cookie,
            cgroup: socket.cgroup,
            role: role(socket, &listening, ports),
            local: socket.local,
            peer: socket.peer,
            quiet: socket.quiet,
        })
        .collect()
}

/// The kernel does not say who connected. Where somebody listens on the local port it was the peer. A server that has
/// stopped listening is told by its port, which is none of those that `clients` get.
fn role(socket: &Socket, listening: &HashSet<u16>, clients: &RangeInclusive<u16>) -> Role {
    let (local, peer) = (socket.local.port(), socket.peer.port());
    if listening.contains(&local) || (!clients.contains(&local) && clients.contains(&peer)) {
        Role::Server
    } else {
        Role::Client
    }
}

/// The ports that the kernel gives to clients in the thread's namespace (`ip_local_port_range`, `ip(7)`).
fn client_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32_768..=60_999,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, time::Duration};

    fn socket(local: u16, peer: u16) -> Socket {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Socket {
            cookie: 1,
            cgroup: 1,
            listens: false,
            local: address(local),
            peer: address(peer),
            quiet: Duration::ZERO,
        }
    }

    const CLIENTS: RangeInclusive<u16> = 32_768..=60_999;

    #[test]
    fn who_listens_is_the_server() {
        let listening = HashSet::from([40_000]);
        assert_eq!(role(&socket(40_000, 50_000), &listening, &CLIENTS), Role::Server);
        assert_eq!(role(&socket(50_000, 40_000), &listening, &CLIENTS), Role::Client);
        // The peer listens elsewhere.
        assert_eq!(role(&socket(33_000, 50_000), &listening, &CLIENTS), Role::Client);
    }

    #[test]
    fn who_has_stopped_listening_has_no_clients_port() {
        let listening = HashSet::new();
        assert_eq!(role(&socket(8080, 33_000), &listening, &CLIENTS), Role::Server);
        assert_eq!(role(&socket(33_000, 8080), &listening, &CLIENTS), Role::Client);
        assert_eq!(role(&socket(700, 800), &listening, &CLIENTS), Role::Client);
    }

    #[test]
    fn listeners_are_no_connections() {
        let listener = Socket { listens: true, ..socket(80, 0) };
        assert!(existing(&[listener], &CLIENTS).is_empty());
        assert_eq!(existing(&[socket(80, 33_000)], &CLIENTS).len(), 1);
    }

    #[test]
    fn this_machine_has_ports_for_clients() {
        assert!(!client_ports().is_empty());
    }
}
