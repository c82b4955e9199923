//! Bytes that mean harm: the books stay exact, and the daemon alive.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::Scenario;
use crate::{
    bytes::{
        GET, OK, SWITCHING, UPGRADE, grpc_call, masked, opcode, preface, switching_with, text,
        upgrade_with,
    },
    support::{
        daemon::Daemon,
        metrics::Expected,
        peer::Peer,
        pod::{Pod, check},
    },
};

const TCP: &[&str] = &[];
const HTTP1: &[&str] = &["http1"];
const WEBSOCKET: &[&str] = &["http1", "websocket"];
/// A head's longest line.
const ENDLESS: usize = 64 << 10;
/// Connections of the fuzz.
const CONNECTIONS: u64 = 400;

/// Scripted ones.
pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("hostile: an endless request header", HTTP1, |talk| {
            talk.client("GET / HTTP/1.1\r\nX-A: ")?;
            talk.client("A".repeat(ENDLESS))?;
            talk.client("\r\n\r\n")?;
            talk.server(OK)
        }),
        Scenario::new("hostile: an upgrade behind an endless header", WEBSOCKET, |talk| {
            let endless = format!("X-A: {}\r\nUpgrade: websocket\r\n", "A".repeat(ENDLESS));
            talk.client(upgrade_with(&endless))?;
            talk.server(switching_with(&endless))?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("hostile: an endless method", TCP, |talk| {
            talk.client("A".repeat(ENDLESS))?;
            talk.client("A".repeat(ENDLESS))
        }),
        Scenario::new("hostile: an endless target", HTTP1, |talk| {
            talk.client(format!("GET /{}", "a".repeat(ENDLESS)))?;
            talk.client(" HTTP/1.1\r\nHost: a\r\n\r\n")?;
            talk.server(OK)
        }),
        Scenario::new("hostile: thousands of header lines", WEBSOCKET, |talk| {
            let lines = format!("{}Upgrade: websocket\r\n", "U:\r\n".repeat(10_000));
            talk.client(upgrade_with(&lines))?;
            talk.server(SWITCHING)
        }),
        Scenario::new("hostile: reserved opcodes", WEBSOCKET, |talk| {
            talk.upgrade()?;
            // Two frames of reserved kinds, a message, a fragmented ping.
            talk.client([0x83, 0x80, 0, 0, 0, 0, 0x8b, 0x80, 0, 0, 0, 0])?;
            talk.client(masked(b"x"))?;
            talk.client([opcode::PING, 0x80, 0, 0, 0, 0])
        })
        .messages(1, 0)
        .errors(3),
        Scenario::new("hostile: a frame of 2^63 bytes", WEBSOCKET, |talk| {
            talk.upgrade()?;
            talk.server([0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])?;
            talk.server(text(b"payload, not a frame").repeat(100))
        })
        .messages(0, 1),
        Scenario::new("hostile: an unasked 101", HTTP1, |talk| {
            talk.client(GET)?;
            talk.server(SWITCHING)
        }),
        Scenario::new("hostile: HTTP/2 frames that claim 16 MiB", &["http2"], |talk| {
            talk.client(preface())?;
            talk.client([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])?;
            talk.client([preface(), grpc_call()].concat())
        }),
    ]
}

/// Random bytes over some hundred connections, some of them behind handshakes, some ended by a reset.
pub(crate) fn fuzz(daemon: &Daemon) -> Result<()> {
    let (client_pod, server_pod) = (Pod::new(), Pod::new());
    let mut client = Peer::start(&client_pod.cgroup, None);
    let mut server = Peer::start(&server_pod.cgroup, None);
    let address = server.listen((Ipv4Addr::LOCALHOST, 0).into(), false)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..CONNECTIONS {
        client.ask(&format!("connect {address}"))?;
        server.ask("accept")?;
        for request in openings(&mut random) {
            client.say_send(&request)?;
            server.expect(&request)?;
            client.answer()?;
            let response = answer_to(&request, &mut random);
            server.say_send(&response)?;
            client.expect(&response)?;
            server.answer()?;
        }
        // Both at once: whoever closes first, and how, differs from connection to connection.
        let [ours, theirs] = [&mut client, &mut server].map(|peer| {
            peer.say(if random.below(4) == 0 { "reset" } else { "close" }).map(|()| peer)
        });
        ours?.answer()?;
        theirs?.answer()?;
    }
    let books = |pod: &Pod, role| {
        let all = [("pod", pod.name.as_str())];
        let labels = [all[0], ("role", role)];
        vec![
            Expected::sum("tcp_connections_opened_total", &all, CONNECTIONS),
            Expected::sum("tcp_connections_opened_total", &labels, CONNECTIONS),
            Expected::sum("tcp_connections_closed_total", &all, CONNECTIONS),
            Expected::sum("tcp_connections_active", &all, 0),
            Expected::sum("websocket_connections_active", &all, 0),
            Expected::sum("grpc_connections_active", &all, 0),
        ]
    };
    let expected =
        [(&client_pod, books(&client_pod, "client")), (&server_pod, books(&server_pod, "server"))];
    check(daemon, &expected)?;
    // Not one cell by itself may have gone wrong while the sum is right.
    let metrics = daemon.scrape();
    for pod in [&client_pod, &server_pod] {
        for sample in metrics.select("tcp_connections_active", &[("pod", &pod.name)]) {
            ensure!(sample.value == 0.0, "{sample} is {} though all is over", sample.value);
        }
    }
    Ok(())
}

/// What a client says: random bytes, or known ones with some of their bytes changed.
fn openings(random: &mut Random) -> Vec<Vec<u8>> {
    let mut openings = match random.below(4) {
        0 => vec![UPGRADE.into(), masked(b"hello").repeat(5)],
        1 => vec![preface(), grpc_call()],
        2 => vec![GET.into(), UPGRADE.into(), masked(&[0; 300])],
        _ => vec![],
    };
    // The first third stays whole, so that what follows is reached.
    for opening in openings.iter_mut().skip(random.below(3) as usize) {
        for _ in 0..random.below(4) {
            let at = random.below(opening.len() as u64) as usize;
            opening[at] = random.next() as u8;
        }
    }
    openings.extend((0..=random.below(3)).map(|_| {
        let length = 1 + random.below(3000);
        (0..length).map(|_| random.next() as u8).collect()
    }));
    openings
}

/// What a server says to it.
fn answer_to(request: &[u8], random: &mut Random) -> Vec<u8> {
    let mut answer: Vec<u8> = if request == UPGRADE.as_bytes() {
        SWITCHING.into()
    } else if request.starts_with(b"GET") {
        OK.into()
    } else {
        (0..=random.below(200)).map(|_| random.next() as u8).collect()
    };
    if random.below(8) == 0 {
        let at = random.below(answer.len() as u64) as usize;
        answer[at] = random.next() as u8;
    }
    answer
}

/// Marsaglia's xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
