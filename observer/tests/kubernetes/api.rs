//! An API server for the pods of one node: lists in pages, watches with bookmarks, and all that can go wrong.
//!
//! It listens on an address that nobody else uses, of the loopback network unless it is told another, so that it can go
//! away and come back: while it is away, connections to it are refused.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, time::timeout};

use crate::{objects::Object, tls};

/// Nobody else listens there.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
/// The node whose pods it has.
pub(crate) const NODE: &str = "node-1";
/// It never sends more pods in a page, whatever limit is asked for.
const PAGE: usize = 2;
/// How often a quiet watch has a bookmark.
const BOOKMARK: Duration = Duration::from_millis(300);
/// How long its tasks may take to end.
const END: Duration = Duration::from_secs(5);

/// The server. It forgets nothing while it is away.
pub(crate) struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    tls: Option<tls::Identity>,
    /// While it is there.
    runtime: Option<Runtime>,
    directory: TempDir,
}

struct Shared {
    store: Mutex<Store>,
    /// Told of every change of the store.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Store {
    version: u64,
    pods: BTreeMap<String, Value>,
    /// Version, type and object; those at or before `compacted` are gone.
    events: Vec<(u64, &'static str, Value)>,
    compacted: u64,
    /// What the lists since the start consist of, by version.
    lists: BTreeMap<u64, Vec<Value>>,
    /// How each watch that is under way is to end; each time another number.
    ending: (u64, Ending),
    /// Whether answers are kept back.
    held: bool,
    /// The token that must come with each request.
    token: Option<String>,
    /// Path and query of each request.
    requests: Vec<String>,
}

/// How a watch ends before its time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Ending {
    /// In the middle of an event, with the connection.
    #[default]
    MidEvent,
    /// With 410, since the history is gone.
    Gone,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }
}

impl ApiServer {
    /// A server that is away yet.
    pub(crate) fn new() -> Self {
        Self::with(ADDRESS, None)
    }

    /// One that is there.
    pub(crate) fn present() -> Self {
        let mut server = Self::new();
        server.appear();
        server
    }

    /// One at an address of the caller's that speaks TLS, and wants to see a token.
    pub(crate) fn with_tls(address: IpAddr, token: &str) -> Self {
        let server = Self::with(address, Some(tls::Identity::new(address)));
        server.shared.store().token = Some(token.to_owned());
        server
    }

    fn with(address: IpAddr, tls: Option<tls::Identity>) -> Self {
        let listener = std::net::TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let store = Mutex::new(Store { version: 100, ..Store::default() });
        let shared = Arc::new(Shared { store, changed: watch::Sender::new(0) });
        let directory = TempDir::new().expect("a directory");
        Self { address, shared, tls, runtime: None, directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that its own is signed by, PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.tls.as_ref().expect("it speaks TLS").authority
    }

    /// A kubeconfig that leads to it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.directory.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&path, config.to_string()).expect("the directory can be written to");
        path
    }

    /// It comes, or comes back.
    pub(crate) fn appear(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let router = Router::new().route("/api/v1/pods", get(pods)).with_state(self.shared.clone());
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("its own port");
        match &self.tls {
            None => drop(runtime.spawn(axum::serve(listener, router).into_future())),
            Some(identity) => {
                let listener = identity.listener(listener);
                drop(runtime.spawn(axum::serve(listener, router).into_future()));
            }
        }
        self.runtime = Some(runtime);
    }

    /// It goes away, with all connections.
    pub(crate) fn vanish(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END);
        }
    }

    /// Adds or changes a pod.
    pub(crate) fn apply(&self, object: &Object) {
        self.shared.change(|store| {
            store.version += 1;
            let json = object.json(NODE, store.version);
            let before = store.pods.insert(object.uid.clone(), json.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            store.events.push((store.version, kind, json));
        });
    }

    /// Removes a pod.
    pub(crate) fn delete(&self, uid: &str) {
        self.shared.change(|store| {
            let mut json = store.pods.remove(uid).expect("there is such a pod");
            store.version += 1;
            json["metadata"]["resourceVersion"] = json!(store.version.to_string());
            store.events.push((store.version, "DELETED", json));
        });
    }

    /// Forgets its history: watches that want to go on from before now are told 410.
    pub(crate) fn compact(&self) {
        self.shared.change(|store| {
            store.version += 1;
            store.compacted = store.version;
            store.events.clear();
        });
    }

    /// Ends the watches that are under way.
    pub(crate) fn end_watches(&self, ending: Ending) {
        self.shared.change(|store| store.ending = (store.ending.0 + 1, ending));
    }

    /// Keeps answers back from now on, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.change(|store| store.held = held);
    }

    /// Path and query of each request up to now.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.store().requests.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// A parameter of a query, as far as its encoding matters here.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    Some(value.replace("%3D", "=").replace("%3A", ":"))
}

fn status(code: StatusCode, reason: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": format!("that is {reason}"), "reason": reason, "code": code.as_u16() })
}

async fn pods(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let uri = request.uri().clone();
    let mut changed = shared.changed.subscribe();
    {
        let mut store = shared.store();
        store.requests.push(uri.to_string());
        if let Some(token) = &store.token {
            let sent = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
            if sent != Some(&format!("Bearer {token}")) {
                let code = StatusCode::UNAUTHORIZED;
                return (code, status(code, "Unauthorized").to_string()).into_response();
            }
        }
    }
    while shared.store().held {
        // Its sender is in `shared`.
        let _ = changed.changed().await;
    }
    if parameter(&uri, "fieldSelector").as_deref() != Some(&format!("spec.nodeName={NODE}")) {
        let code = StatusCode::FORBIDDEN;
        return (code, status(code, "Forbidden").to_string()).into_response();
    }
    let body = match parameter(&uri, "watch") {
        None => Body::from(list(&mut shared.store(), &uri).to_string()),
        Some(_) => watch_from(shared, &uri),
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A page. All pages are of one moment, that of the first one, from which the watch goes on.
fn list(store: &mut Store, uri: &Uri) -> Value {
    let token = parameter(uri, "continue").filter(|token| !token.is_empty());
    let (start, version) = match token.as_deref().and_then(|token| token.split_once(':')) {
        None => (0, store.version),
        Some((start, version)) => {
            (start.parse().expect("our own"), version.parse().expect("our own"))
        }
    };
    if start == 0 {
        store.lists.insert(version, store.pods.values().cloned().collect());
    }
    let pods = &store.lists[&version];
    let limit = parameter(uri, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let items: Vec<&Value> = pods.iter().skip(start).take(limit.min(PAGE)).collect();
    let end = start + items.len();
    let more = pods.len().saturating_sub(end);
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if more > 0 {
        metadata["continue"] = json!(format!("{end}:{version}"));
        metadata["remainingItemCount"] = json!(more);
    }
    json!({ "apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items })
}

/// A watch under way.
struct Watch {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    version: u64,
    endings: u64,
    lines: VecDeque<Result<Bytes, io::Error>>,
    ended: bool,
}

fn watch_from(shared: Arc<Shared>, uri: &Uri) -> Body {
    let version = parameter(uri, "resourceVersion").and_then(|version| version.parse().ok());
    let changed = shared.changed.subscribe();
    let endings = shared.store().ending.0;
    let watch = Watch {
        version: version.expect("a watch starts somewhere"),
        shared,
        changed,
        endings,
        lines: VecDeque::new(),
        ended: false,
    };
    Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line, watch))
    }))
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.changed.mark_unchanged();
            self.look();
            if self.lines.is_empty() && timeout(BOOKMARK, self.changed.changed()).await.is_err() {
                self.bookmark();
            }
        }
    }

    fn say(&mut self, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        self.lines.push_back(Ok(line.into()));
    }

    fn bookmark(&mut self) {
        let metadata =
            json!({ "resourceVersion": self.version.to_string(), "creationTimestamp": null });
        self.say("BOOKMARK", &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata }));
    }

    /// Says what is new.
    fn look(&mut self) {
        let shared = Arc::clone(&self.shared);
        let store = shared.store();
        let (endings, ending) = store.ending;
        if self.endings != endings {
            self.ended = true;
            match ending {
                Ending::MidEvent => {
                    let half = b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na";
                    self.lines.push_back(Ok(Bytes::from_static(half)));
                    self.lines.push_back(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Ending::Gone => self.say("ERROR", &status(StatusCode::GONE, "Expired")),
            }
        } else if self.version < store.compacted {
            self.ended = true;
            self.say("ERROR", &status(StatusCode::GONE, "Expired"));
        } else {
            for (version, kind, object) in &store.events {
                if *version > self.version {
                    self.version = *version;
                    self.say(kind, object);
                }
            }
        }
    }
}
