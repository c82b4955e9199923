//! gRPC by tonic over cleartext HTTP/2: the standard health service.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, Uri, server::Connected},
};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_client::HealthClient,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService},
};

use crate::{
    books::Books,
    drive::Session,
    net::{Connection, Listener, Target},
};

/// Serves health checks on what the listener accepts.
pub(crate) async fn serve(listener: Listener) -> Result<()> {
    let books = Arc::clone(&listener.books);
    let health = HealthService::from_health_reporter(HealthReporter::new());
    let service = HealthServer::new(Counted { health, books });
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await;
        Some((accepted, listener))
    });
    Ok(Server::builder().serve_with_incoming(service, incoming).await?)
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// tonic's health service, with its calls in the books.
struct Counted {
    health: HealthService,
    books: Arc<Books>,
}

#[tonic::async_trait]
impl Health for Counted {
    type WatchStream = <HealthService as Health>::WatchStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.books.requests.increment();
        self.books.messages_in.increment();
        let answer = self.health.check(request).await?;
        self.books.messages_out.increment();
        Ok(answer)
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the workload only checks"))
    }
}

/// A client whose channel is exactly one TCP connection.
pub(crate) struct Client {
    health: HealthClient<Channel>,
    /// The channel's connection, once the channel has dropped it.
    returned: oneshot::Receiver<Connection>,
    aborted: Arc<AtomicBool>,
}

impl Session for Client {
    async fn open(target: &Target) -> Result<Self> {
        let (home, returned) = oneshot::channel();
        let aborted = Arc::new(AtomicBool::new(false));
        let lent = Lent {
            connection: Some(target.connect().await?),
            home: Some(home),
            aborted: Arc::clone(&aborted),
        };
        // A channel reconnects by itself. It finds nothing here the second time, so that a
        // connection that was lost is a failed message, not a connection more.
        let only = Mutex::new(Some(TokioIo::new(lent)));
        let connector = tower::service_fn(move |_: Uri| {
            let lent = only.lock().ok().and_then(|mut only| only.take());
            async { lent.ok_or_else(|| io::Error::other("the connection was lost")) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", target.address))?;
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { health: HealthClient::new(channel), returned, aborted })
    }

    /// The health service's messages have no room for the number; HTTP/2 matches the answer.
    async fn exchange(&mut self, _: u64) -> Result<()> {
        let answer = self.health.check(HealthCheckRequest::default()).await?;
        let status = answer.get_ref().status();
        ensure!(status == ServingStatus::Serving, "answered {status:?}");
        Ok(())
    }

    async fn close(self) -> Result<()> {
        // Without a user the channel says GOAWAY and shuts the connection down. What the server
        // still says to that (acknowledgements) is not of interest, its FIN is.
        drop(self.health);
        self.returned.await.context("the channel kept its connection")?.close().await?;
        Ok(())
    }

    async fn reset(self) -> Result<()> {
        self.aborted.store(true, Ordering::Relaxed);
        drop(self.health);
        let connection = self.returned.await.context("the channel kept its connection")?;
        Ok(connection.reset_on_drop()?)
    }
}

/// A connection lent to a channel: it comes home when the channel drops it, so that the client
/// itself can wait for the server's FIN, or reset it.
struct Lent {
    connection: Option<Connection>,
    home: Option<oneshot::Sender<Connection>>,
    /// Set to keep the channel from saying goodbye.
    aborted: Arc<AtomicBool>,
}

impl Lent {
    /// The connection for reading.
    fn inner(&mut self) -> io::Result<Pin<&mut Connection>> {
        self.connection.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The connection for writing, unless the client gave it up.
    fn writable(&mut self) -> io::Result<Pin<&mut Connection>> {
        if self.aborted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.inner()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(home), Some(connection)) = (self.home.take(), self.connection.take()) {
            // Nobody waits for it after a failure: it closes right here.
            let _ = home.send(connection);
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writable()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable()?.poll_shutdown(context)
    }
}
