//! Sockets: listening, connecting and closing, with every connection in the books.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Result, ensure};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::books::Books;

/// Raises the limit of open files to the hard limit: a connection is a file.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// A listening socket that counts what it accepts.
pub(crate) struct Listener {
    listener: TcpListener,
    pub(crate) books: Arc<Books>,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one.
    pub(crate) fn bind(address: SocketAddr, books: Arc<Books>) -> io::Result<Self> {
        let socket = socket_for(address)?;
        // A restarted server must not wait for its predecessor's TIME_WAIT sockets.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // Room for every connection that a driver has in flight: a full queue drops SYNs.
        let listener = socket.listen(4096)?;
        Ok(Self { listener, books })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        let (stream, _) = self.listener.accept().await?;
        Connection::new(stream, &self.books)
    }
}

/// Where a driver connects to, and from where.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The local address; the kernel chooses when there is none.
    pub(crate) bind: Option<IpAddr>,
    pub(crate) books: Arc<Books>,
}

impl Target {
    /// Opens one TCP connection.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        self.books.attempted.increment();
        let socket = socket_for(self.address)?;
        if let Some(local) = self.bind {
            // Leaves the choice of the port to connect(2), which knows the peer and so may reuse
            // ports that are taken towards other peers or in TIME_WAIT.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::new(local, 0))?;
        }
        let stream = socket.connect(self.address).await?;
        Connection::new(stream, &self.books)
    }
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// An established connection that enters the books when it is made and once more when it ends.
///
/// It counts as closed from the moment this end begins to close, before the peer can learn of it:
/// when a client has seen its server's FIN, the server's books are already right.
pub(crate) struct Connection {
    stream: TcpStream,
    books: Arc<Books>,
    counted_closed: bool,
}

impl Connection {
    fn new(stream: TcpStream, books: &Arc<Books>) -> io::Result<Self> {
        books.opened.increment();
        let connection = Self { stream, books: Arc::clone(books), counted_closed: false };
        connection.stream.set_nodelay(true)?;
        Ok(connection)
    }

    /// The books that this connection is counted in.
    pub(crate) fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Makes the coming drop send a reset instead of a FIN.
    pub(crate) fn reset_on_drop(&self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }

    /// Sends a FIN, waits for the peer's, closes. Returns how many bytes came in between.
    pub(crate) async fn close(mut self) -> io::Result<u64> {
        self.shutdown().await?;
        let mut surplus = 0;
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer).await? {
                0 => return Ok(surplus),
                bytes => surplus += bytes as u64,
            }
        }
    }

    /// Like [`close`](Self::close), when nothing may come in any more.
    pub(crate) async fn close_silent(self) -> Result<()> {
        let surplus = self.close().await?;
        ensure!(surplus == 0, "{surplus} bytes came after the last answer");
        Ok(())
    }

    fn count_closed(&mut self) {
        if !self.counted_closed {
            self.counted_closed = true;
            self.books.closed.increment();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count_closed();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count_closed();
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
