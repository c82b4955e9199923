//! HTTP/1.1 on kept-alive connections: just enough of it to be genuine.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{
    drive::Session,
    net::{Connection, Target},
};

/// Longest head that is read.
const MAX_HEAD: usize = 16 * 1024;

/// Answers each GET with its own path, until the client closes or asks for it.
pub(crate) async fn serve(connection: Connection) -> Result<()> {
    let mut stream = BufReader::new(connection);
    while let Some(head) = read_head(&mut stream).await? {
        let books = stream.get_ref().books();
        books.requests.increment();
        books.messages_in.increment();
        let path = head.split(' ').nth(1).context("a request line without a path")?;
        let closing = header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{}\r\n{path}",
            path.len(),
            if closing { "Connection: close\r\n" } else { "" },
        );
        books.messages_out.increment();
        stream.write_all(answer.as_bytes()).await?;
        if closing {
            break;
        }
    }
    Ok(())
}

/// A client that sends GETs.
pub(crate) struct Client {
    stream: BufReader<Connection>,
    host: String,
}

impl Session for Client {
    async fn open(target: &Target) -> Result<Self> {
        let stream = BufReader::new(target.connect().await?);
        Ok(Self { stream, host: target.address.to_string() })
    }

    async fn exchange(&mut self, number: u64) -> Result<()> {
        let path = format!("/messages/{number}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut self.stream).await?.context("closed instead of an answer")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "not a 200: {head}");
        let length = header(&head, "content-length").context("no Content-Length")?.parse()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        ensure!(body == path.as_bytes(), "asked for {path}, got {}", body.escape_ascii());
        Ok(())
    }

    async fn close(self) -> Result<()> {
        ensure!(self.stream.buffer().is_empty(), "bytes after the last answer");
        self.stream.into_inner().close_silent().await
    }

    async fn reset(self) -> Result<()> {
        Ok(self.stream.get_ref().reset_on_drop()?)
    }
}

/// Reads up to the empty line; `None` if the peer closed before the first byte.
async fn read_head(stream: &mut BufReader<Connection>) -> Result<Option<String>> {
    let mut head = String::new();
    loop {
        let start = head.len();
        match stream.read_line(&mut head).await? {
            0 if head.is_empty() => return Ok(None),
            0 => bail!("closed within a head"),
            _ if head.len() > MAX_HEAD => bail!("the head is too long"),
            _ if &head[start..] == "\r\n" => return Ok(Some(head)),
            _ => {}
        }
    }
}

/// The value of the first header of that name.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}
