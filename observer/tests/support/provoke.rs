//! One event of each kind that alerts look at, of pods that have had a connection before.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    netns::{NetnsPair, ip},
    peer::Peer,
    pod::Pod,
};

const REQUEST: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// How long unacknowledged data may stay so, in milliseconds.
const USER_TIMEOUT: u32 = 1_000;

/// A server and a client in namespaces of their own, with a connection for each event.
pub(crate) struct Scene {
    plain: Pair,
    websocket: Pair,
    slow: Pair,
    client: Peer,
    /// Where nobody listens any more.
    gone: SocketAddr,
    near: Pod,
    far: Pod,
    namespaces: NetnsPair,
}

/// Both ends of a connection.
struct Pair {
    server: Peer,
    client: Peer,
    /// The server's.
    address: SocketAddr,
}

impl Pair {
    fn connect(near: &Pod, far: &Pod, namespaces: &NetnsPair) -> Result<Self> {
        let mut server = Peer::start(&near.cgroup, Some(&namespaces.b));
        let mut client = Peer::start(&far.cgroup, Some(&namespaces.a));
        let address = server.listen((namespaces.b.ipv4(), 0).into(), false)?;
        client.ask(&format!("connect {address}"))?;
        server.ask("accept")?;
        Ok(Self { server, client, address })
    }
}

impl Scene {
    /// Opens the connections; nothing goes wrong yet.
    pub(crate) fn new() -> Result<Self> {
        let (namespaces, near, far) = (NetnsPair::new(), Pod::new(), Pod::new());
        let connect = || Pair::connect(&near, &far, &namespaces);
        let (plain, slow, mut websocket, mut over) =
            (connect()?, connect()?, connect()?, connect()?);
        let Pair { server, client, .. } = &mut websocket;
        client.say_send(REQUEST)?;
        client.answer()?;
        server.ask("receive-head")?;
        server.say_send(ANSWER)?;
        server.answer()?;
        client.ask("receive-head")?;
        let gone = over.address;
        over.client.ask("close")?;
        drop(over);
        let client = Peer::start(&far.cgroup, Some(&namespaces.a));
        Ok(Self { plain, websocket, slow, client, gone, near, far, namespaces })
    }

    /// The client's pod.
    pub(crate) fn far(&self) -> &str {
        &self.far.name
    }

    /// Both pods.
    pub(crate) fn pods(&self) -> [&str; 2] {
        [&self.near.name, &self.far.name]
    }

    /// The series in which each event shows.
    pub(crate) fn series(&self) -> [String; 4] {
        let closed = |pod: &Pod, role, pair: &Pair, reason| {
            let (pod, port) = (&pod.name, pair.address.port());
            format!(
                r#"tcp_connections_closed_total{{pod="{pod}",role="{role}",port="{port}",reason="{reason}"}}"#
            )
        };
        let (near, far, port) = (&self.near.name, &self.far.name, self.gone.port());
        [
            closed(&self.near, "server", &self.plain, "reset_peer"),
            format!(r#"websocket_errors_total{{pod="{near}",cause="reset_peer"}}"#),
            format!(r#"tcp_connect_failures_total{{pod="{far}",port="{port}",reason="refused"}}"#),
            closed(&self.far, "client", &self.slow, "timeout"),
        ]
    }

    /// A reset, an error of a WebSocket, a connect that is refused, and a connection that times out.
    pub(crate) fn provoke(&mut self) -> Result<()> {
        self.plain.client.ask("reset")?;
        self.websocket.client.ask("reset")?;
        ensure!(self.client.ask(&format!("connect {}", self.gone)).is_err(), "nobody listens");
        // What comes from there, acknowledgements included, goes nowhere.
        let (from, to) = (self.namespaces.b.name(), self.namespaces.a.ipv4());
        ip(&format!("-n {from} route add blackhole {to}/32"));
        self.slow.client.ask(&format!("user-timeout {USER_TIMEOUT}"))?;
        self.slow.client.say_send(b"?")?;
        self.slow.client.answer()?;
        Ok(())
    }
}
