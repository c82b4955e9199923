//! The TCP sockets of the thread's network namespace, from the kernel's `sock_diag` (`sock_diag(7)`).

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::Context as _;
use netlink_packet_core::{
    NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// `INET_DIAG_REQ_SK_BPF_STORAGES` and `INET_DIAG_SK_BPF_STORAGES`, `linux/inet_diag.h`, since Linux 5.7; what is nested in
/// them is in `linux/sock_diag.h`.
const ASK_STATES: u16 = 2;
const STATES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`
const ASK_MAP: u16 = 1;
/// `SK_DIAG_BPF_STORAGE`
const STATE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`
const VALUE: u16 = 3;
/// `INET_DIAG_CGROUP_ID`, `linux/inet_diag.h`, since Linux 5.8.
const CGROUP_ID: u16 = 21;
/// Offsets of `tcpi_last_data_sent` and `tcpi_last_data_recv`, milliseconds, in `struct tcp_info` (linux/tcp.h).
const LAST_DATA: [usize; 2] = [44, 52];

/// One socket.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) cookie: u64,
    /// The cgroup (v2) id; 0 if the kernel does not tell.
    pub(super) cgroup: u64,
    pub(super) listens: bool,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Time since the last payload in either direction, or since the handshake without any.
    pub(super) quiet: Duration,
}

/// The listeners, and the sockets between the handshake and the end.
///
/// # Errors
/// If the kernel has no `sock_diag` for TCP, or answers what cannot be read.
pub(super) fn dump() -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (family, any) in families() {
        visit(&request(family, any, ExtensionFlags::INFO), &mut |response| {
            sockets.push(socket_of(response));
            Ok(())
        })?;
    }
    Ok(sockets)
}

/// Shows what the kernel programs keep in the storage `states` of each of these sockets.
///
/// # Errors
/// As [`dump`], if the kernel does not show the storage (before Linux 5.7), or what `see` says.
pub(crate) fn visit_states(
    states: BorrowedFd<'_>,
    see: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    for (family, any) in families() {
        let mut request = request(family, any, ExtensionFlags::empty());
        ask_states(&mut request, states);
        visit(&request, &mut |response| {
            let attributes = response.nlas.iter().filter_map(|attribute| match attribute {
                Nla::Other(other) if other.kind() & NLA_TYPE_MASK == STATES => Some(other),
                _ => None,
            });
            for attribute in attributes {
                let mut bytes = vec![0; attribute.value_len()];
                attribute.emit_value(&mut bytes);
                let state = nested(&bytes, STATE).and_then(|state| nested(state, VALUE));
                state.map_or(Ok(()), &mut *see)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn families() -> [(u8, SocketId); 2] {
    [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())]
}

/// Adds to a request that the storage of this map is to be shown.
fn ask_states(request: &mut Vec<u8>, states: BorrowedFd<'_>) {
    let inner = [8_u16.to_ne_bytes(), ASK_MAP.to_ne_bytes()].concat();
    let outer = [12_u16.to_ne_bytes(), (ASK_STATES | NLA_F_NESTED).to_ne_bytes()].concat();
    request.extend([&outer[..], &inner, &states.as_raw_fd().to_ne_bytes()].concat());
    let length = (request.len() as u32).to_ne_bytes();
    request[..4].copy_from_slice(&length);
}

/// The value of the first attribute of this type among several (`netlink(7)`).
fn nested(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let is = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if is == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Asks, and shows each answer.
fn visit(
    request: &[u8],
    see: &mut dyn FnMut(&InetResponse) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG).context("cannot open sock_diag")?;
    netlink.bind_auto().context("cannot bind to sock_diag")?;
    netlink.connect(&NetlinkAddr::new(0, 0)).context("cannot reach sock_diag")?;
    netlink.send(request, 0).context("cannot ask sock_diag")?;
    loop {
        let (answer, _) = netlink.recv_from_full().context("sock_diag does not answer")?;
        if !read(&answer, see)? {
            return Ok(());
        }
    }
}

fn request(family: u8, any: SocketId, extensions: ExtensionFlags) -> Vec<u8> {
    let not_wanted =
        StateFlags::SYN_SENT | StateFlags::SYN_RECV | StateFlags::TIME_WAIT | StateFlags::CLOSE;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions,
        states: StateFlags::all() - not_wanted,
        socket_id: any,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of answers; false once the dump is complete.
fn read(
    mut answer: &[u8],
    see: &mut dyn FnMut(&InetResponse) -> io::Result<()>,
) -> anyhow::Result<bool> {
    while !answer.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer)
            .context("sock_diag's answer cannot be read")?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                see(&socket)?;
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) => {
                return Err(error.to_io()).context("sock_diag refuses to list TCP sockets");
            }
            _ => {}
        }
        // Messages are aligned to four bytes.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        answer = answer.get(length..).unwrap_or_default();
    }
    Ok(true)
}

fn socket_of(response: &InetResponse) -> Socket {
    let id = &response.header.socket_id;
    let mut cgroup = 0;
    let mut quiet = Duration::ZERO;
    for attribute in &response.nlas {
        match attribute {
            Nla::Other(other) if other.kind() == CGROUP_ID => {
                let mut bytes = vec![0; other.value_len()];
                other.emit_value(&mut bytes);
                cgroup = bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
            Nla::TcpInfo(info) => quiet = since_payload(info),
            _ => {}
        }
    }
    Socket {
        cookie: u64::from_ne_bytes(id.cookie),
        cgroup,
        listens: response.header.state == TCP_LISTEN,
        local: SocketAddr::new(id.source_address, id.source_port),
        peer: SocketAddr::new(id.destination_address, id.destination_port),
        quiet,
    }
}

fn since_payload(info: &[u8]) -> Duration {
    let milliseconds = LAST_DATA.iter().filter_map(|&offset| {
        let word = info.get(offset..offset + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(word))
    });
    Duration::from_millis(milliseconds.min().unwrap_or(0).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_found_with_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let _server = listener.accept().unwrap();
        let sockets = dump().unwrap();
        assert!(sockets.iter().any(|socket| socket.listens && socket.local == address));
        let ours = client.local_addr().unwrap();
        let found: Vec<_> = sockets.iter().filter(|socket| socket.local == ours).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].peer, address);
        assert!(found[0].quiet < Duration::from_mins(1));
        assert!(found[0].cgroup != 0 && found[0].cookie != 0);
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        assert!(read(&[1; 40], &mut |_| Ok(())).is_err());
        assert!(read(&[], &mut |_| Ok(())).unwrap());
    }

    #[test]
    fn attributes_are_found_among_others() {
        // Five bytes of a type that is not asked for, padded to eight; then one of the type that is.
        let bytes = [[5, 0, 9, 0], [7, 0, 0, 0], [6, 0, 3, 0x80], [1, 2, 0, 0]].concat();
        assert_eq!(nested(&bytes, 3), Some(&[1, 2][..]));
        assert_eq!(nested(&bytes, 9), Some(&[7][..]));
        assert_eq!(nested(&bytes, 4), None);
        for cut in 0..bytes.len() - 2 {
            assert_eq!(nested(&bytes[..cut], 3), None, "{cut}");
        }
        assert_eq!(nested(&[0; 8], 3), None, "a length that cannot be");
    }

    #[test]
    fn quiet_is_the_shorter_of_both_directions() {
        let mut info = vec![0; 104];
        info[44..48].copy_from_slice(&9_000_u32.to_ne_bytes());
        info[52..56].copy_from_slice(&3_000_u32.to_ne_bytes());
        assert_eq!(since_payload(&info), Duration::from_secs(3));
        assert_eq!(since_payload(&[]), Duration::ZERO);
    }
}
