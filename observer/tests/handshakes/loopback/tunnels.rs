//! What comes before a protocol: a tunnel, a proxy's word, a request with another method.

use super::Scenario;
use crate::bytes::{
    CLIENT_HELLO, GET, OK, grpc_call, masked, preface, response, settings, switching_with, text,
};

const CONNECT: &str = "CONNECT server.example:443 HTTP/1.1\r\nHost: server.example:443\r\n\r\n";
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";
/// As `kubectl exec` asks for it.
const EXEC: &str = "POST /api/v1/namespaces/a/pods/b/exec?command=sh HTTP/1.1\r\nHost: k\r\n\
    Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";
const V1: &str = "PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n";

/// Version 2 of the PROXY protocol, for IPv4 and with a TLV.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    let rest =
        [&[198, 51, 100, 7, 203, 0, 113, 9, 0x9c, 0x40, 1, 0xbb][..], b"\x04\0\x03abc"].concat();
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

/// `CONNECT`, answered with 200.
pub(crate) fn tunnels() -> Vec<Scenario> {
    const INSIDE: &[&str] = &["http1", "upgrade", "http1", "websocket"];
    vec![
        Scenario::new("tunnel: TLS", &["http1", "upgrade", "tls"], |talk| {
            talk.client(CONNECT)?;
            talk.server(ESTABLISHED)?;
            talk.client(CLIENT_HELLO)
        }),
        Scenario::new("tunnel: gRPC", &["http1", "upgrade", "http2", "grpc"], |talk| {
            talk.client(CONNECT)?;
            talk.server(ESTABLISHED)?;
            talk.client(preface())?;
            talk.server(settings())?;
            talk.client(grpc_call())
        }),
        Scenario::new(
            "tunnel: gRPC whose server begins",
            &["http1", "upgrade", "http2", "grpc"],
            |talk| {
                talk.client(CONNECT)?;
                talk.server([ESTABLISHED.as_bytes(), &settings()].concat())?;
                talk.client([preface(), grpc_call()].concat())
            },
        ),
        Scenario::new("tunnel: WebSocket", INSIDE, |talk| {
            talk.client(CONNECT)?;
            talk.server(ESTABLISHED)?;
            talk.upgrade()?;
            talk.client(masked(b"hello"))?;
            talk.server(text(b"hello"))
        })
        .messages(1, 1),
        Scenario::new("tunnel: WebSocket, byte by byte", INSIDE, |talk| {
            talk.client_bytewise(CONNECT)?;
            talk.server_bytewise(ESTABLISHED)?;
            talk.upgrade()
        }),
        Scenario::new("tunnel: on the second request, refused, then granted", INSIDE, |talk| {
            talk.client(GET)?;
            talk.server(OK)?;
            talk.client(CONNECT)?;
            talk.server(response("407 Proxy Authentication Required", "no"))?;
            talk.client(CONNECT)?;
            talk.server(ESTABLISHED)?;
            talk.upgrade()
        }),
        Scenario::new("tunnel: something else", &["http1", "upgrade"], |talk| {
            talk.client(CONNECT)?;
            talk.server(ESTABLISHED)?;
            talk.server("SSH-2.0-server\r\n")?;
            talk.client("SSH-2.0-client\r\n")
        }),
    ]
}

/// An upgrade by `POST`.
pub(crate) fn other_methods() -> Vec<Scenario> {
    let upgraded: &[&str] = &["http1", "upgrade"];
    vec![
        Scenario::new("SPDY by POST", upgraded, |talk| {
            talk.client(EXEC)?;
            talk.server(switching_with("Upgrade: SPDY/3.1\r\n"))?;
            talk.client([0x80, 3, 0, 1])
        }),
        Scenario::new("SPDY by POST, on the third request", upgraded, |talk| {
            talk.client(GET)?;
            talk.server(OK)?;
            talk.client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nPOSTED")?;
            talk.server(OK)?;
            talk.client(EXEC)?;
            talk.server(switching_with("Upgrade: SPDY/3.1\r\n"))
        }),
    ]
}

/// The PROXY protocol.
pub(crate) fn proxied() -> Vec<Scenario> {
    vec![
        Scenario::new("PROXY v1: WebSocket", &["http1", "websocket"], |talk| {
            talk.client(V1)?;
            talk.upgrade()
        }),
        Scenario::new("PROXY v2: gRPC", &["http2", "grpc"], |talk| {
            talk.client([v2(), preface()].concat())?;
            talk.server(settings())?;
            talk.client(grpc_call())
        }),
        Scenario::new("PROXY v2, byte by byte: TLS", &["tls"], |talk| {
            talk.client_bytewise(v2())?;
            talk.client(CLIENT_HELLO)
        }),
        Scenario::new("PROXY v2, LOCAL: HTTP/1", &["http1"], |talk| {
            talk.client(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")?;
            talk.client(GET)?;
            talk.server(OK)
        }),
    ]
}
