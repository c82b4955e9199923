//! `workload serve`: a server of one protocol.
//!
//! On stdout: `{"ready":"127.0.0.1:1234"}` when it listens, and its books at the end. On stdin: a
//! line `books` prints the books as they stand; the end of stdin, or SIGTERM, ends the server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, timeout},
};

use crate::{
    Protocol,
    books::{Books, print},
    control, grpc, http1,
    net::{Connection, Listener},
    tcp, ws,
};

/// How long connections that are ending may take once the server was told to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Arguments of `workload serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to speak.
    #[arg(long)]
    protocol: Protocol,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
}

/// Serves until told to stop. Connections still open then are not counted as closed.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let books = Arc::new(Books::default());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut commands = control::lines();
    let listener = Listener::bind(args.listen, Arc::clone(&books))
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    print(&json!({ "ready": listener.address()? }))?;

    let serving = serve(args.protocol, listener);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            ended = &mut serving => bail!("stopped accepting: {ended:?}"),
            _ = terminate.recv() => break,
            command = commands.recv() => match command.as_deref() {
                Some("books") => print(&books.of_server())?,
                Some(other) => bail!("unknown command `{other}`"),
                None => break,
            }
        }
    }

    // A connection that its client has just reset may not have been noticed yet.
    let drained = async {
        let mut tick = interval(Duration::from_millis(2));
        while books.active() > 0 {
            tick.tick().await;
        }
    };
    // Running out of time means that clients hold connections: the books tell.
    let _ = timeout(DRAIN, drained).await;
    print(&books.of_server())?;
    Ok(true)
}

/// Accepts for ever; each connection is a task of its own.
async fn serve(protocol: Protocol, listener: Listener) -> Result<()> {
    match protocol {
        Protocol::Ws => each(listener, ws::serve).await,
        Protocol::Http1 => each(listener, http1::serve).await,
        Protocol::Tcp => each(listener, tcp::serve).await,
        Protocol::Grpc => grpc::serve(listener).await,
    }
}

async fn each<F>(listener: Listener, handle: impl Fn(Connection) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        // How a connection ended is the client's business: it fails when the answer is wrong.
        tokio::spawn(handle(listener.accept().await?));
    }
}
