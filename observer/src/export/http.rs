//! The HTTP endpoints: `/metrics`, `/workloads/…`, `/livez`, `/readyz`, `/healthz`, and the page.

use std::{
    future::{Future, IntoFuture as _},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{debug, error};

use super::{
    About, Part, Settings,
    encode::{Served, write},
    negotiate::{Format, wants_gzip},
    page::{Turns, pages},
    rows::Scrape,
    ui::{self, Ui},
    workloads::{Workloads, workload},
};
use crate::{
    access::{Access, Peer, TlsListener, guard},
    collect::{Collector, lock},
    view::{Daemon, Views},
};

/// What the endpoints share.
pub struct App {
    /// The collector; scrapes, the regular tick and the reader of records take turns.
    pub collector: Arc<Mutex<Collector>>,
    /// What the daemon tells of itself.
    pub about: About,
    /// What a scrape is to have.
    pub settings: Settings,
    /// How many series of each family the last scrape had.
    served: Served,
    /// Scrapes under way.
    turns: Turns,
    /// What autoscalers were last told.
    pub(super) workloads: Workloads,
    /// What people look at.
    pub views: Arc<Views>,
    /// Whether the first pass is done.
    pub ready: AtomicBool,
}

impl App {
    /// What serves the collector's counts; not ready yet.
    #[must_use]
    pub fn new(collector: Collector, about: About, settings: Settings) -> Self {
        let collector = Arc::new(Mutex::new(collector));
        let daemon = Daemon {
            node: about.node.clone(),
            kernel: about.kernel.clone(),
            kernel_side: about.origin.label(),
            started: SystemTime::now(),
        };
        let namespaces = settings.namespaces.clone();
        let wanted = move |namespace: &str| namespaces.takes(namespace);
        Self {
            views: Arc::new(Views::new(Arc::clone(&collector), daemon, wanted)),
            collector,
            about,
            settings,
            served: Served::default(),
            turns: Turns::default(),
            workloads: Workloads::default(),
            ready: AtomicBool::new(false),
        }
    }

    /// Whether the first pass is done.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
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
    ui: Ui,
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
        // Where the observer's own metrics are: that is not where others' labels are honoured.
        let ui = if part == Part::Workloads { Ui::Off } else { ui };
        let router = router(Arc::clone(&app), part, ui, access);
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

fn router(app: Arc<App>, part: Part, ui: Ui, access: &Arc<Access>) -> Router {
    let guard = from_fn_with_state(Arc::clone(access), guard);
    let mut guarded =
        Router::new().route("/metrics", get(move |app, headers| metrics(app, headers, part)));
    if part != Part::Own {
        guarded = guarded.route("/workloads/{namespace}/{kind}/{name}", get(workload));
    }
    ui::routes(ui, access)
        // Not `layer`, which would guard what there is not, too.
        .merge(guarded.route_layer(guard))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap, part: Part) -> Response {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(header(header::ACCEPT));
    let gzip = wants_gzip(header(header::ACCEPT_ENCODING));
    // A pass may walk the cgroup tree: not on the thread that answers the probes.
    let scrape = {
        let app = Arc::clone(&app);
        tokio::task::spawn_blocking(move || scrape(&app, part)).await
    };
    let scrape = match scrape {
        Ok(Ok(scrape)) => scrape,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    let (pages, from) = pages(&app.turns);
    tokio::task::spawn_blocking(move || {
        let written = pages.fill(gzip, |to| write(scrape, &app.settings, format, part, to));
        if let Err(error) = written {
            debug!(%error, "a scrape was broken off");
        }
    });
    let body = Body::from_stream(stream::unfold(from, |mut from| async {
        from.recv().await.map(|page| (page, from))
    }));
    let mut answer = ([(header::CONTENT_TYPE, format.content_type())], body).into_response();
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if gzip {
        answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

pub(super) fn scrape(app: &App, part: Part) -> io::Result<Scrape> {
    let snapshot = {
        let mut collector = lock(&app.collector);
        match part {
            Part::Own => collector.about_itself(),
            Part::All | Part::Workloads => collector.snapshot(),
        }?
    };
    let wanted = |namespace: &str| app.settings.namespaces.takes(namespace);
    Ok(Scrape::new(snapshot, &app.about, &app.served, wanted))
}

pub(super) fn failed(error: &dyn std::error::Error) -> Response {
    error!(%error, "cannot read the metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, "cannot read the metrics; see the log\n").into_response()
}
