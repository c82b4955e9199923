//! The HTTP endpoints: `/metrics`, `/livez`, `/readyz`, `/healthz`.

use std::{
    convert::Infallible,
    future::{Future, IntoFuture as _},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{net::TcpListener, sync::oneshot};
use tracing::error;

use super::{BuildInfo, Pages, negotiate::Format};
use crate::collect::Collector;

/// What the endpoints share.
pub struct App {
    /// The collector; a scrape and the regular tick take turns.
    pub collector: Mutex<Collector>,
    /// What this binary is.
    pub build: BuildInfo,
    /// Prefix of every metric name.
    pub prefix: String,
    /// Whether the first pass is done.
    pub ready: AtomicBool,
}

/// How long requests that are under way at the end may take: a client that has sent half a request
/// must not keep the process from ending.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until `shutdown` resolves; requests under way are finished within [`GRACE`] or dropped.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .with_state(app);
    let (stopping, stopped) = oneshot::channel();
    let shutdown = async {
        shutdown.await;
        // Nobody waits for it only when the server has failed.
        let _ = stopping.send(());
    };
    let patience = async {
        // The sender is dropped unused when the server fails; then that is what counts.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(GRACE).await;
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
    tokio::select! {
        ended = server.into_future() => ended,
        () = patience => Ok(()),
    }
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    // A pass may walk the cgroup tree: not on the thread that answers the probes.
    match tokio::task::spawn_blocking(move || pages(&app, format)).await {
        Ok(Ok(pages)) => {
            let body = Body::from_stream(stream::iter(pages.map(Ok::<_, Infallible>)));
            ([(header::CONTENT_TYPE, format.content_type())], body).into_response()
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn pages(app: &App, format: Format) -> io::Result<Pages> {
    // A panic while the lock was held leaves counters that are read anew in each pass.
    let snapshot = app.collector.lock().unwrap_or_else(PoisonError::into_inner).snapshot()?;
    Ok(Pages::new(snapshot, &app.build, &app.prefix, format))
}

fn failed(error: &dyn std::error::Error) -> Response {
    error!(%error, "cannot read the metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, "cannot read the metrics; see the log\n").into_response()
}
