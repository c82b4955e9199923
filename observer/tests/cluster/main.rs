//! A real control plane scales a workload by what the observer counts, with the files of `deploy`: only targets and windows
//! are others.

mod node;
mod plane;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use node::{Node, apply};
use plane::Plane;
use serde_json::{Value, json};
use support::{
    lock::SystemLock,
    pod::Pod,
    poll::poll,
    tools,
    workload::{Drive, Driver, Protocol},
};

/// How long something may take that has to pass a scrape, the adapter's list, and the controller.
const PATIENCE: Duration = Duration::from_mins(4);
const WORKLOAD: &str = "websocket-app";
/// Connections that a replica is to have.
const TARGET: u64 = 10;

/// A cluster with a workload, its clients, and all that is shipped.
///
/// What is declared first goes first.
struct Cluster {
    drivers: Vec<Driver>,
    node: Node,
    clients: Pod,
    plane: Arc<Plane>,
}

impl Cluster {
    /// Starts it with so many replicas, and connections to each.
    fn start(replicas: usize, connections: u64) -> Self {
        let plane = Arc::new(Plane::start());
        let node = Node::start(&plane);
        for directory in ["base", "examples/prometheus", "examples/prometheus-adapter"] {
            apply(&plane, directory);
        }
        // What is open before it is another scenario.
        poll(PATIENCE, || node.has_agent().then_some(())).expect("the observer runs");
        let labels = json!({ "app": WORKLOAD });
        let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": WORKLOAD, "namespace": "default" },
            "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "app", "image": "played" }] },
            } },
        });
        plane.kubectl(&["apply", "--filename", "-"], Some(&deployment.to_string()));
        let mut cluster = Self { drivers: Vec::new(), node, clients: Pod::new(), plane };
        let servers = poll(PATIENCE, || {
            let servers = cluster.node.servers(WORKLOAD);
            (servers.len() == replicas).then_some(servers)
        });
        for server in servers.expect("the replicas run") {
            let drive = Drive { long: connections, ..Drive::new(Protocol::Ws, server) };
            let netns = Some(cluster.plane.netns());
            let mut driver = Driver::start(&drive, &cluster.clients.cgroup, netns);
            driver.ready();
            cluster.drivers.push(driver);
        }
        cluster.scale();
        cluster
    }

    /// Applies the shipped autoscaler with a target and windows for a test.
    fn scale(&self) {
        let path = tools::checkout().join("deploy/examples/hpa/websocket");
        let shipped =
            self.plane.kubectl(&["kustomize", path.to_str().expect("plain characters")], None);
        let mut hpa: Value = serde_saphyr::from_str(&shipped).expect("it is YAML");
        let set = |place: &mut Value, value: Value| {
            assert!(!place.is_null(), "the shipped one has it");
            *place = value;
        };
        let spec = &mut hpa["spec"];
        set(&mut spec["metrics"][0]["pods"]["target"]["averageValue"], json!(TARGET.to_string()));
        set(&mut spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"], json!(0));
        set(&mut spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"], json!(15));
        self.plane.kubectl(&["apply", "--filename", "-"], Some(&hpa.to_string()));
    }

    fn deployment(&self) -> Value {
        self.plane.get(&["deployment", "--namespace", "default", WORKLOAD])
    }

    /// Waits until the autoscaler wants so many replicas, and they run.
    fn wait_for_replicas(&self, replicas: u64) {
        let mut last = Value::Null;
        poll(PATIENCE, || {
            last = self.deployment();
            let running = self.node.servers(WORKLOAD).len() as u64;
            (last["spec"]["replicas"] == replicas && running == replicas).then_some(())
        })
        .unwrap_or_else(|| panic!("{}", self.state(&last)));
    }

    /// Waits until the autoscaler knows of so many connections of a replica in the mean.
    fn wait_for_mean(&self, mean: u64) {
        let wanted = mean.to_string();
        let current = || {
            let hpa = self.plane.get(&["hpa", "--namespace", "default", "websocket-hpa"]);
            hpa.pointer("/status/currentMetrics/0/pods/current/averageValue").cloned()
        };
        poll(PATIENCE, || (current()? == wanted.as_str()).then_some(()))
            .unwrap_or_else(|| panic!("{}", self.state(&self.deployment())));
    }

    /// What there is to be said when something does not happen.
    fn state(&self, deployment: &Value) -> String {
        let hpa = self.plane.try_kubectl(&["describe", "hpa", "--namespace", "default"], None);
        let pods =
            self.plane.try_kubectl(&["get", "pods", "--all-namespaces", "--output", "wide"], None);
        format!(
            "{} replicas\n{hpa:?}\n{pods:?}\n{}",
            deployment["spec"]["replicas"],
            self.plane.said("kube-controller-manager")
        )
    }
}

#[test]
#[ignore = "takes a control plane: `cargo xtask cluster` finds or builds one"]
fn an_autoscaler_goes_up_and_down_by_connections() {
    let _lock = SystemLock::acquire();
    // 45 connections are for five replicas.
    let mut cluster = Cluster::start(3, 15);
    cluster.wait_for_replicas(5);
    // 15 are for two, of which three are the least, and one goes at a time.
    cluster.drivers.truncate(1);
    cluster.wait_for_replicas(4);
}

#[test]
#[ignore = "takes a control plane: `cargo xtask cluster` finds or builds one"]
fn nothing_moves_while_an_agent_is_dead_or_replaced() {
    let _lock = SystemLock::acquire();
    let cluster = Cluster::start(4, TARGET);
    cluster.wait_for_mean(TARGET);
    // Each change of the number of replicas is another generation.
    let before = cluster.deployment()["metadata"]["generation"].clone();
    let stands = || assert_eq!(cluster.deployment()["metadata"]["generation"], before);
    cluster.node.end_agent(true);
    let dead = Instant::now();
    while dead.elapsed() < Duration::from_mins(1) {
        stands();
    }
    cluster.node.start_agent(&[]);
    cluster.wait_for_mean(TARGET);
    stands();
    // Another build takes over what the kernel has counted.
    cluster.node.end_agent(false);
    cluster.node.start_agent(&["--simulate-build", "2"]);
    let replaced = Instant::now();
    // The mean of a minute, and the window.
    while replaced.elapsed() < Duration::from_secs(80) {
        stands();
    }
    cluster.wait_for_mean(TARGET);
    stands();
}
