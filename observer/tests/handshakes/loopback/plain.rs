//! Connections that stay what they are, whatever their bytes resemble.

use super::Scenario;
use crate::bytes::{
    GET, OK, SWITCHING, UPGRADE, http2_get, post_head, preface, response, response_head, settings,
    upgrade_with,
};

const TCP: &[&str] = &[];
const HTTP1: &[&str] = &["http1"];

/// HTTP/1 that asks for an upgrade and gets none.
pub(crate) fn refused() -> Vec<Scenario> {
    vec![
        Scenario::new("400 with the text of a 101 as its body", HTTP1, |talk| {
            talk.client(UPGRADE)?;
            talk.server(response_head("400 Bad Request", SWITCHING.len()))?;
            talk.server(SWITCHING)?;
            talk.client(GET)?;
            talk.server(OK)
        }),
        Scenario::new("200 with the text of a 101 as its body", HTTP1, |talk| {
            talk.client(UPGRADE)?;
            talk.server(response_head("200 OK", SWITCHING.len()))?;
            talk.server(SWITCHING)?;
            talk.client(GET)?;
            talk.server(OK)
        }),
        Scenario::new("400, and later a body with the text of a 101", HTTP1, |talk| {
            talk.client(UPGRADE)?;
            talk.server(response("400 Bad Request", ""))?;
            talk.client(GET)?;
            talk.server(response_head("200 OK", SWITCHING.len()))?;
            talk.server(SWITCHING)
        }),
        Scenario::new("h2c is not taken up", HTTP1, |talk| {
            talk.client(upgrade_with("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"))?;
            talk.server(OK)?;
            talk.client(GET)?;
            talk.server(OK)
        }),
        Scenario::new("no answer", HTTP1, |talk| talk.client(UPGRADE)),
    ]
}

/// Bodies that quote handshakes, aligned to the start of a segment.
pub(crate) fn bodies() -> Vec<Scenario> {
    vec![
        Scenario::new("a response body with the text of a 101", HTTP1, |talk| {
            talk.client(GET)?;
            talk.server(response_head("200 OK", SWITCHING.len()))?;
            talk.server(SWITCHING)
        }),
        Scenario::new("a request body with the text of an upgrade request", HTTP1, |talk| {
            talk.client(post_head(UPGRADE.len()))?;
            talk.client(UPGRADE)?;
            talk.server(OK)
        }),
        Scenario::new("a request body with the text of a 101", HTTP1, |talk| {
            talk.client(post_head(SWITCHING.len()))?;
            talk.client(SWITCHING)?;
            talk.server(OK)
        }),
        Scenario::new("both, one after the other", HTTP1, |talk| {
            talk.client(post_head(UPGRADE.len()))?;
            talk.client(UPGRADE)?;
            talk.server(response_head("200 OK", SWITCHING.len()))?;
            talk.server(SWITCHING)?;
            talk.client(GET)?;
            talk.server(OK)
        }),
    ]
}

/// Protocols that are none of those we know.
pub(crate) fn strangers() -> Vec<Scenario> {
    vec![
        Scenario::new("SMTP", TCP, |talk| {
            talk.server("220 mail.example ESMTP ready\r\n")?;
            talk.client("EHLO client.example\r\n")?;
            talk.server("250-mail.example\r\n250 SIZE 1000000\r\n")?;
            talk.client("MAIL FROM:<a@client.example>\r\n")?;
            talk.server("250 OK\r\n")?;
            talk.client("QUIT\r\n")
        }),
        Scenario::new("a banner, then binary", TCP, |talk| {
            talk.server("\x4a\x00\x00\x00\x0a8.0.30\x00")?;
            talk.client([0x20, 0, 0, 1, 0x85, 0xa6, 0xff, 0x01, 0, 0, 0, 1])?;
            talk.server([7, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0])
        }),
        Scenario::new("NATS", TCP, |talk| {
            talk.server("INFO {\"server_id\":\"A\",\"version\":\"2.10.0\",\"proto\":1}\r\n")?;
            talk.client("CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n")?;
            talk.server("PONG\r\n")?;
            talk.client("PUB subject 5\r\nhello\r\n")
        }),
        Scenario::new("Redis, inline", TCP, |talk| {
            talk.client("GET foo\r\n")?;
            talk.server("$3\r\nbar\r\n")?;
            talk.client("SET foo HTTP\r\n")?;
            talk.server("+OK\r\n")
        }),
        Scenario::new("Redis, RESP", TCP, |talk| {
            talk.client("*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n")?;
            talk.server("$3\r\nbar\r\n")
        }),
        Scenario::new("memcached", TCP, |talk| {
            talk.client("get foo\r\n")?;
            talk.server("END\r\n")
        }),
        Scenario::new("SIP", TCP, |talk| {
            talk.client("OPTIONS sip:bob@server.example SIP/2.0\r\nTo: <sip:bob>\r\n\r\n")?;
            talk.server("SIP/2.0 200 OK\r\n\r\n")
        }),
        Scenario::new("HTTP/0.9", TCP, |talk| {
            talk.client("GET /\r\n")?;
            talk.server("<html></html>")
        }),
        Scenario::new("nothing but a PROXY header", TCP, |talk| {
            talk.client("PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n")
        }),
        Scenario::new("silence", TCP, |_| Ok(())),
    ]
}

/// HTTP/2 that is not gRPC.
pub(crate) fn http2() -> Vec<Scenario> {
    vec![
        Scenario::new("HTTP/2 with prior knowledge", &["http2"], |talk| {
            talk.client(preface())?;
            talk.server(settings())?;
            talk.client(http2_get())
        }),
        Scenario::new("the preface cut in two", &["http2"], |talk| {
            let preface = preface();
            talk.client(&preface[..10])?;
            talk.client(&preface[10..])
        }),
        Scenario::new("methods that start like the preface", HTTP1, |talk| {
            talk.client("PRIME / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            talk.server(response("405 Method Not Allowed", ""))?;
            talk.client("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            talk.server(response("405 Method Not Allowed", ""))
        }),
    ]
}
