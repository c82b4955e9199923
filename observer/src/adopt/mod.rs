//! Connections that are older than the kernel programs: found in every network namespace, and handed to the kernel as
//! the state that their sockets get.
//!
//! `sock_diag` tells what exists and to which cgroup it belongs; the iterator of [`crate::bpf::adoption`] attaches the
//! state, under each socket's lock. The programs are attached before: what is opened meanwhile they see themselves, and
//! the iterator leaves it alone.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
};

use anyhow::Context as _;
use observer_common::{
    label::{Path, Role},
    wire::replica,
};
use tracing::{info, warn};

use crate::bpf::adoption::{Adopter, Existing};

pub(crate) mod namespaces;
pub(crate) mod sockets;

use sockets::Socket;

/// At least so often: a socket that moves between the kernel's tables during a dump may be left out of it.
const PASSES: u32 = 2;
/// And until all that is listed has been met by the iterator, which before Linux 6.16 may skip sockets when it is resumed, but no
/// more often than this: among very many short connections some are always gone by then.
const MAX_PASSES: u32 = 16;

/// Where connections from before the start were looked for.
#[derive(Debug, Default)]
pub struct Visit {
    /// Whether that was in every network namespace.
    pub everywhere: bool,
    /// The cgroups of all sockets that were there.
    pub cgroups: HashSet<u64>,
}

/// Adopts the established connections of every network namespace that can be entered; says in the log how many, and
/// what could not be entered. `number` is that of whom a cgroup belongs to.
pub fn adopt_all(mut adopter: Adopter<'_>, number: impl Fn(u64) -> Option<u64> + Sync) -> Visit {
    let (mut found, mut cgroups) = (HashSet::new(), HashSet::new());
    let visited = namespaces::visit_all(|| {
        let mut missed = 0;
        for pass in 0..MAX_PASSES {
            let sockets = sockets::dump()?;
            cgroups.extend(sockets.iter().map(|socket| socket.cgroup));
            let existing = existing(&sockets, &client_ports(), &number);
            found.extend(existing.iter().map(|socket| socket.cookie));
            missed = adopter.adopt(&existing).context("the kernel's iterator failed")?;
            if missed == 0 && pass + 1 >= PASSES {
                break;
            }
        }
        if missed != 0 {
            info!(
                connections = missed,
                "the kernel lists connections that are adopted once they speak"
            );
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
    Visit { everywhere: visited.failures.is_empty(), cgroups }
}

/// The connections among the sockets of the thread's namespace. Both ends of one that is internal are among them.
fn existing(
    sockets: &[Socket],
    ports: &RangeInclusive<u16>,
    number: impl Fn(u64) -> Option<u64>,
) -> Vec<Existing> {
    let cgroups: HashMap<(SocketAddr, SocketAddr), u64> =
        sockets.iter().map(|socket| ((socket.local, socket.peer), socket.cgroup)).collect();
    let path = |socket: &Socket| {
        let other = cgroups.get(&(socket.peer, socket.local)).and_then(|&cgroup| number(cgroup));
        match (number(socket.cgroup), other) {
            (Some(own), Some(other)) if own == other && own != replica::NONE => Path::Internal,
            _ => Path::External,
        }
    };
    let listening: HashSet<u16> =
        sockets.iter().filter(|socket| socket.listens).map(|socket| socket.local.port()).collect();
    sockets
        .iter()
        .filter(|socket| !socket.listens && socket.cgroup != 0)
        .map(|socket| Existing {
            cookie: socket.cookie,
            cgroup: socket.cgroup,
            role: role(socket, &listening, ports),
            path: path(socket),
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
    use std::time::Duration;

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
        assert!(existing(&[listener], &CLIENTS, |_| None).is_empty());
        assert_eq!(existing(&[socket(80, 33_000)], &CLIENTS, |_| None).len(), 1);
    }

    #[test]
    fn both_ends_in_one_pod_are_internal() {
        let server = socket(80, 33_000);
        let client = Socket { cgroup: 2, ..socket(33_000, 80) };
        let stranger = Socket { cgroup: 3, ..socket(80, 34_000) };
        let sockets = [server, client, stranger];
        let paths = |number: fn(u64) -> Option<u64>| -> Vec<Path> {
            existing(&sockets, &CLIENTS, number).iter().map(|found| found.path).collect()
        };
        assert_eq!(paths(|_| Some(6)), [Path::Internal, Path::Internal, Path::External]);
        let no_pod = [Path::External; 3];
        assert_eq!(paths(|_| Some(replica::NONE)), no_pod);
        assert_eq!(paths(|cgroup| Some(2 * cgroup)), no_pod);
        assert_eq!(paths(|cgroup| (cgroup == 1).then_some(6)), no_pod);
    }

    #[test]
    fn this_machine_has_ports_for_clients() {
        assert!(!client_ports().is_empty());
    }
}
