//! One TCP socket on strings: it does what its stdin says, one line at a time.
//!
//! A test that decides the order of every single segment needs both ends of a connection under its
//! thumb, and in cgroups of their own. Each line of stdin is a command, each gets one line in
//! answer: `ok`, `ok <result>` or `error <reason>`. Bytes are hexadecimal.
//!
//! | command | does | result |
//! |---|---|---|
//! | `listen ADDR` | listens | the address, with its port |
//! | `listen-deferred ADDR` | listens with `TCP_DEFER_ACCEPT`: the first data completes a handshake | the same |
//! | `accept` | accepts the next connection, in place of the one before | |
//! | `connect ADDR` | connects, in place of the connection before | |
//! | `send HEX` | sends the bytes by one write, without Nagle's delay | |
//! | `receive COUNT` | receives that many bytes, fewer if the peer ends | the bytes |
//! | `shutdown` | ends this direction | |
//! | `close` | closes the connection | |
//! | `reset` | closes it by a reset | |
//!
//! It ends when stdin does, so it does not outlive the test.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc::{self, linger},
    setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::Linger},
};

/// How long bytes may take to come, or to find room.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a deferred handshake waits for data, in seconds.
const DEFER: u32 = 10;

sockopt_impl!(
    /// The bare ACK of a handshake is dropped: the first data completes it.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

fn main() -> io::Result<()> {
    let mut peer = Peer::default();
    let mut stdout = io::stdout();
    for line in io::stdin().lock().lines() {
        match peer.obey(&line?) {
            Ok(result) if result.is_empty() => writeln!(stdout, "ok")?,
            Ok(result) => writeln!(stdout, "ok {result}")?,
            Err(error) => writeln!(stdout, "error {error:#}")?,
        }
    }
    Ok(())
}

/// The sockets.
#[derive(Default)]
struct Peer {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
}

impl Peer {
    /// Does what the line says; returns the result.
    fn obey(&mut self, line: &str) -> Result<String> {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "listen" => return self.listen(parse(argument)?, false),
            "listen-deferred" => return self.listen(parse(argument)?, true),
            "accept" => {
                let listener = self.listener.as_ref().context("not listening")?;
                let (stream, _) = listener.accept()?;
                self.stream = Some(configured(stream)?);
            }
            "connect" => {
                let stream = TcpStream::connect_timeout(&parse(argument)?, PATIENCE)?;
                self.stream = Some(configured(stream)?);
            }
            "send" => self.stream()?.write_all(&from_hex(argument)?)?,
            "receive" => return self.receive(parse(argument)?),
            "shutdown" => self.stream()?.shutdown(Shutdown::Write)?,
            "close" => drop(self.stream.take()),
            "reset" => {
                let stream = self.stream.take().context("no connection")?;
                setsockopt(&stream, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
            }
            _ => bail!("unknown command `{command}`"),
        }
        Ok(String::new())
    }

    fn listen(&mut self, address: SocketAddr, deferred: bool) -> Result<String> {
        let listener = TcpListener::bind(address)?;
        if deferred {
            setsockopt(&listener, DeferAccept, &DEFER)?;
        }
        let address = listener.local_addr()?;
        self.listener = Some(listener);
        Ok(address.to_string())
    }

    fn receive(&mut self, count: usize) -> Result<String> {
        let stream = self.stream()?;
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match stream.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).context(format!("after {filled} of {count} bytes"));
                }
            }
        }
        Ok(to_hex(&bytes[..filled]))
    }

    fn stream(&mut self) -> Result<&mut TcpStream> {
        self.stream.as_mut().context("no connection")
    }
}

fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T> {
    text.parse().with_context(|| format!("`{text}`"))
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?);
    digits.map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
