//! What the agents tell autoscalers of one workload, and what KEDA makes of it with the shipped `ScaledObject`s.

#[expect(dead_code, reason = "each test file uses its part of the API server")]
#[path = "kubernetes/api.rs"]
mod api;
#[expect(dead_code, reason = "each test file uses its part of the API server's pods")]
#[path = "kubernetes/objects.rs"]
mod objects;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;
#[path = "kubernetes/tls.rs"]
mod tls;

use std::{fs, net::Ipv4Addr, time::Duration};

use api::{ApiServer, NODE};
use objects::Object;
use serde_json::{Value, json};
use support::{
    daemon::Daemon,
    http,
    lock::SystemLock,
    pod::Pod,
    poll::poll,
    tools,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(20);
const NAMESPACE: &str = "default";

/// A daemon that gets the names of pods from it.
fn named(api: &ApiServer, more: &[&str]) -> Daemon {
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    Daemon::start(&[&["--node-name", NODE, "--kube", kubeconfig], more].concat())
}

/// A replica of the Deployment `name` that the API server knows.
fn object(uid: &str, name: &str, number: usize) -> Object {
    let set: &'static str = match name {
        "websocket-app" => "websocket-app-7d9c",
        "grpc-app" => "grpc-app-7d9c",
        other => panic!("{other}"),
    };
    let object = Object::new(uid, NAMESPACE, &format!("{set}-{number}"));
    Object { template_hash: Some("7d9c"), ..object.owned_by("ReplicaSet", set) }
}

/// A pod with a server, and the connections that are open to it. The pod is removed last, when its cgroup is empty.
struct Replica {
    _driver: Driver,
    _server: Server,
    pod: Pod,
}

impl Replica {
    fn start(protocol: Protocol, clients: &Pod, long: u64) -> Self {
        let pod = Pod::new();
        let server = Server::start(protocol, (Ipv4Addr::LOCALHOST, 0).into(), &pod.cgroup, None);
        let drive = Drive { long, ..Drive::new(protocol, server.addr) };
        let mut driver = Driver::start(&drive, &clients.cgroup, None);
        driver.ready();
        Self { _driver: driver, _server: server, pod }
    }
}

/// What an agent answers for a workload: status and body.
fn ask(daemon: &Daemon, path: &str) -> (u16, String) {
    let answer = http::get(daemon.address(), path, None).expect("it answers");
    let is_json = answer.content_type == "application/json";
    assert_eq!(is_json, answer.status == 200, "{answer:?}");
    (answer.status, answer.body)
}

/// Asks until the answer is as wanted.
fn wait_for(daemon: &Daemon, path: &str, wanted: &(u16, String)) {
    let mut last = None;
    poll(PATIENCE, || {
        last = Some(ask(daemon, path));
        (last.as_ref() == Some(wanted)).then_some(())
    })
    .unwrap_or_else(|| panic!("{path}: {last:?} instead of {wanted:?}"));
}

fn users(pods: u64, websocket: u64, grpc: u64) -> (u16, String) {
    let held = |count| json!({ "connections": count });
    let (grpc, websocket) = (held(grpc), held(websocket));
    (200, format!("{{\"pods\":{pods},\"grpc\":{grpc},\"websocket\":{websocket}}}\n"))
}

fn unknown(reason: &str) -> (u16, String) {
    (503, format!("{reason}\n"))
}

/// A shipped `ScaledObject` without Prometheus.
struct Scaled(Value);

impl Scaled {
    fn shipped(name: &str) -> Self {
        let path = format!("deploy/examples/keda/{name}-without-prometheus/scaled-object.yaml");
        let text = fs::read_to_string(tools::checkout().join(path)).expect("it is shipped");
        Self(serde_saphyr::from_str(&text).expect("it is YAML"))
    }

    fn trigger(&self, name: &str) -> &Value {
        let triggers = self.0["spec"]["triggers"].as_array().expect("there are triggers");
        let trigger = triggers.iter().find(|trigger| trigger["name"] == name);
        &trigger.expect("there is such a trigger")["metadata"]
    }

    /// The path that a trigger asks each endpoint of the Service for. KEDA takes the address of an endpoint, the port and the
    /// path of the URL, and leaves out its query.
    fn path(&self, trigger: &str) -> String {
        let url = self.trigger(trigger)["url"].as_str().expect("a URL");
        let rest = url.strip_prefix("http://observer.observer.svc:9435/");
        format!("/{}", rest.expect("the Service, and the port of the agents"))
    }

    /// The value of a trigger as KEDA's scaler `metrics-api` (2.20) aggregates it: the sum over the endpoints that answer with
    /// a number; an error if there is none of them.
    fn sum(&self, trigger: &str, agents: &[&Daemon]) -> Option<u64> {
        let settings = self.trigger(trigger);
        assert_eq!(settings["aggregateFromKubeServiceEndpoints"], "true");
        assert_eq!(settings["aggregationType"], "sum");
        let place = settings["valueLocation"].as_str().expect("a place in the answer");
        let path = self.path(trigger);
        let number = |agent: &&Daemon| {
            let (status, body) = ask(agent, &path);
            let answer: Value =
                (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))?;
            place.split('.').try_fold(&answer, |value, key| value.get(key))?.as_u64()
        };
        let numbers: Vec<u64> = agents.iter().filter_map(number).collect();
        (!numbers.is_empty()).then(|| numbers.into_iter().sum())
    }

    /// What the formula makes of that, with so many `pods` that the selector finds; no value is an error, and the autoscaler
    /// stays where it is.
    fn value(&self, agents: &[&Daemon], pods: u64) -> Option<u64> {
        let modifiers = &self.0["spec"]["advanced"]["scalingModifiers"];
        let formula =
            r#"known == pods ? users : float("there are pods whose users are not known")"#;
        assert_eq!(modifiers["formula"], formula);
        let (users, known) = (self.sum("users", agents)?, self.sum("known", agents)?);
        (known == pods).then_some(users)
    }
}

#[test]
fn keda_has_the_sum_of_all_agents_or_none() {
    let _lock = SystemLock::acquire();
    // Two nodes: each agent is told of its own pods.
    let apis = [ApiServer::present(), ApiServer::present()];
    let clients = Pod::new();
    let [one, two] = apis.each_ref().map(|api| named(api, &[]));
    let agents = [&one, &two];
    for (name, protocol) in [("websocket", Protocol::Ws), ("grpc", Protocol::Grpc)] {
        let scaled = Scaled::shipped(name);
        let app = format!("{name}-app");
        let path = scaled.path("users");
        assert_eq!(path, scaled.path("known"));
        let tell = |pods, connections| match protocol {
            Protocol::Ws => users(pods, connections, 0),
            _ => users(pods, 0, connections),
        };
        // Nobody has any pod.
        for agent in agents {
            wait_for(agent, &path, &tell(0, 0));
        }
        assert_eq!(scaled.value(&agents, 0), Some(0));
        let replicas = [(0, 5), (1, 2), (1, 0)]
            .map(|(node, long)| (node, Replica::start(protocol, &clients, long)));
        for (number, (node, replica)) in replicas.iter().enumerate() {
            apis[*node].apply(&object(&replica.pod.name, &app, number));
        }
        wait_for(&one, &path, &tell(1, 5));
        wait_for(&two, &path, &tell(2, 2));
        assert_eq!(scaled.value(&agents, 3), Some(7));
        // The kind may be written as Kubernetes writes it; another kind of the name is another workload.
        assert_eq!(ask(&one, &path.replace("/deployment/", "/Deployment/")), tell(1, 5));
        assert_eq!(ask(&one, &path.replace("/deployment/", "/StatefulSet/")), tell(0, 0));
        // An agent that is away or not ready is none of the endpoints: the sum of the others would be too small.
        assert_eq!(
            (scaled.sum("users", &agents[..1]), scaled.value(&agents[..1], 3)),
            (Some(5), None)
        );
        // So would it be without a pod that no agent has, such as one that is on no node yet.
        assert_eq!(scaled.value(&agents, 4), None);
    }
    one.stop();
    two.stop();
}

#[test]
fn no_number_rather_than_one_that_is_too_small() {
    let _lock = SystemLock::acquire();
    let mut api = ApiServer::present();
    let clients = Pod::new();
    let old = Replica::start(Protocol::Ws, &clients, 3);
    let first = object(&old.pod.name, "websocket-app", 0);
    api.apply(&first);
    let scaled = Scaled::shipped("websocket");
    let path = scaled.path("users");
    // Nobody has looked for what was open before.
    let more = ["--simulate-lacking", "iter/tcp", "--settling", "1h"];
    let daemon = named(&api, &[&more[..], &["--self-listen", "127.0.0.1:0"]].concat());
    let settling = "the users of the pod websocket-app-7d9c-0 are not known: settling";
    wait_for(&daemon, &path, &unknown(settling));
    assert_eq!(scaled.value(&[&daemon], 1), None);
    // Another workload is known.
    wait_for(&daemon, &Scaled::shipped("grpc").path("users"), &users(0, 0, 0));
    // With a pod that is known it is not known either, until the other is gone.
    let young = Replica::start(Protocol::Ws, &clients, 2);
    api.apply(&object(&young.pod.name, "websocket-app", 1));
    wait_for(&daemon, &path, &unknown(settling));
    api.delete(&first.uid);
    wait_for(&daemon, &path, &users(1, 2, 0));

    // One that does not run yet has no users; one that has ended is none.
    let coming = Object {
        running: false,
        ..object("6c0c1e9c-8a43-4f0a-a1b7-000000000001", "websocket-app", 2)
    };
    api.apply(&coming);
    wait_for(&daemon, &path, &users(2, 2, 0));
    // One that runs, and nobody knows where.
    api.apply(&Object { running: true, ..coming.clone() });
    wait_for(
        &daemon,
        &path,
        &unknown("the pod websocket-app-7d9c-2 runs and has no cgroup that is known"),
    );
    api.delete(&coming.uid);
    wait_for(&daemon, &path, &users(1, 2, 0));

    // There may be pods that it is not told of.
    api.vanish();
    wait_for(
        &daemon,
        &path,
        &unknown("the API server does not answer: there may be pods that are not known"),
    );
    api.appear();
    wait_for(&daemon, &path, &users(1, 2, 0));

    // Where the observer's own metrics are, others' are not.
    let own = daemon.self_address().expect("it was given one");
    assert_eq!(http::get(own, &path, None).expect("it answers").status, 404);
    daemon.stop();
}

#[test]
fn who_asks_has_to_be_let_in_and_names_have_to_be_known() {
    let _lock = SystemLock::acquire();
    let path = Scaled::shipped("websocket").path("users");
    let nameless = Daemon::start(&["--kube", "off"]);
    wait_for(&nameless, &path, &unknown("pods have no names here, see --kube"));
    nameless.stop();
    let api = ApiServer::present();
    let directory = tempfile::tempdir().expect("it can be written");
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "of-keda\n").expect("it can be written");
    let tokens = tokens.to_str().expect("a path of plain characters");
    let daemon = named(&api, &["--bearer-token-file", tokens, "--namespaces", "default"]);
    let status = |path: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str())];
        let (head, _) = http::get_bytes(daemon.address(), path, &headers).expect("it answers");
        head.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!(status(&path, "of-nobody"), "401");
    poll(PATIENCE, || (status(&path, "of-keda") == "200").then_some(())).expect("it lets KEDA in");
    assert_eq!(status(&path.replace("/default/", "/shop/"), "of-keda"), "404");
    daemon.stop();
}
