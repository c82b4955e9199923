//! The page at `/`, and what it asks for: static files of ours, embedded, and the views as JSON.
//!
//! The page itself says nothing of this node and is given to everybody, as the paths of the probes are; what it asks for goes
//! through the same guard as `/metrics`, and a token is typed into it. It asks nobody but this observer.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::ValueEnum;

use super::{
    http::{App, failed},
    negotiate::wants_gzip,
};
use crate::{
    access::{Access, guard},
    tail::line::{Clock, Notice, line},
    view::{Filter, Sort},
};

/// What is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ui {
    /// Nothing: there is no page.
    Off,
    /// Pods and their counts, and nothing of single connections.
    #[default]
    On,
    /// Single connections too, with the addresses of their peers.
    Full,
}

impl Ui {
    const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Full => "full",
        }
    }
}

/// Connections that a listing shows.
const SHOWN: usize = 500;

/// Nothing from anywhere else, no markup of others' making, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer of the page says.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The header that tells the page what it may ask for.
const LEVEL: HeaderName = HeaderName::from_static("observer-ui");

/// The routes of the page.
pub(super) fn routes(ui: Ui, access: &Arc<Access>) -> Router<Arc<App>> {
    if ui == Ui::Off {
        return Router::new();
    }
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    let mut data = Router::new()
        .route("/api/v1/snapshot", get(move |app, headers| snapshot(app, headers, ui)));
    if ui == Ui::Full {
        data = data.route("/api/v1/connections/{namespace}/{pod}", get(connections));
    }
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("ui/index.html")))
        .route("/ui/style.css", file("text/css; charset=utf-8", include_str!("ui/style.css")))
        .route(
            "/ui/script.js",
            file("text/javascript; charset=utf-8", include_str!("ui/script.js")),
        )
        .merge(data.layer(from_fn_with_state(Arc::clone(access), guard)))
        .layer(map_response(with_headers))
}

async fn with_headers(mut answer: Response) -> Response {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn snapshot(State(app): State<Arc<App>>, headers: HeaderMap, ui: Ui) -> Response {
    let sheet = match app.views.table().await {
        Ok(sheet) => sheet,
        Err(error) => return failed(&error),
    };
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let kind = [(header::CONTENT_TYPE, "application/json"), (header::VARY, "accept-encoding")];
    let level = [(LEVEL, ui.label())];
    if wants_gzip(accepted) {
        match tokio::task::spawn_blocking(move || sheet.gzip()).await {
            Ok(packed) => {
                (kind, level, [(header::CONTENT_ENCODING, "gzip")], packed).into_response()
            }
            Err(error) => failed(&error),
        }
    } else {
        (kind, level, sheet.json()).into_response()
    }
}

/// The open connections of a pod, as lines of JSON; `-` is the empty namespace.
async fn connections(
    State(app): State<Arc<App>>,
    Path((namespace, pod)): Path<(String, String)>,
) -> Response {
    let namespace = if namespace == "-" { String::new() } else { namespace };
    if !app.settings.namespaces.takes(&namespace) {
        return (StatusCode::NOT_FOUND, "this namespace is not shown\n").into_response();
    }
    let filter = Filter { namespace: vec![namespace], pod: vec![pod], ..Filter::default() };
    match app.views.connections(filter, Sort::Age, SHOWN).await {
        Ok(listing) => {
            let clock = Clock::now();
            let lines = listing.records.iter().map(|(record, of)| line(record, of, clock));
            let mut text: String = lines.collect();
            let (connections, unlisted, refused) =
                (listing.wanted, listing.unlisted, listing.refused);
            text.push_str(&Notice::Listed { connections, unlisted, refused }.line());
            ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response()
        }
        Err(error) => failed(error.as_ref()),
    }
}
