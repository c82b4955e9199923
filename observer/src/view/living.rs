//! The connections that are open: sockets as `sock_diag` lists them, each with the state that the kernel programs have given it.
//!
//! `sock_diag` lists the sockets of one network namespace. Those of namespaces that this process may not enter
//! (`CAP_SYS_ADMIN`) are told as numbers: what their replicas count as active.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    io,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use observer_common::{
    label::Role,
    stream::Stream,
    wire::conn::{self, Conn, RX, TX, flag, phase},
};
use serde::{Deserialize, Serialize};

use super::{Filter, Sort};
use crate::{
    adopt::{namespaces, sockets},
    attribute::Identity,
    collect::{Collector, OpenCell, lock},
    records::{Event, Record},
};

/// Connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those that are shown.
    pub records: Vec<(Record, Arc<Identity>)>,
    /// How many are wanted and were listed, shown or not.
    pub wanted: u64,
    /// Those that are wanted and counted, and were not listed one by one.
    pub unlisted: Vec<Unlisted>,
    /// Why some were not: network namespaces that could not be entered.
    pub refused: Vec<String>,
}

/// Connections of which only the number is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisted {
    /// As the label.
    pub namespace: String,
    /// As the label.
    pub pod: String,
    /// As the label.
    pub role: String,
    /// As the label.
    pub protocol: String,
    /// How many.
    pub connections: u64,
}

/// What is kept of a connection: its place in the order, and a number that tells equal ones apart.
type Place = (Reverse<(u64, u64)>, usize);

/// Lists the connections that `filter` wants; keeps the first `limit` by `sort`.
///
/// # Errors
/// If the cells cannot be read, or no socket at all can be listed.
pub(super) fn list(
    collector: &Mutex<Collector>,
    filter: &Filter,
    sort: Sort,
    limit: usize,
) -> anyhow::Result<Listing> {
    let (states, mut cells) = {
        let mut collector = lock(collector);
        collector.refresh();
        (collector.probes().states_of_sockets()?, collector.open_cells()?)
    };
    let mut listed: HashMap<u32, u64> = HashMap::new();
    let mut kept: BinaryHeap<Place> = BinaryHeap::new();
    let mut records: HashMap<usize, (Record, Arc<Identity>)> = HashMap::new();
    let (mut wanted, mut number) = (0, 0);
    let mut newest = false;
    let mut see = |state: &[u8]| -> io::Result<()> {
        let Some(open) = Open::read(state) else { return Ok(()) };
        if !cells.contains_key(&open.cell) && !newest {
            // It has moved into a cell that is younger than the list of cells.
            cells = lock(collector).open_cells()?;
            newest = true;
        }
        let Some(cell) = cells.get(&open.cell) else { return Ok(()) };
        *listed.entry(open.cell).or_default() += 1;
        let record = open.record(cell, now());
        if !filter.wants(&record, &cell.identity) {
            return Ok(());
        }
        wanted += 1;
        number += 1;
        kept.push((Reverse((weight(&record, sort), record.lifetime.as_nanos() as u64)), number));
        records.insert(number, (record, Arc::clone(&cell.identity)));
        if kept.len() > limit
            && let Some((_, last)) = kept.pop()
        {
            records.remove(&last);
        }
        Ok(())
    };
    let visited = namespaces::visit_all(|| sockets::visit_states(states.as_fd(), &mut see));
    let refused: Vec<String> =
        visited.failures.iter().map(|failure| format!("{failure:#}")).collect();
    if visited.entered == 0 {
        anyhow::bail!("the kernel lists no sockets: {}", refused.join("; "));
    }
    let order = kept.into_sorted_vec();
    let records = order.into_iter().filter_map(|(_, number)| records.remove(&number)).collect();
    let unlisted = if refused.is_empty() { Vec::new() } else { rest(&cells, &listed, filter) };
    Ok(Listing { records, wanted, unlisted, refused })
}

fn weight(record: &Record, sort: Sort) -> u64 {
    match sort {
        Sort::Age => record.lifetime.as_nanos() as u64,
        Sort::Idle => record.idle.as_nanos() as u64,
        Sort::Bytes => record.bytes.iter().sum(),
        Sort::Retransmits => record.retransmits.into(),
    }
}

/// What the books have beyond what was listed. What a filter asks of single connections cannot be known of these.
fn rest(
    cells: &HashMap<u32, OpenCell>,
    listed: &HashMap<u32, u64>,
    filter: &Filter,
) -> Vec<Unlisted> {
    let mut rest: BTreeMap<[&str; 4], u64> = BTreeMap::new();
    for (index, cell) in cells {
        let seen = listed.get(index).copied().unwrap_or(0);
        let more = cell.active.saturating_sub(seen);
        let key = (cell.role, cell.protocol, cell.port);
        if more != 0 && filter.reason.is_empty() && filter.wants_cell(&cell.identity, key) {
            let Identity { namespace, pod, .. } = &*cell.identity;
            let of = [namespace, pod.as_str(), cell.role.label(), cell.protocol.label()];
            *rest.entry(of).or_default() += more;
        }
    }
    let unlisted = |([namespace, pod, role, protocol], connections): ([&str; 4], u64)| Unlisted {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        role: role.to_owned(),
        protocol: protocol.to_owned(),
        connections,
    };
    rest.into_iter().map(unlisted).collect()
}

fn now() -> Duration {
    // The clock is there on every kernel.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into)
}

/// A connection as its state tells it.
struct Open {
    cell: u32,
    role: u8,
    adopted: bool,
    born: Duration,
    payload: Duration,
    local: SocketAddr,
    peer: SocketAddr,
    /// As the client and as the server send.
    request_bytes: u64,
    response_bytes: u64,
    retransmits: u32,
}

impl Open {
    /// Reads a state; `None` for that of a socket that is no open connection.
    fn read(state: &[u8]) -> Option<Self> {
        if state.len() < size_of::<Conn>() {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| state[at + i]));
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| state[at + i]));
        let short = |at: usize| u16::from_ne_bytes([state[at], state[at + 1]]);
        if word(offset_of!(Conn, phase)) != phase::COUNTED {
            return None;
        }
        let address = |at: usize, port: usize| {
            let octets: [u8; 16] = std::array::from_fn(|i| state[at + i]);
            let ip = IpAddr::from(octets).to_canonical();
            SocketAddr::new(ip, short(port))
        };
        let stream = |at: usize| {
            (long(at + offset_of!(Stream, bytes)), long(at + offset_of!(Stream, payload_ns)))
        };
        let (request_bytes, asked) = stream(offset_of!(Conn, request));
        let (response_bytes, answered) = stream(offset_of!(Conn, response));
        let born = long(offset_of!(Conn, born_ns));
        Some(Self {
            cell: word(offset_of!(Conn, cell)),
            role: state[offset_of!(Conn, role)],
            adopted: word(offset_of!(Conn, flags)) & flag::ADOPTED != 0,
            born: Duration::from_nanos(born),
            // Payload is timed by the kernel's tick, which lags.
            payload: Duration::from_nanos(asked.max(answered).max(born)),
            local: address(offset_of!(Conn, local_addr), offset_of!(Conn, local_port)),
            peer: address(offset_of!(Conn, peer_addr), offset_of!(Conn, peer_port)),
            request_bytes,
            response_bytes,
            retransmits: word(offset_of!(Conn, retransmits)),
        })
    }

    fn record(&self, cell: &OpenCell, now: Duration) -> Record {
        let mut bytes = [0; 2];
        for direction in [RX, TX] {
            let request = conn::is_request(self.role, direction);
            bytes[direction] = if request { self.request_bytes } else { self.response_bytes };
        }
        Record {
            event: Event::Open,
            cgroup: cell.cgroup,
            role: Role::from_wire(self.role).unwrap_or(cell.role),
            protocol: cell.protocol,
            local: self.local,
            peer: self.peer,
            at: now,
            lifetime: now.saturating_sub(self.born),
            adopted: self.adopted,
            idle: now.saturating_sub(self.payload),
            bytes,
            retransmits: self.retransmits,
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_common::protocol::Protocol;

    use super::*;
    use crate::attribute::identify;

    fn cell(active: u64, port: u16) -> OpenCell {
        OpenCell {
            cgroup: 7,
            identity: Arc::new(identify("/system.slice/nginx.service")),
            role: Role::Server,
            protocol: Protocol::WebSocket,
            port,
            active,
        }
    }

    fn state() -> Vec<u8> {
        let mut state = vec![0; size_of::<Conn>()];
        let mut put = |at: usize, value: &[u8]| state[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(Conn, phase), &phase::COUNTED.to_ne_bytes());
        put(offset_of!(Conn, cell), &3_u32.to_ne_bytes());
        put(offset_of!(Conn, born_ns), &1_000_u64.to_ne_bytes());
        put(offset_of!(Conn, request) + offset_of!(Stream, bytes), &11_u64.to_ne_bytes());
        put(offset_of!(Conn, response) + offset_of!(Stream, bytes), &22_u64.to_ne_bytes());
        put(offset_of!(Conn, response) + offset_of!(Stream, payload_ns), &4_000_u64.to_ne_bytes());
        put(offset_of!(Conn, local_addr) + 10, &[0xff, 0xff, 192, 0, 2, 1]);
        put(offset_of!(Conn, local_port), &80_u16.to_ne_bytes());
        put(offset_of!(Conn, retransmits), &5_u32.to_ne_bytes());
        state
    }

    #[test]
    fn a_state_is_read_where_the_kernel_writes_it() {
        let open = Open::read(&state()).unwrap();
        let record = open.record(&cell(1, 80), Duration::from_micros(9));
        assert_eq!(open.cell, 3);
        assert_eq!((record.bytes, record.retransmits), ([11, 22], 5), "as the server sees it");
        assert_eq!(record.local, "192.0.2.1:80".parse().unwrap());
        let times = (record.lifetime.as_nanos(), record.idle.as_nanos());
        assert_eq!((times, record.adopted), ((8_000, 5_000), false));
    }

    #[test]
    fn the_client_receives_what_the_server_sends() {
        let mut state = state();
        state[offset_of!(Conn, role)] = Role::Client as u8;
        let record = Open::read(&state).unwrap().record(&cell(1, 80), Duration::from_secs(1));
        assert_eq!((record.role, record.bytes), (Role::Client, [22, 11]));
    }

    #[test]
    fn listeners_and_what_is_over_are_no_connections() {
        for other in [phase::NEW, phase::LISTENER, phase::CONNECTING, phase::CLOSED] {
            let mut state = state();
            state[offset_of!(Conn, phase)..][..4].copy_from_slice(&other.to_ne_bytes());
            assert!(Open::read(&state).is_none(), "{other}");
        }
        assert!(Open::read(&[]).is_none());
    }

    #[test]
    fn what_was_not_listed_is_told_as_a_number() {
        let cells = HashMap::from([(3, cell(5, 80)), (4, cell(2, 81)), (5, cell(1, 82))]);
        let listed = HashMap::from([(3, 1), (5, 1)]);
        let all = rest(&cells, &listed, &Filter::default());
        assert_eq!(all.iter().map(|rest| rest.connections).collect::<Vec<_>>(), [4 + 2]);
        assert_eq!((all[0].pod.as_str(), all[0].protocol.as_str()), ("nginx.service", "websocket"));
        let one_port = rest(&cells, &listed, &Filter { port: vec![81], ..Filter::default() });
        assert_eq!(one_port[0].connections, 2);
    }
}
