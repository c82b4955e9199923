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

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Path as Way, Role},
        protocol::Protocol,
        wire::slot,
    };

    use super::*;
    use crate::{
        aggregate::{Series, SeriesKey},
        attribute::{Health, Identity, Kind, Workload},
        bpf::Origin,
        collect::{ExistingPod, Kubernetes, Snapshot, Trust},
        export::{
            encode::Served,
            rows::{About, DroppedLines},
        },
        model::Counts,
    };

    fn pod(workload: &str, pod: &str, running: bool, here: bool) -> ExistingPod {
        let workload = Workload {
            namespace: "shop".to_owned(),
            kind: "Deployment".to_owned(),
            name: workload.to_owned(),
        };
        ExistingPod { pod: pod.to_owned(), workload, running, here }
    }

    /// Connections of a pod's users.
    fn users(pod: &str, protocol: Protocol, active: u64) -> Series {
        let mut counts = Counts::default();
        for counter in [&slot::ENTERED, &slot::ACTIVE] {
            counts.words_mut(counter)[0] = active;
        }
        let identity = Arc::new(Identity {
            kind: Kind::Pod,
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            container: "app".to_owned(),
            pod_uid: None,
            container_id: None,
            workload: None,
        });
        let (role, path) = (Role::Server, Way::External);
        Series { key: SeriesKey { identity, role, protocol, port: 80, path }, counts }
    }

    /// What is told of the workload `chat`: its pods, and their users by WebSocket and by gRPC.
    fn told(snapshot: Snapshot) -> Result<(u64, i64, i64), Unknown> {
        let about = About {
            node: "n".to_owned(),
            kernel: "k".to_owned(),
            origin: Origin::Created,
            dropped: DroppedLines::default(),
        };
        let scrape = Scrape::new(snapshot, &about, &Served::default(), |_| true);
        let key = ["shop", "deployment", "chat"].map(str::to_owned);
        let mut known = all(&scrape)?;
        let users = known.remove(&key.into()).unwrap_or_else(|| Ok(Users::none()))?;
        let held = |protocol| users.held[protocol].connections;
        Ok((users.pods, held("websocket"), held("grpc")))
    }

    fn kubernetes(existing: Vec<ExistingPod>) -> Kubernetes {
        let health = Health { current: true, ..Health::default() };
        Kubernetes { health, unnamed: 0, pods: Vec::new(), existing, totals: Vec::new() }
    }

    fn snapshot(existing: Vec<ExistingPod>) -> Snapshot {
        let series = vec![
            users("chat-1", Protocol::WebSocket, 5),
            users("chat-2", Protocol::WebSocket, 2),
            users("chat-2", Protocol::Grpc, 3),
            users("other-1", Protocol::WebSocket, 9),
            // The API server has it no more.
            users("chat-0", Protocol::WebSocket, 1),
        ];
        Snapshot { series, kubernetes: Some(kubernetes(existing)), ..Snapshot::default() }
    }

    /// Two pods that are here, and one of another workload.
    fn pods() -> Vec<ExistingPod> {
        ["chat-1", "chat-2"]
            .map(|name| pod("chat", name, true, true))
            .into_iter()
            .chain([pod("other", "other-1", true, true)])
            .collect()
    }

    #[test]
    fn the_pods_that_exist_are_added_up() {
        assert_eq!(told(snapshot(pods())), Ok((2, 7, 3)));
        let coming = pod("chat", "chat-3", false, false);
        assert_eq!(told(snapshot([pods(), vec![coming]].concat())), Ok((3, 7, 3)));
        assert_eq!(told(snapshot(Vec::new())), Ok((0, 0, 0)));
    }

    #[test]
    fn a_number_that_may_be_too_small_is_none() {
        assert_eq!(told(Snapshot::default()), Err(Unknown::Nameless));
        let mut stale = snapshot(pods());
        stale.kubernetes.as_mut().unwrap().health.current = false;
        assert_eq!(told(stale), Err(Unknown::Stale));
        let lost = pod("chat", "chat-3", true, false);
        let expected = Unknown::Lost { pod: "chat-3".to_owned() };
        assert_eq!(told(snapshot([pods(), vec![lost]].concat())), Err(expected));
        for reason in Withheld::ALL {
            let withheld = |pod: &str| {
                let (namespace, pod) = ("shop".to_owned(), pod.to_owned());
                let trust = vec![Trust { namespace, pod, withheld: Some(reason), unread: None }];
                told(Snapshot { trust, ..snapshot(pods()) })
            };
            let expected = Unknown::Withheld { pod: "chat-2".to_owned(), reason };
            assert_eq!(withheld("chat-2"), Err(expected));
            assert_eq!(withheld("other-1"), Ok((2, 7, 3)), "that is another workload's");
        }
        // What is only unread is known to be that much.
        let (namespace, pod) = ("shop".to_owned(), "chat-2".to_owned());
        let trust = vec![Trust { namespace, pod, withheld: None, unread: Some(4) }];
        assert_eq!(told(Snapshot { trust, ..snapshot(pods()) }), Ok((2, 7, 3)));
    }
}
