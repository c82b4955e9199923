//! A real Prometheus with the shipped configuration, and what autoscalers would ask it.

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

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use api::{ApiServer, NODE};
use objects::Object;
use serde_json::Value;
use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    http,
    lock::SystemLock,
    metrics::Expected,
    peer::Peer,
    pod::Pod,
    prometheus::{Agent, Prometheus, Sample, configuration, shipped},
    tools,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_mins(1);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

const NAMESPACE: &str = "shop";

fn daemon() -> Daemon {
    Daemon::start(&["--self-listen", "127.0.0.1:0"])
}

/// An API server that is there.
fn api() -> ApiServer {
    let mut api = ApiServer::new();
    api.appear();
    api
}

/// A daemon that gets the names of pods from it.
fn named(api: &ApiServer) -> Daemon {
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    let names = ["--node-name", NODE, "--kube", kubeconfig];
    Daemon::start(&[&["--self-listen", "127.0.0.1:0"], &names[..]].concat())
}

fn agent(daemon: &Daemon, node: &str) -> Agent {
    let own = daemon.self_address().expect("it has one");
    Agent { node: node.to_owned(), workloads: daemon.address(), own }
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run promtool: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_accepts_the_shipped_configuration_and_rules() {
    let path = |name| shipped(name).display().to_string();
    promtool(&["check", "rules", &path("rules.yaml")]);
    promtool(&["test", "rules", &path("rules.test.yaml")]);
    let directory = tempfile::tempdir().expect("it can be written");
    let file = directory.path().join("prometheus.yml");
    fs::write(&file, configuration(&[]).to_string()).expect("it can be written");
    promtool(&["check", "config", &file.display().to_string()]);
}

/// A pod with a WebSocket server, and its clients.
///
/// The cgroup comes last: it is removed when it is empty.
struct Replica {
    drivers: Vec<Driver>,
    server: Server,
    /// How many connections are open.
    held: u64,
    name: String,
    _pod: Pod,
}

impl Replica {
    /// One that the API server knows.
    fn start(api: &ApiServer, number: usize) -> Self {
        let pod = Pod::new();
        let server = Server::start(Protocol::Ws, (LOOPBACK, 0).into(), &pod.cgroup, None);
        let name = format!("chat-7d9c-{number}");
        let object = Object::new(&pod.name, NAMESPACE, &name).owned_by("ReplicaSet", "chat-7d9c");
        api.apply(&Object { template_hash: Some("7d9c"), ..object });
        Self { drivers: Vec::new(), server, held: 0, name, _pod: pod }
    }

    /// Opens connections of a client elsewhere: some come and go, some stay.
    fn connect(&mut self, clients: &TestCgroup, short: u64, long: u64) {
        let drive = Drive { short, long, ..Drive::new(Protocol::Ws, self.server.addr) };
        let mut driver = Driver::start(&drive, clients, None);
        driver.ready();
        self.drivers.push(driver);
        self.held += long;
    }

    /// What the daemon is to show of it.
    fn expected(&self, held: u64) -> Expected {
        let pod = [("namespace", NAMESPACE), ("pod", self.name.as_str())];
        Expected::sum("websocket_connections_active", &pod, held)
    }
}

/// Three replicas, the last of which never has a connection.
struct Deployment {
    replicas: Vec<Replica>,
    clients: TestCgroup,
}

impl Deployment {
    /// Starts it once the API server is there, and waits until the daemon counts all that is open.
    fn start(api: &ApiServer, daemon: &Daemon) -> Self {
        let clients = TestCgroup::new("observer-prometheus-clients");
        let mut replicas: Vec<_> = (0..3).map(|number| Replica::start(api, number)).collect();
        for (replica, long) in replicas.iter_mut().zip([7, 3]) {
            replica.connect(&clients, 5, long);
        }
        let deployment = Self { replicas, clients };
        deployment.wait_for_counts(daemon);
        deployment
    }

    fn wait_for_counts(&self, daemon: &Daemon) {
        let expected = self.replicas.iter().map(|replica| replica.expected(replica.held));
        daemon.wait_for(PATIENCE, &expected.collect::<Vec<_>>());
    }

    /// What is held, by pod.
    fn held(&self) -> BTreeMap<String, u64> {
        self.replicas.iter().map(|replica| (replica.name.clone(), replica.held)).collect()
    }

    /// The label matchers that prometheus-adapter would ask for these pods with.
    fn matchers(&self) -> String {
        let pods: Vec<_> = self.replicas.iter().map(|replica| replica.name.as_str()).collect();
        format!(r#"namespace="{NAMESPACE}",pod=~"{}""#, pods.join("|"))
    }
}

/// The first rule of a file.
fn adapter_rule(file: &str) -> Value {
    let path = tools::checkout().join("deploy/components/prometheus-adapter").join(file);
    let text = fs::read_to_string(path).expect("it is shipped");
    let rules: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    rules["rules"][0].clone()
}

/// A rule's query as prometheus-adapter would fill it in for all pods of the deployment.
fn adapter_query(file: &str, deployment: &Deployment) -> String {
    let rule = adapter_rule(file);
    let query = rule["metricsQuery"].as_str().expect("a rule has a query");
    query.replace("<<.LabelMatchers>>", &deployment.matchers()).replace("<<.GroupBy>>", "pod")
}

/// The values by pod; panics if a pod has two.
fn by_pod(samples: &[Sample]) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for sample in samples {
        let value = sample.value();
        assert!(value.fract() == 0.0, "connections are whole: {sample:?}");
        let pod = sample.label("pod").to_owned();
        let other = values.insert(pod, value as u64);
        assert_eq!(other, None, "two values for one pod: {samples:#?}");
    }
    values
}

#[test]
fn the_users_configuration_gives_one_value_per_pod() {
    let _lock = SystemLock::acquire();
    let api = api();
    let daemon = named(&api);
    let deployment = Deployment::start(&api, &daemon);
    let prometheus = Prometheus::start(&[agent(&daemon, "node-a")]);
    prometheus.wait_for_targets("observer", 1);
    prometheus.wait_for_targets("observer-self", 1);

    // The autoscaler's metric, by the users' own rule and by ours.
    for file in ["users-rule.yaml", "config.yaml"] {
        let samples = prometheus.query(&adapter_query(file, &deployment));
        assert_eq!(by_pod(&samples), deployment.held(), "{file}");
        // By these it finds out what there is to ask for.
        let rule = adapter_rule(file);
        let series = prometheus.query(rule["seriesQuery"].as_str().expect("a rule has one"));
        assert_eq!(by_pod(&series), deployment.held(), "{file}");
    }

    // Their dashboard.
    let total: u64 = deployment.held().values().sum();
    let sum = prometheus.query("sum(websocket_connections_active)");
    assert!(sum.len() == 1 && sum[0].is(total), "{total}: {sum:#?}");
    // One that has had no connection has none of what connections do.
    let used = deployment.held().values().filter(|held| **held != 0).count();
    for (name, series) in [
        ("websocket_connections_total", deployment.replicas.len()),
        ("websocket_messages_total", 2 * used),
        ("websocket_errors_total", 6 * used),
    ] {
        // A rate takes two scrapes.
        let samples =
            prometheus.wait_until(&format!("rate({name}[5m])"), |samples| samples.len() == series);
        for sample in samples {
            assert!(deployment.held().contains_key(sample.label("pod")), "{sample:?}");
            assert_eq!((sample.label("job"), sample.label("instance")), ("observer", "node-a"));
            // Nothing of the agent's own names.
            assert_eq!(sample.label("container"), "", "{sample:?}");
        }
    }

    // The observer's own metrics are those of the agent, and only where they belong.
    let own = prometheus.query("observer_build_info");
    assert_eq!(own.len(), 1, "{own:#?}");
    assert_eq!((own[0].label("job"), own[0].label("namespace")), ("observer-self", "observer"));
    assert_eq!(own[0].label("pod"), "observer-node-a");

    // The recording rules find what they ask for.
    prometheus.wait_until("observer:agents_up:ratio", |s| s.len() == 1 && s[0].is(1));
    let rates = "namespace_pod:websocket_connections:rate1m";
    prometheus.wait_until(rates, |samples| samples.len() == deployment.replicas.len());
    let workload = r#"{workload_kind="Deployment",workload="chat"}"#;
    let sum = format!("namespace_workload:websocket_connections_active:sum{workload}");
    prometheus.wait_until(&sum, |samples| samples.len() == 1 && samples[0].is(total));
    let imbalance = format!("namespace_workload:websocket_connections_active:imbalance{workload}");
    // 7 by the mean of 7, 3 and 0.
    prometheus.wait_until(&imbalance, |samples| {
        samples.len() == 1 && (samples[0].value() - 2.1).abs() < 1e-9
    });
    let broken = prometheus.query("prometheus_rule_evaluation_failures_total > 0");
    assert!(broken.is_empty(), "{broken:#?}");
    daemon.stop();
}

/// The first event of a kind is one that `increase()` sees, in text and over protobuf, which have the same values.
#[test]
fn the_first_reset_is_seen_and_all_formats_agree() -> anyhow::Result<()> {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&["--self-listen", "127.0.0.1:0", "--detail", "standard"]);
    let (near, far) = (Pod::new(), Pod::new());
    let (mut server, mut client) =
        (Peer::start(&near.cgroup, None), Peer::start(&far.cgroup, None));
    let address = server.listen((LOOPBACK, 0).into(), false)?;
    client.ask(&format!("connect {address}"))?;
    server.ask("accept")?;
    let agents = [agent(&daemon, "node-a")];
    let readers = [Prometheus::start(&agents), Prometheus::start_native(&agents)];
    let resets = format!(
        r#"tcp_connections_closed_total{{pod="{}",role="server",reason="reset_peer"}}"#,
        near.name
    );
    for reader in &readers {
        reader.wait_until(&resets, |samples| samples.len() == 1 && samples[0].is(0));
    }
    client.ask("reset")?;
    for reader in &readers {
        let seen = format!("increase({resets}[5m]) >= 1");
        reader.wait_until(&seen, |samples| samples.len() == 1);
        reader.wait_until(&resets, |samples| samples.len() == 1 && samples[0].is(1));
    }
    let [text, native] = &readers;
    let of = format!(r#"{{pod="{}",role="server"}}"#, near.name);
    let classic = format!("tcp_connection_duration_seconds_count{of}");
    text.wait_until(&classic, |samples| samples.len() == 1 && samples[0].is(1));
    let whole = format!("histogram_count(tcp_connection_duration_seconds{of})");
    native.wait_until(&whole, |samples| samples.len() == 1 && samples[0].is(1));
    drop((server, client));
    daemon.stop();
    Ok(())
}

#[test]
fn agents_that_overlap_count_once() {
    let _lock = SystemLock::acquire();
    let api = api();
    let old = named(&api);
    let mut deployment = Deployment::start(&api, &old);
    // The second one knows only of connections that come after its start.
    let new = named(&api);
    let clients = &deployment.clients;
    deployment.replicas.iter_mut().for_each(|replica| replica.connect(clients, 0, 2));
    deployment.wait_for_counts(&old);
    for replica in &deployment.replicas {
        new.wait_for(PATIENCE, &[replica.expected(2)]);
    }
    // What tells them apart stands for whatever does in a cluster: here, two names of one node.
    let agents = [agent(&old, "node-a"), agent(&new, "node-a.example")];
    let prometheus = Prometheus::start(&agents);
    prometheus.wait_for_targets("observer", 2);

    let users = prometheus.query(&adapter_query("users-rule.yaml", &deployment));
    assert_eq!(users.len(), 2 * deployment.replicas.len(), "each agent tells of each pod");
    let robust = prometheus.query(&adapter_query("config.yaml", &deployment));
    assert_eq!(by_pod(&robust), deployment.held());

    // KEDA's one sum, for these pods: right while all agents answer, no value when one does not.
    let keda = keda_query(&deployment);
    let total: u64 = deployment.held().values().sum();
    let sum = prometheus.query(&keda);
    assert!(sum.len() == 1 && sum[0].is(total), "{total}: {sum:#?}");
    new.stop();
    prometheus.wait_until(&keda, <[Sample]>::is_empty);
    old.stop();
}

/// The query of the `ScaledObject`, for the pods of the deployment.
fn keda_query(deployment: &Deployment) -> String {
    let path = tools::checkout().join("deploy/components/keda/scaled-object.yaml");
    let text = fs::read_to_string(path).expect("it is shipped");
    let object: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let query = object["spec"]["triggers"][0]["metadata"]["query"].as_str().expect("a query");
    let theirs = r#"namespace="default",pod=~"websocket-app-.+""#;
    assert!(query.contains(theirs), "{query}");
    query.replace(theirs, &deployment.matchers())
}

/// Names that a cgroup can have and that a careless exporter breaks on.
const ODD_NAMES: [&str; 6] = [
    r#"observer-odd-"quoted""#,
    r"observer-odd-back\slash\n",
    "observer-odd-{le=\"1\"},x} 1",
    "observer-odd-# HELP\ttab",
    "observer-odd-größe-名前-🦀",
    "observer-odd-trailing space ",
];

/// Prints the labels `pod` of the active connections, each on a line as JSON.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
text = sys.stdin.buffer.read().decode()
for family in text_string_to_metric_families(text):
    for sample in family.samples:
        if sample.name == 'tcp_connections_active' and sample.labels['protocol'] == 'websocket':
            print(json.dumps(sample.labels['pod']))
";

/// What the parser of Prometheus' Python client reads.
fn pods_by_python(address: SocketAddr) -> Vec<String> {
    let text = http::get(address, "/metrics", Some("application/openmetrics-text"));
    let text = text.expect("the daemon answers").body;
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is Debian's Python");
    let mut stdin = parser.stdin.take().expect("it is piped");
    // It prints nothing before it has read all.
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = parser.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("it is text");
    lines.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

#[test]
fn odd_names_arrive_under_load_as_they_are() {
    let _lock = SystemLock::acquire();
    let daemon = daemon();
    let cgroups = ODD_NAMES.map(TestCgroup::new);
    let clients = TestCgroup::new("observer-prometheus-clients");
    let servers: Vec<_> = cgroups
        .iter()
        .map(|cgroup| Server::start(Protocol::Ws, (LOOPBACK, 0).into(), cgroup, None))
        .collect();
    let drivers: Vec<_> = servers
        .iter()
        .map(|server| {
            let drive = Drive { short: 1_000, long: 2, ..Drive::new(Protocol::Ws, server.addr) };
            Driver::start(&drive, &clients, None)
        })
        .collect();
    let prometheus = Prometheus::start(&[agent(&daemon, "node-a")]);
    // As fast as they can be had, while connections come and go.
    let wanted = ODD_NAMES.map(|name| format!("/{name}"));
    for _ in 0..20 {
        pods_by_python(daemon.address());
    }
    for mut driver in drivers {
        driver.ready();
        drop(driver);
    }
    let pods = pods_by_python(daemon.address());
    for name in &wanted {
        assert!(pods.contains(name), "{name:?} is not in {pods:?}");
    }
    let stored = "websocket_connections_total{namespace=\"cgroup\"}";
    let samples = prometheus.wait_until(stored, |samples| {
        samples.len() == wanted.len() && samples.iter().all(|sample| sample.is(1_002))
    });
    for name in &wanted {
        assert!(samples.iter().any(|sample| sample.label("pod") == name), "{name:?}: {samples:#?}");
    }
    daemon.stop();
}
