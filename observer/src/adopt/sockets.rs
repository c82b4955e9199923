//! The TCP sockets of the thread's network namespace, from the kernel's `sock_diag` (`sock_diag(7)`).

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

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
    let mut sockets = dump_family(AF_INET, SocketId::new_v4())?;
    sockets.extend(dump_family(AF_INET6, SocketId::new_v6())?);
    Ok(sockets)
}

fn dump_family(family: u8, any: SocketId) -> anyhow::Result<Vec<Socket>> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG).context("cannot open sock_diag")?;
    netlink.bind_auto().context("cannot bind to sock_diag")?;
    netlink.connect(&NetlinkAddr::new(0, 0)).context("cannot reach sock_diag")?;
    netlink.send(&request(family, any), 0).context("cannot ask sock_diag")?;
    let mut sockets = Vec::new();
    loop {
        let (answer, _) = netlink.recv_from_full().context("sock_diag does not answer")?;
        if !read(&answer, &mut sockets)? {
            return Ok(sockets);
        }
    }
}

fn request(family: u8, any: SocketId) -> Vec<u8> {
    let not_wanted =
        StateFlags::SYN_SENT | StateFlags::SYN_RECV | StateFlags::TIME_WAIT | StateFlags::CLOSE;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
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
fn read(mut answer: &[u8], sockets: &mut Vec<Socket>) -> anyhow::Result<bool> {
    while !answer.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer)
            .context("sock_diag's answer cannot be read")?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                sockets.push(socket_of(&socket));
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
        assert!(read(&[1; 40], &mut Vec::new()).is_err());
        assert!(read(&[], &mut Vec::new()).unwrap());
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
