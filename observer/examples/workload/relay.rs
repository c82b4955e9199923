//! `workload relay`: passes the bytes of each connection on to another address, as a sidecar does.
//!
//! On stdout: `{"ready":"127.0.0.1:1234"}` when it listens. The end of stdin, or SIGTERM, ends it. With `--hide` one side
//! cannot be read by others, as inside TLS: two such relays behind each other undo what they do.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    signal::unix::{SignalKind, signal},
};

use crate::{
    books::{Books, print},
    control,
    net::{Connection, Listener, Target},
};

/// Arguments of `workload relay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Where to pass on to.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// Whose bytes are hidden on their way.
    #[arg(long)]
    hide: Option<Side>,
}

/// A side of the relay.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// Those who connect to it.
    Clients,
    /// Who it connects to.
    Server,
}

/// Relays until told to stop.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let books = Arc::new(Books::default());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut commands = control::lines();
    let listener = Listener::bind(args.listen, Arc::clone(&books))
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    print(&json!({ "ready": listener.address()? }))?;
    let target = Target { address: args.connect, bind: None, books };
    let relaying = async {
        loop {
            let (client, target, hide) = (listener.accept().await?, target.clone(), args.hide);
            // How a connection ends is the business of those at its ends.
            tokio::spawn(async move { pass(client, &target, hide).await });
        }
    };
    tokio::select! {
        ended = relaying => ended,
        _ = terminate.recv() => Ok(true),
        _ = commands.recv() => Ok(true),
    }
}

async fn pass(client: Connection, target: &Target, hide: Option<Side>) -> io::Result<()> {
    let mut client = Veiled { inner: client, veil: hide == Some(Side::Clients) };
    let mut server = Veiled { inner: target.connect().await?, veil: hide == Some(Side::Server) };
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// A connection whose bytes may be others than they seem.
struct Veiled {
    inner: Connection,
    veil: bool,
}

/// No byte of ASCII stays one.
const VEIL: u8 = 0x80;

impl AsyncRead for Veiled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(task, buffer);
        if self.veil {
            buffer.filled_mut()[before..].iter_mut().for_each(|byte| *byte ^= VEIL);
        }
        outcome
    }
}

impl AsyncWrite for Veiled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.veil {
            return Pin::new(&mut self.inner).poll_write(task, bytes);
        }
        let hidden: Vec<u8> = bytes.iter().map(|byte| byte ^ VEIL).collect();
        Pin::new(&mut self.inner).poll_write(task, &hidden)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(task)
    }
}
