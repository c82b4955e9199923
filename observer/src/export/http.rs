//! The HTTP endpoints: `/metrics`, `/livez`, `/readyz`, `/healthz`.

use std::{
    convert::Infallible,
    future::{Future, IntoFuture as _},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::error;

use super::{BuildInfo, Pages, Part, negotiate::Format};
use crate::{
    access::{Access, Peer, TlsListener, guard},
    collect::{Collector, lock},
};

/// What the endpoints share.
pub struct App {
    /// The collector; scrapes, the regular tick and the reader of records take turns.
    pub collector: Arc<Mutex<Collector>>,
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

/// Serves the sockets to whom `access` lets in, until `shutdown` resolves; requests under way are finished within [`GRACE`] or dropped.
///
/// # Errors
/// If a listener fails.
pub async fn serve(
    sockets: Vec<(TcpListener, Part)>,
    app: Arc<App>,
    access: &Arc<Access>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    for (listener, part) in sockets {
        let mut stopped = stopped.clone();
        let shutdown = async move {
            // The sender goes without a word only if a server has failed; then that is what counts.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let router = router(Arc::clone(&app), part, Arc::clone(access));
        if access.has_tls() {
            let listener = TlsListener::new(listener, Arc::clone(access));
            let service = router.into_make_service_with_connect_info::<Peer>();
            let server = axum::serve(listener, service).with_graceful_shutdown(shutdown);
            servers.spawn(server.into_future());
        } else {
            let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
            servers.spawn(server.into_future());
        }
    }
    let all = async {
        while let Some(ended) = servers.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    };
    let patience = async {
        shutdown.await;
        let _ = stopping.send(true);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = all => ended,
        () = patience => Ok(()),
    }
}

fn router(app: Arc<App>, part: Part, access: Arc<Access>) -> Router {
    let guard = from_fn_with_state(access, guard);
    Router::new()
        .route("/metrics", get(move |app, headers| metrics(app, headers, part)).layer(guard))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap, part: Part) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    // A pass may walk the cgroup tree: not on the thread that answers the probes.
    match tokio::task::spawn_blocking(move || pages(&app, format, part)).await {
        Ok(Ok(pages)) => {
            let body = Body::from_stream(stream::iter(pages.map(Ok::<_, Infallible>)));
            ([(header::CONTENT_TYPE, format.content_type())], body).into_response()
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn pages(app: &App, format: Format, part: Part) -> io::Result<Pages> {
    let mut collector = lock(&app.collector);
    let snapshot = match part {
        // What is over is shown once more to those who ask for it, and to nobody else.
        Part::Own => collector.about_itself(),
        Part::All | Part::Workloads => collector.snapshot(),
    }?;
    Ok(Pages::new(snapshot, &app.build, &app.prefix, format, part))
}

fn failed(error: &dyn std::error::Error) -> Response {
    error!(%error, "cannot read the metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, "cannot read the metrics; see the log\n").into_response()
}
