//! The smallest HTTP client that can scrape.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::scale::patience;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// The `Content-Type`, empty if there was none.
    pub(crate) content_type: String,
    /// The whole body.
    pub(crate) body: String,
}

/// One GET on a connection of its own, HTTP/1.0 so that the body is never chunked.
pub(crate) fn get(address: SocketAddr, path: &str, accept: Option<&str>) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, patience(PATIENCE))?;
    stream.set_read_timeout(Some(patience(PATIENCE)))?;
    let accept = accept.map(|types| format!("Accept: {types}\r\n")).unwrap_or_default();
    // In one piece: every server, even a careless one, gets it by one read.
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n{accept}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer)
}

/// As [`get`], with more headers: the answer's head, and its body as it came.
pub(crate) fn get_bytes(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, patience(PATIENCE))?;
    stream.set_read_timeout(Some(patience(PATIENCE)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = answer.split_off(end.context("an answer without an end of head")? + 4);
    Ok((String::from_utf8(answer)?, body))
}

/// Takes a complete answer apart.
pub(crate) fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of head")?;
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {status_line}"))?;
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |name: &str| {
        headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    };
    if let Some(length) = header("content-length") {
        ensure!(length.parse() == Ok(body.len()), "{} bytes came of {length}", body.len());
    }
    let content_type = header("content-type").unwrap_or_default().to_owned();
    Ok(Response { status, content_type, body: body.to_owned() })
}
