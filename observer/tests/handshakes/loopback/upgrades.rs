//! Connections that become something else, however it is put.

use super::Scenario;
use crate::bytes::{
    CLIENT_HELLO, GET, OK, SWITCHING, UPGRADE, grpc_call, masked, preface, response, settings,
    switching_with, text, upgrade_with,
};

const HTTP1: &[&str] = &["http1"];
const WEBSOCKET: &[&str] = &["http1", "websocket"];
const UPGRADED: &[&str] = &["http1", "upgrade"];
const GRPC: &[&str] = &["http2", "grpc"];

/// The first data comes in the segment that completes the TCP handshake.
pub(crate) fn first_segment() -> Vec<Scenario> {
    vec![
        Scenario::new("deferred: HTTP/1", HTTP1, |talk| {
            talk.client(GET)?;
            talk.server(OK)
        })
        .deferred(),
        Scenario::new("deferred: WebSocket", WEBSOCKET, |talk| {
            talk.upgrade()?;
            talk.client(masked(b"hello"))?;
            talk.server(text(b"hello"))
        })
        .messages(1, 1)
        .deferred(),
        Scenario::new("deferred: half of an upgrade request", WEBSOCKET, |talk| {
            let (first, rest) = UPGRADE.split_at(UPGRADE.find("grade: web").expect("is there"));
            talk.client(first)?;
            talk.client(rest)?;
            talk.server(SWITCHING)?;
            talk.client(masked(b"hello"))
        })
        .messages(1, 0)
        .deferred(),
        Scenario::new("deferred: one byte", WEBSOCKET, |talk| {
            talk.client(&UPGRADE[..1])?;
            talk.client(&UPGRADE[1..])?;
            talk.server(SWITCHING)
        })
        .deferred(),
        Scenario::new("deferred: gRPC", GRPC, |talk| {
            talk.client([preface(), grpc_call()].concat())?;
            talk.server(settings())
        })
        .deferred(),
        Scenario::new("deferred: the HTTP/2 preface, then gRPC", GRPC, |talk| {
            talk.client(preface())?;
            talk.server(settings())?;
            talk.client(grpc_call())
        })
        .deferred(),
        Scenario::new("deferred: TLS", &["tls"], |talk| talk.client(CLIENT_HELLO)).deferred(),
    ]
}

/// Each byte is a segment.
pub(crate) fn bytewise() -> Vec<Scenario> {
    vec![
        Scenario::new("bytewise: HTTP/1", HTTP1, |talk| {
            talk.client_bytewise(GET)?;
            talk.server_bytewise(OK)
        }),
        Scenario::new("bytewise: WebSocket", WEBSOCKET, |talk| {
            talk.client_bytewise(UPGRADE)?;
            talk.server_bytewise(SWITCHING)?;
            talk.client_bytewise(masked(b"hello"))?;
            talk.server_bytewise(text(b"hello"))?;
            talk.server_bytewise(text(&[b'x'; 200]))
        })
        .messages(1, 2),
        Scenario::new("bytewise: gRPC", GRPC, |talk| {
            talk.client_bytewise(preface())?;
            talk.server_bytewise(settings())?;
            talk.client_bytewise(grpc_call())
        }),
        Scenario::new("bytewise: TLS", &["tls"], |talk| talk.client_bytewise(CLIENT_HELLO)),
    ]
}

/// Where on the connection the upgrade stands, and what stands around it.
pub(crate) fn place() -> Vec<Scenario> {
    vec![
        Scenario::new("frames in the segment of the 101", WEBSOCKET, |talk| {
            talk.client(UPGRADE)?;
            let frames = [text(b"one"), text(b"two"), text(b"three")].concat();
            talk.server([SWITCHING.as_bytes(), &frames].concat())?;
            talk.client([masked(b"four"), masked(b"five")].concat())
        })
        .messages(2, 3),
        Scenario::new("the first byte of a frame in the segment of the 101", WEBSOCKET, |talk| {
            talk.client(UPGRADE)?;
            let frame = text(b"one");
            talk.server([SWITCHING.as_bytes(), &frame[..1]].concat())?;
            talk.server(&frame[1..])
        })
        .messages(0, 1),
        Scenario::new("on the third request", WEBSOCKET, |talk| {
            talk.client(GET)?;
            talk.server(OK)?;
            talk.client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            talk.client("5\r\nhello\r\n")?;
            talk.client("0\r\n\r\n")?;
            talk.server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            talk.server("5\r\nhello\r\n0\r\n\r\n")?;
            talk.upgrade()?;
            talk.client(masked(b"hello"))
        })
        .messages(1, 0),
        Scenario::new("100 Continue first", WEBSOCKET, |talk| {
            talk.client(upgrade_with("Upgrade: websocket\r\nExpect: 100-continue\r\n"))?;
            talk.server("HTTP/1.1 100 Continue\r\n\r\n")?;
            talk.server(SWITCHING)?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("103 Early Hints first, in the segment of the 101", WEBSOCKET, |talk| {
            talk.client(UPGRADE)?;
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
            talk.server(format!("{hints}{hints}{SWITCHING}"))?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("last of three pipelined requests", WEBSOCKET, |talk| {
            talk.client(format!("{GET}{GET}{UPGRADE}"))?;
            talk.server(OK)?;
            talk.server(OK)?;
            talk.server(SWITCHING)?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("refused, asked again, granted", WEBSOCKET, |talk| {
            talk.client(UPGRADE)?;
            talk.server(response("401 Unauthorized", "no"))?;
            talk.upgrade()
        }),
    ]
}

/// How it is spelled.
pub(crate) fn spelling() -> Vec<Scenario> {
    vec![
        Scenario::new("any case", WEBSOCKET, |talk| {
            talk.client(upgrade_with("uPgRaDe: WebSocket\r\n"))?;
            talk.server(switching_with("UPGRADE:wEBsOCKET\r\n"))?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("a list of protocols", WEBSOCKET, |talk| {
            talk.client(upgrade_with("Upgrade: foo, websocket\r\n"))?;
            talk.server(SWITCHING)
        }),
        Scenario::new("two Upgrade lines", WEBSOCKET, |talk| {
            talk.client(upgrade_with("Upgrade: foo/2\r\nUpgrade: websocket\r\n"))?;
            talk.server(SWITCHING)
        }),
        Scenario::new("tabs and trailing blanks", WEBSOCKET, |talk| {
            talk.client(upgrade_with("Upgrade:\twebsocket \t\r\n"))?;
            talk.server(switching_with("Upgrade:\t websocket\t \r\n"))
        }),
        Scenario::new("the last header", WEBSOCKET, |talk| {
            talk.client("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")?;
            talk.server("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n")
        }),
        Scenario::new("bare line feeds", WEBSOCKET, |talk| {
            talk.client(UPGRADE.replace("\r\n", "\n"))?;
            talk.server(SWITCHING.replace("\r\n", "\n"))?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
        Scenario::new("no reason phrase", WEBSOCKET, |talk| {
            talk.client(UPGRADE)?;
            talk.server(SWITCHING.replace("101 Switching Protocols", "101"))
        }),
        Scenario::new("cut within `Upgrade`", WEBSOCKET, |talk| {
            for (whole, request) in [(UPGRADE, true), (SWITCHING, false)] {
                let cut = whole.find("grade: websocket").expect("it is there");
                for part in [&whole[..cut], &whole[cut..]] {
                    if request { talk.client(part)? } else { talk.server(part)? }
                }
            }
            Ok(())
        }),
        Scenario::new("cut within the value and the empty line", WEBSOCKET, |talk| {
            for (whole, request) in [(UPGRADE, true), (SWITCHING, false)] {
                let cut = whole.find("socket\r\n").expect("it is there");
                for part in [&whole[..cut], &whole[cut..whole.len() - 1], &whole[whole.len() - 1..]]
                {
                    if request { talk.client(part)? } else { talk.server(part)? }
                }
            }
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
    ]
}

/// Not WebSocket.
pub(crate) fn others() -> Vec<Scenario> {
    vec![
        Scenario::new("101 to another protocol", UPGRADED, |talk| {
            talk.client(upgrade_with("Upgrade: custom\r\n"))?;
            talk.server(switching_with("Upgrade: custom\r\n"))?;
            // Two frames, if it were WebSocket.
            talk.server([text(b"one"), text(b"two")].concat())
        }),
        Scenario::new("101 to a protocol that starts like WebSocket", UPGRADED, |talk| {
            talk.client(upgrade_with("Upgrade: websockets\r\n"))?;
            talk.server(switching_with("Upgrade: websockets\r\n"))
        }),
        Scenario::new("101 that names websocket elsewhere only", UPGRADED, |talk| {
            talk.client(UPGRADE)?;
            talk.server(switching_with("Upgrade: custom\r\nX-Upgrade: websocket\r\n"))
        }),
        Scenario::new("101 without an Upgrade header", UPGRADED, |talk| {
            talk.client(UPGRADE)?;
            talk.server(switching_with(""))
        }),
        Scenario::new("h2c", &["http1", "http2"], |talk| {
            talk.client(upgrade_with("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"))?;
            talk.server(switching_with("Upgrade: h2c\r\n"))?;
            talk.server(settings())?;
            talk.client(preface())
        }),
        Scenario::new("h2c, then gRPC", &["http1", "http2", "grpc"], |talk| {
            talk.client(upgrade_with("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"))?;
            let head = switching_with("Upgrade: h2c\r\n");
            talk.server([head.as_bytes(), &settings()].concat())?;
            talk.client([preface(), grpc_call()].concat())
        }),
        Scenario::new("websocket of the two that were asked for", WEBSOCKET, |talk| {
            talk.client(upgrade_with("Upgrade: h2c, websocket\r\n"))?;
            talk.server(SWITCHING)?;
            talk.server(text(b"hello"))
        })
        .messages(0, 1),
    ]
}
