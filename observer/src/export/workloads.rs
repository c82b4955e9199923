//! The users of one workload's pods on this node, for autoscalers that ask the agents themselves: a short answer instead of a
//! scrape, and an error instead of a number that is too small.
//!
//! Who adds up what all agents answer also has to know that none is missing, be it dead, away or without a number: each tells
//! how many pods it speaks for, and together that has to be as many as the workload has.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    Part,
    http::{App, failed, scrape},
    rows::Scrape,
    users,
};
use crate::aggregate::Withheld;

/// So old is what is answered at most: however many ask, the cells are read once for all of them.
const EVERY: Duration = Duration::from_secs(1);

/// What an agent knows of a workload's users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Users {
    /// The workload's pods on this node that have not ended.
    pods: u64,
    /// What their users hold, by protocol.
    #[serde(flatten)]
    held: BTreeMap<&'static str, Held>,
}

/// Of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Held {
    connections: i64,
}

/// Why there is no number.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
enum Unknown {
    #[error("not known yet: the first pass is not done")]
    Starting,
    #[error("pods have no names here, see --kube")]
    Nameless,
    #[error("the API server does not answer: there may be pods that are not known")]
    Stale,
    #[error("the users of the pod {pod} are not known: {}", reason.label())]
    Withheld { pod: String, reason: Withheld },
    #[error("the pod {pod} runs and has no cgroup that is known")]
    Lost { pod: String },
}

/// A workload: namespace, kind in lower case, name.
type Key = (String, String, String);

/// What is known of all workloads with pods on this node, or why that is of none.
type Known = Result<HashMap<Key, Result<Users, Unknown>>, Unknown>;

/// What was last found out, and when.
#[derive(Default)]
pub(super) struct Workloads(AsyncMutex<Option<(Instant, Arc<Known>)>>);

/// Answers for a workload that has no pods here, too: it has no users here.
pub(super) async fn workload(
    State(app): State<Arc<App>>,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Response {
    if !app.settings.namespaces.takes(&namespace) {
        return (StatusCode::NOT_FOUND, "this namespace is not shown\n").into_response();
    }
    let known = match known(&app).await {
        Ok(known) => known,
        Err(error) => return failed(&error),
    };
    let key = (namespace, kind.to_ascii_lowercase(), name);
    let users = match &*known {
        Ok(known) => known.get(&key).cloned().unwrap_or_else(|| Ok(Users::none())),
        Err(unknown) => Err(unknown.clone()),
    };
    match users {
        Ok(users) => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            let text = serde_json::to_string(&users);
            text.map_or_else(|error| failed(&error), |text| (kind, text + "\n").into_response())
        }
        Err(unknown) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unknown}\n")).into_response(),
    }
}

/// What is known, no older than [`EVERY`]. Who finds it too old finds it out anew; the others wait for that.
async fn known(app: &Arc<App>) -> io::Result<Arc<Known>> {
    if !app.is_ready() {
        return Ok(Arc::new(Err(Unknown::Starting)));
    }
    let mut last = app.workloads.0.lock().await;
    if let Some((at, known)) = &*last
        && at.elapsed() < EVERY
    {
        return Ok(Arc::clone(known));
    }
    let now = Instant::now();
    let asked = Arc::clone(app);
    let scrape = tokio::task::spawn_blocking(move || scrape(&asked, Part::Workloads)).await??;
    let known = Arc::new(all(&scrape));
    *last = Some((now, Arc::clone(&known)));
    Ok(known)
}

impl Users {
    fn none() -> Self {
        let held = users::protocols().map(|protocol| (protocol.label(), Held::default()));
        Self { pods: 0, held: held.collect() }
    }
}

/// What a scrape tells of all workloads.
fn all(scrape: &Scrape) -> Known {
    let names = scrape.own.snapshot.kubernetes.as_ref().ok_or(Unknown::Nameless)?;
    if !names.health.current {
        return Err(Unknown::Stale);
    }
    let withheld = scrape.trust.iter().filter_map(|pod| {
        let name = (pod.namespace.as_str(), pod.pod.as_str());
        Some((name, pod.withheld?))
    });
    let withheld: HashMap<_, _> = withheld.collect();
    let mut held: HashMap<_, Vec<_>> = HashMap::new();
    for protocol in users::protocols() {
        for row in scrape.replicas(protocol) {
            held.entry(row.name()).or_default().push((protocol.label(), row.counts.active()));
        }
    }
    let mut known: HashMap<Key, Result<Users, Unknown>> = HashMap::new();
    for pod in &names.existing {
        let workload = &pod.workload;
        let kind = workload.kind.to_ascii_lowercase();
        let key = (workload.namespace.clone(), kind, workload.name.clone());
        let users = known.entry(key).or_insert_with(|| Ok(Users::none()));
        let name = (workload.namespace.as_str(), pod.pod.as_str());
        let unknown = match withheld.get(&name) {
            Some(&reason) => Some(Unknown::Withheld { pod: pod.pod.clone(), reason }),
            None if pod.running && !pod.here => Some(Unknown::Lost { pod: pod.pod.clone() }),
            None => None,
        };
        match (unknown, &mut *users) {
            // One reason is enough.
            (_, Err(_)) => {}
            (Some(unknown), _) => *users = Err(unknown),
            (None, Ok(users)) => {
                users.pods += 1;
                for (protocol, connections) in held.get(&name).into_iter().flatten() {
                    users.held.entry(protocol).or_default().connections += connections;
                }
            }
        }
    }
    Ok(known)
}
