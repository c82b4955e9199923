//! TCP sockets on strings: a program that does what its stdin says, one line at a time.
//!
//! A test that decides the order of every single segment needs both ends of a connection under its
//! thumb, and in cgroups of their own. Each line of stdin is a command, each gets one line in
//! answer: `ok`, `ok <result>` or `error <reason>`. Bytes are hexadecimal.
//!
//! | command | does | result |
//! |---|---|---|
//! | `listen ADDR` | listens | the address, with its port |
//! | `listen-deferred ADDR` | listens with `TCP_DEFER_ACCEPT`: the first data completes a handshake | the same |
//! | `backlog COUNT` | makes the accept queue so long | |
//! | `accept` | accepts the next connection, in place of the one before | |
//! | `connect ADDR` | connects, in place of the connection before | |
//! | `attempt MS ADDR` | the same, but gives up after so many milliseconds | |
//! | `abandon MS ADDR` | tries to connect, and after so many milliseconds gives up by a reset (`SO_LINGER` 0), as some proxies do | |
//! | `send HEX` | sends the bytes by one write, without Nagle's delay | |
//! | `send-uncopied HEX` | the same by `MSG_ZEROCOPY`, whose completion the socket reports as an error | |
//! | `receive COUNT` | receives that many bytes, fewer if the peer ends | the bytes |
//! | `receive-head` | receives up to the empty line behind a head | the bytes |
//! | `peek` | waits until there is something to receive, and leaves it | |
//! | `exchange SEND RECEIVE` | sends and receives so many bytes at the same time | how many came |
//! | `user-timeout MS` | sets `TCP_USER_TIMEOUT` | |
//! | `keepalive IDLE INTERVAL COUNT` | has the connection probed, in seconds | |
//! | `shutdown` | ends this direction | |
//! | `keep` | puts the connection aside, open | |
//! | `outlast` | closes each connection that was put aside once its peer has ended it | how many |
//! | `close` | closes the connection | |
//! | `reset` | closes it by a reset | |
//!
//! It ends when stdin does, so it does not outlive the test.

mod exchange;

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    str::FromStr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc::{self, linger},
    setsockopt_impl, sockopt_impl,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, setsockopt,
        sockopt::{KeepAlive, Linger, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout},
    },
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

sockopt_impl!(
    /// `MSG_ZEROCOPY` is obeyed.
    ZeroCopy,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ZEROCOPY,
    i32
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
    kept: Vec<TcpStream>,
}

impl Peer {
    /// Does what the line says; returns the result.
    fn obey(&mut self, line: &str) -> Result<String> {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "listen" => return self.listen(parse(argument)?, false),
            "listen-deferred" => return self.listen(parse(argument)?, true),
            "backlog" => {
                let listener = self.listener.as_ref().context("not listening")?;
                // Once more, for the length alone.
                nix::sys::socket::listen(listener, Backlog::new(parse::<i32>(argument)?)?)?;
            }
            "accept" => {
                let listener = self.listener.as_ref().context("not listening")?;
                let (stream, _) = listener.accept()?;
                self.stream = Some(configured(stream)?);
            }
            "connect" => self.connect(parse(argument)?, PATIENCE)?,
            "attempt" => {
                let (patience, address) = patience_and_address(argument)?;
                self.connect(address, patience)?;
            }
            "abandon" => {
                let (patience, address) = patience_and_address(argument)?;
                abandon(address, patience)?;
            }
            "send" => self.stream()?.write_all(&from_hex(argument)?)?,
            "send-uncopied" => self.send_uncopied(&from_hex(argument)?)?,
            "receive" => return self.receive(parse(argument)?),
            "receive-head" => return self.receive_head(),
            "peek" => drop(self.stream()?.peek(&mut [0])?),
            "exchange" => {
                let [send, receive] = numbers(argument)?;
                return Ok(exchange::exchange(self.stream()?, send, receive)?.to_string());
            }
            "user-timeout" => setsockopt(self.stream()?, TcpUserTimeout, &parse(argument)?)?,
            "keepalive" => {
                let stream = self.stream()?;
                let [idle, interval, count] = numbers(argument)?;
                setsockopt(stream, TcpKeepIdle, &idle)?;
                setsockopt(stream, TcpKeepInterval, &interval)?;
                setsockopt(stream, TcpKeepCount, &count)?;
                setsockopt(stream, KeepAlive, &true)?;
            }
            "keep" => self.kept.push(self.stream.take().context("no connection")?),
            "outlast" => return self.outlast(),
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

    fn connect(&mut self, address: SocketAddr, patience: Duration) -> Result<()> {
        self.stream = Some(configured(TcpStream::connect_timeout(&address, patience)?)?);
        Ok(())
    }

    fn send_uncopied(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream()?;
        setsockopt(stream, ZeroCopy, &1)?;
        let flags = MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY);
        let sent = nix::sys::socket::send(stream.as_raw_fd(), bytes, flags)?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes were sent", bytes.len());
        Ok(())
    }

    fn receive_head(&mut self) -> Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream()?.read_exact(&mut byte)?;
            head.extend(byte);
        }
        Ok(to_hex(&head))
    }

    fn outlast(&mut self) -> Result<String> {
        let count = self.kept.len();
        for mut stream in self.kept.drain(..) {
            // A reset is an end, too.
            match stream.read(&mut [0]) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Ok(_) => bail!("a byte came, not the end"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(count.to_string())
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

/// Milliseconds, and an address.
fn patience_and_address(argument: &str) -> Result<(Duration, SocketAddr)> {
    let (patience, address) = argument.split_once(' ').context("no address")?;
    Ok((Duration::from_millis(parse(patience)?), parse(address)?))
}

/// An attempt to connect that ends by a reset when its time is over.
fn abandon(address: SocketAddr, patience: Duration) -> Result<()> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    let begun = nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address));
    ensure!(begun == Err(Errno::EINPROGRESS), "connect: {begun:?}");
    thread::sleep(patience);
    Ok(())
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

fn numbers<T, const N: usize>(text: &str) -> Result<[T; N]>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let numbers = text.split(' ').map(parse).collect::<Result<Vec<T>>>()?;
    numbers.try_into().ok().with_context(|| format!("not {N} numbers: `{text}`"))
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
