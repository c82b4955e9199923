//! A real Prometheus with the shipped configuration, and what autoscalers would ask it.

#[expect(dead_code, reason = "each test file uses its part of the API server")]
#[path = "kubernetes/api.rs"]
mod api;
#[path = "prometheus/dashboards.rs"]
mod dashboards;
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
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use api::{ApiServer, NODE};
use objects::Object;
use serde_json::Value;
use support::{
    bpffs::Bpffs,
    cgroup::TestCgroup,
    daemon::{Daemon, executable},
    http,
    lock::SystemLock,
    metrics::Expected,
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

/// A daemon that gets the names of pods from it.
fn named(api: &ApiServer, more: &[&str]) -> Daemon {
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    let names = ["--node-name", NODE, "--kube", kubeconfig];
    Daemon::start(&[&["--self-listen", "127.0.0.1:0"], &names[..], more].concat())
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
    for rules in ["rules.yaml", "alerts.yaml"] {
        promtool(&["check", "rules", &path(rules)]);
    }
    for tests in ["rules.test.yaml", "alerts.test.yaml"] {
        promtool(&["test", "rules", &path(tests)]);
    }
    let directory = tempfile::tempdir().expect("it can be written");
    let file = directory.path().join("prometheus.yml");
    fs::write(&file, configuration(&[]).to_string()).expect("it can be written");
    promtool(&["check", "config", &file.display().to_string()]);
    // With what stands there as a proposal, too.
    let text = fs::read_to_string(shipped("scrape.yaml")).expect("it is shipped");
    let proposed = text.replace("    # metric_relabel_configs:", "    metric_relabel_configs:");
    assert_ne!(text, proposed);
    let lines = proposed.lines().map(|line| match line.strip_prefix("    #   ") {
        Some(proposal) => format!("      {proposal}\n"),
        None => format!("{line}\n"),
    });
    let mut jobs: Value = serde_saphyr::from_str(&lines.collect::<String>()).expect("it is YAML");
    let proposals = jobs["scrape_configs"][0]["metric_relabel_configs"].take();
    assert!(proposals.as_array().is_some_and(|list| list.len() > 1), "{proposals}");
    let mut with_proposals = configuration(&[]);
    with_proposals["scrape_configs"][0]["metric_relabel_configs"] = proposals;
    fs::write(&file, with_proposals.to_string()).expect("it can be written");
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
    pod: Pod,
}

impl Replica {
    /// One that the API server knows.
    fn start(api: &ApiServer, number: usize) -> Self {
        let pod = Pod::new();
        let server = Server::start(Protocol::Ws, (LOOPBACK, 0).into(), &pod.cgroup, None);
        let name = format!("chat-7d9c-{number}");
        let object = Object::new(&pod.name, NAMESPACE, &name).owned_by("ReplicaSet", "chat-7d9c");
        api.apply(&Object { template_hash: Some("7d9c"), ..object });
        Self { drivers: Vec::new(), server, held: 0, name, pod }
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

/// The rules of a file.
fn adapter_rules(file: &str) -> Vec<Value> {
    let path = tools::checkout().join("deploy/components/prometheus-adapter").join(file);
    let text = fs::read_to_string(path).expect("it is shipped");
    let rules: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    rules["rules"].as_array().expect("there are rules").clone()
}

/// The first rule of a file.
fn adapter_rule(file: &str) -> Value {
    adapter_rules(file).swap_remove(0)
}

/// A rule's query as prometheus-adapter would fill it in for all pods of the deployment.
fn adapter_query(file: &str, deployment: &Deployment) -> String {
    filled_in(&adapter_rule(file), &deployment.matchers())
}

/// A rule's query as prometheus-adapter would fill it in.
fn filled_in(rule: &Value, matchers: &str) -> String {
    let query = rule["metricsQuery"].as_str().expect("a rule has a query");
    query.replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
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
    let api = ApiServer::present();
    let daemon = named(&api, &[]);
    let deployment = Deployment::start(&api, &daemon);
    let prometheus = Prometheus::start(&[Agent::of(&daemon, "node-a")]);
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
    // And so do the dashboards, with the same numbers.
    prometheus.wait_until("observer_series", |samples| !samples.is_empty());
    dashboards::assert_answered(&prometheus, NAMESPACE);
    let users = dashboards::shown(&prometheus, NAMESPACE, "overview: WebSocket users A");
    assert!(users.len() == 1 && users[0].is(total), "{users:#?}");
    let active = dashboards::shown(&prometheus, NAMESPACE, "websocket: Active by replica A");
    assert_eq!(by_pod(&active), deployment.held());
    let broken = prometheus.query("prometheus_rule_evaluation_failures_total > 0");
    assert!(broken.is_empty(), "{broken:#?}");
    daemon.stop();
}

#[test]
fn agents_that_overlap_count_once() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let old = named(&api, &[]);
    let mut deployment = Deployment::start(&api, &old);
    // The second one knows only of connections that come after its start, and tells of them at once.
    let new = named(&api, &["--settling", "0s"]);
    let clients = &deployment.clients;
    deployment.replicas.iter_mut().for_each(|replica| replica.connect(clients, 0, 2));
    deployment.wait_for_counts(&old);
    for replica in &deployment.replicas {
        new.wait_for(PATIENCE, &[replica.expected(2)]);
    }
    // What tells them apart stands for whatever does in a cluster: here, two names of one node.
    let agents = [Agent::of(&old, "node-a"), Agent::of(&new, "node-a.example")];
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
    keda_query_for("websocket", &deployment.matchers())
}

fn keda_query_for(protocol: &str, matchers: &str) -> String {
    let path = format!("deploy/examples/keda/{protocol}/scaled-object.yaml");
    let path = tools::checkout().join(path);
    let text = fs::read_to_string(path).expect("it is shipped");
    let object: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let query = object["spec"]["triggers"][0]["metadata"]["query"].as_str().expect("a query");
    let theirs = format!(r#"namespace="default",pod=~"{protocol}-app-.+""#);
    assert_eq!(query.matches(&theirs).count(), 2, "number and guard are of the same pods: {query}");
    query.replace(&theirs, matchers)
}

/// What autoscalers ask has no answer while a pod that they ask for is withheld, nor as long as that lies within the minute
/// that they average over: for whatever reason, and with the pod's old number still in that minute, or none ever.
#[test]
fn no_autoscaler_gets_an_answer_while_a_pod_is_withheld() {
    const MATCHERS: &str = r#"namespace="shop",pod=~"chat-1|chat-2""#;
    let queries = ["config.yaml", "users-rule.yaml"].into_iter().flat_map(adapter_rules);
    let mut queries: Vec<_> = queries.map(|rule| filled_in(&rule, MATCHERS)).collect();
    assert_eq!(queries.len(), 5, "{queries:?}");
    queries.extend(["websocket", "grpc"].map(|protocol| keda_query_for(protocol, MATCHERS)));
    let series = |name: &str, labels: &str, values: &str| serde_json::json!({ "series": format!("{name}{{{labels}}}"), "values": values });
    let of = |pod: &str| format!(r#"namespace="shop",pod="{pod}",job="observer""#);
    let mut input = vec![series("up", r#"instance="node-a",job="observer""#, "1x40")];
    for protocol in ["websocket", "grpc"] {
        let name = format!("{protocol}_connections_active");
        input.push(series(&name, &of("chat-1"), "90x40"));
        // Known, withheld from 2 m to 4 m, known again.
        input.push(series(&name, &of("chat-2"), "30x7 stale _x7 30x24"));
    }
    let withheld = |reason, values| {
        series("observer_pod_withheld", &format!(r#"{},reason="{reason}""#, of("chat-2")), values)
    };
    input.push(withheld("settling", "_x8 1x3 stale"));
    input.push(withheld("incomplete", "_x12 1x1 stale"));
    input.push(withheld("blind", "_x14 1x1 stale"));
    // That of others changes nothing.
    let other = format!(r#"{},reason="blind""#, of("other"));
    input.push(series("observer_pod_withheld", &other, "1x40"));
    let value = |at: &str, query: &String| {
        serde_json::json!({ "expr": format!("count({query})"), "eval_time": at, "exp_samples": [
            { "labels": "{}", "value": if query.contains("up{") { 1 } else { 2 } },
        ] })
    };
    let none = |at: &str, query: &String| serde_json::json!({ "expr": query, "eval_time": at, "exp_samples": [] });
    let mut tests = Vec::new();
    for query in &queries {
        tests.push(value("1m45s", query));
        tests.extend(["2m", "2m45s", "3m15s", "3m45s", "4m"].map(|at| none(at, query)));
        // What they average over is as long as what the guard looks at.
        let is_fast = query.contains("[30s]");
        assert_eq!(query.contains("[1m]"), !is_fast, "{query}");
        tests.push(if is_fast { value("4m30s", query) } else { none("4m30s", query) });
        tests.push(value("5m", query));
    }
    let directory = tempfile::tempdir().expect("it can be written");
    let file = directory.path().join("autoscalers.test.yaml");
    let test = serde_json::json!({ "rule_files": [], "evaluation_interval": "15s", "tests": [
        { "interval": "15s", "input_series": input, "promql_expr_test": tests },
    ] });
    fs::write(&file, test.to_string()).expect("it can be written");
    promtool(&["test", "rules", &file.display().to_string()]);
}

/// How many replicas the controller of a `HorizontalPodAutoscaler` wants by an answer: of pods without a value it assumes
/// that they are at their target, on the way down; without any value it does nothing.
fn wanted(answer: &[Sample], replicas: usize, target: f64) -> usize {
    if answer.is_empty() {
        return replicas;
    }
    let missing = (replicas - answer.len()) as f64 * target;
    let sum = answer.iter().map(Sample::value).sum::<f64>() + missing;
    let ratio = sum / (replicas as f64 * target);
    let is_near = (ratio - 1.0).abs() <= 0.1;
    if is_near { replicas } else { (ratio * replicas as f64).ceil() as usize }
}

/// Another number of cells is another kernel side: what is open is found anew, and is not known for a while.
#[test]
fn an_autoscaler_does_not_move_when_the_kernel_side_is_replaced() {
    let _lock = SystemLock::acquire();
    let (api, bpffs) = (ApiServer::present(), Bpffs::new());
    let kubeconfig = api.kubeconfig();
    let start = |listen: &str, own: &str, more: [&str; 2]| {
        let mut command = Command::new(executable());
        command.args(["run", "--log-format", "json", "--listen", listen, "--self-listen", own]);
        command.args(["--node-name", NODE, "--kube"]).arg(&kubeconfig);
        command.args(["--pin", bpffs.pins(), "--settling", "1h"]).args(more);
        Daemon::spawn(&mut command)
    };
    let any = "127.0.0.1:0";
    let old = start(any, any, ["--cells", "4096"]);
    let mut deployment = Deployment::start(&api, &old);
    let here = Agent::of(&old, "node-a");
    let (listen, own) = (here.workloads.to_string(), here.own.to_string());
    let prometheus = Prometheus::start(&[here]);
    prometheus.wait_for_targets("observer", 1);
    let queries = ["config.yaml", "users-rule.yaml"].map(|file| adapter_query(file, &deployment));
    let replicas = deployment.replicas.len();
    let target = deployment.held().values().sum::<u64>() as f64 / replicas as f64;
    for query in &queries {
        prometheus.wait_until(query, |answer| by_pod(answer) == deployment.held());
    }

    // Another size is told at the next start; what is counted stays.
    old.stop();
    let resized = start(&listen, &own, ["--cells", "8192"]);
    deployment.wait_for_counts(&resized);
    for query in &queries {
        prometheus.wait_until(query, |answer| by_pod(answer) == deployment.held());
    }

    // Another root is another kernel side, which has seen no connection begin.
    resized.stop();
    let root = deployment.replicas[0].pod.cgroup.path().ancestors().nth(3);
    let root = root.and_then(Path::to_str).expect("a slice of pods").to_owned();
    let new = start(&listen, &own, ["--cgroup-root", &root]);
    let stands = |until: &str| {
        prometheus.wait_until(until, |samples| {
            for query in &queries {
                let answer = prometheus.query(query);
                assert_eq!(wanted(&answer, replicas, target), replicas, "{answer:#?}");
            }
            !samples.is_empty()
        });
    };
    // Those with connections are not known; the third is, and tells nothing about the others.
    stands(r#"count(count_over_time(observer_pod_withheld{reason="incomplete"}[1m]) >= 4) == 2"#);
    for query in queries.iter().chain([&keda_query(&deployment)]) {
        assert!(prometheus.query(query).is_empty(), "{query}");
    }
    deployment.replicas.clear();
    new.stop();
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
    let prometheus = Prometheus::start(&[Agent::of(&daemon, "node-a")]);
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
