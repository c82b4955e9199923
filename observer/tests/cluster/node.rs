//! A node: what a kubelet does with pods as far as the observer and autoscalers see it. It starts a process in a cgroup of a
//! pod's shape, tells of it in the pod's status, and ends it when the pod is to go.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    plane::{Plane, in_pod},
    support::{
        bpffs::Bpffs,
        cgroup::{ROOT, TestCgroup},
        daemon::{Daemon, executable},
        process::Process,
        tools,
        workload::{Protocol, Server},
    },
};

/// The node's name.
const NAME: &str = "node-a";
/// How often it looks at its pods.
const EVERY: Duration = Duration::from_millis(500);
/// Where pods serve WebSocket.
pub(crate) const PORT: u16 = 8080;
/// The address of Prometheus' pod, so that its Service's name can lead there.
const PROMETHEUS: &str = "10.66.1.1";

/// What runs in a pod. A cgroup goes after what is in it.
enum Inside {
    Server {
        server: Server,
        _cgroup: TestCgroup,
    },
    /// The observer; none while it is dead.
    Agent(Option<Daemon>),
    Program {
        _process: Process,
    },
    /// Nothing that is played here.
    Nothing,
}

struct Pod {
    inside: Inside,
    address: String,
    object: Value,
}

/// What the kubelet and the test share.
struct State {
    pods: BTreeMap<String, Pod>,
    addresses: u32,
}

/// The node. What it runs ends when it is dropped.
pub(crate) struct Node {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plane: Arc<Plane>,
    bpffs: Bpffs,
    state: Mutex<State>,
    ended: AtomicBool,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Node {
    /// Makes it known to the API server, and looks after its pods from now on.
    pub(crate) fn start(plane: &Arc<Plane>) -> Self {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME, "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/hostname": NAME,
        } } });
        plane.kubectl(&["create", "--filename", "-"], Some(&node.to_string()));
        let resources = json!({ "cpu": "16", "memory": "64Gi", "pods": "110" });
        let status = json!({ "status": { "capacity": resources, "allocatable": resources, "conditions": [
            { "type": "Ready", "status": "True", "reason": "Played" },
        ] } });
        plane.kubectl(
            &["patch", "node", NAME, "--subresource", "status", "--patch", &status.to_string()],
            None,
        );
        // A new node has a taint, which a controller that is off here would take away.
        plane.kubectl(&["patch", "node", NAME, "--patch", r#"{"spec":{"taints":null}}"#], None);
        let state = Mutex::new(State { pods: BTreeMap::new(), addresses: 0 });
        let (bpffs, ended) = (Bpffs::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { plane: Arc::clone(plane), bpffs, state, ended });
        let looking = Arc::clone(&shared);
        let look = move || {
            while !looking.ended.load(Ordering::Acquire) {
                looking.look();
                thread::sleep(EVERY);
            }
        };
        Self { shared, thread: Some(thread::spawn(look)) }
    }

    /// Where the running pods with this label `app` serve.
    pub(crate) fn servers(&self, app: &str) -> Vec<SocketAddr> {
        let state = self.shared.state();
        let pods =
            state.pods.values().filter(|pod| text(&pod.object, "/metadata/labels/app") == app);
        let servers = pods.filter_map(|pod| match &pod.inside {
            Inside::Server { server, .. } => Some(server.addr),
            _ => None,
        });
        servers.collect()
    }

    /// Whether an agent runs.
    pub(crate) fn has_agent(&self) -> bool {
        let state = self.shared.state();
        state.pods.values().any(|pod| matches!(pod.inside, Inside::Agent(Some(_))))
    }

    /// Ends the agent as a kubelet does, or kills it; its pod stays.
    pub(crate) fn end_agent(&self, kill: bool) {
        let mut state = self.shared.state();
        let agent = state.pods.values_mut().find_map(|pod| match &mut pod.inside {
            Inside::Agent(agent) => agent.take(),
            _ => None,
        });
        let agent = agent.expect("an agent runs");
        drop(state);
        let _ = if kill { agent.kill() } else { agent.stop() };
    }

    /// Starts it again in its pod, with more arguments.
    pub(crate) fn start_agent(&self, more: &[&str]) {
        let mut state = self.shared.state();
        for pod in state.pods.values_mut() {
            if matches!(pod.inside, Inside::Agent(None)) {
                let agent = self.shared.agent(&pod.object, &pod.address, more);
                pod.inside = Inside::Agent(Some(agent));
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes new pods, and lets go of those that are to go.
    fn look(&self) {
        let selector = format!("spec.nodeName={NAME}");
        let asked =
            ["get", "pods", "--all-namespaces", "--output", "json", "--field-selector", &selector];
        // While the API server is away, pods go on.
        let Ok(list) = self.plane.try_kubectl(&asked, None) else { return };
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        let pods = list["items"].as_array().expect("a list");
        for pod in pods {
            let uid = text(pod, "/metadata/uid");
            let is_going = pod["metadata"]["deletionTimestamp"].is_string();
            let is_known = self.state().pods.contains_key(uid);
            if is_going {
                let gone = self.state().pods.remove(uid);
                drop(gone);
                let of = [text(pod, "/metadata/namespace"), text(pod, "/metadata/name")];
                let arguments = [
                    "delete",
                    "pod",
                    "--namespace",
                    of[0],
                    of[1],
                    "--force",
                    "--grace-period",
                    "0",
                ];
                // It may be gone already.
                let _ = self.plane.try_kubectl(&arguments, None);
            } else if !is_known {
                self.take(uid, pod);
            }
        }
    }

    fn take(&self, uid: &str, pod: &Value) {
        let number = {
            let mut state = self.state();
            state.addresses += 1;
            state.addresses
        };
        let container = format!("{number:064x}");
        let app = text(pod, "/metadata/labels/app");
        let name = text(pod, "/metadata/labels/app.kubernetes.io~1name");
        let address =
            if name == "prometheus" { PROMETHEUS.to_owned() } else { format!("10.66.2.{number}") };
        let inside = match (app, name) {
            ("websocket-app", _) => {
                let cgroup = TestCgroup::new(&format!("kubepods/burstable/pod{uid}/{container}"));
                let listen = format!("{address}:{PORT}").parse().expect("an address");
                let server = Server::start(Protocol::Ws, listen, &cgroup, Some(self.plane.netns()));
                Inside::Server { server, _cgroup: cgroup }
            }
            (_, "observer") => Inside::Agent(Some(self.agent(pod, &address, &[]))),
            (_, "prometheus") => self.run(
                "prometheus",
                pod,
                &[
                    format!("--web.listen-address={address}:9090"),
                    format!("--storage.tsdb.path={}", self.plane.file("tsdb").display()),
                ],
            ),
            (_, "prometheus-adapter") => self.run(
                "prometheus-adapter",
                pod,
                &[
                    format!("--bind-address={address}"),
                    format!("--cert-dir={}", self.plane.file(&container).display()),
                ],
            ),
            _ => Inside::Nothing,
        };
        if !matches!(inside, Inside::Nothing) {
            self.tell(pod, &address, &container);
        }
        let pod = Pod { inside, address, object: pod.clone() };
        self.state().pods.insert(uid.to_owned(), pod);
    }

    /// Says in the pod's status that it runs.
    fn tell(&self, pod: &Value, address: &str, container: &str) {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let condition =
            |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let name = text(pod, "/spec/containers/0/name");
        let status = json!({ "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": now,
            "conditions": conditions,
            "containerStatuses": [{
                "name": name, "ready": true, "started": true, "restartCount": 0, "image": "played", "imageID": "played",
                "containerID": format!("containerd://{container}"), "state": { "running": { "startedAt": now } },
            }],
        } });
        let of = [text(pod, "/metadata/namespace"), text(pod, "/metadata/name")];
        let patch = status.to_string();
        let arguments = [
            "patch",
            "pod",
            "--namespace",
            of[0],
            of[1],
            "--subresource",
            "status",
            "--patch",
            &patch,
        ];
        // It may be gone again.
        let _ = self.plane.try_kubectl(&arguments, None);
    }

    /// A command that finds itself in the pod.
    fn command(&self, program: &std::path::Path, pod: &Value) -> Command {
        let account = self
            .plane
            .account(text(pod, "/metadata/namespace"), text(pod, "/spec/serviceAccountName"));
        let hosts = self.plane.file("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{PROMETHEUS} prometheus.monitoring.svc\n"))
            .expect("it can be written");
        in_pod(program, &account, &hosts)
    }

    /// The observer with its manifest's environment; what is the host's lies elsewhere here.
    fn agent(&self, pod: &Value, address: &str, more: &[&str]) -> Daemon {
        let mut command = self.command(executable(), pod);
        command.arg("run").args(more);
        let container = &pod["spec"]["containers"][0];
        for variable in container["env"].as_array().expect("it has an environment") {
            let value = match text(variable, "/name") {
                "NODE_NAME" => NAME.to_owned(),
                "OBSERVER_PIN" => self.bpffs.pins().to_owned(),
                "OBSERVER_CGROUP_ROOT" => ROOT.display().to_string(),
                _ => text(variable, "/value").replace("0.0.0.0", address),
            };
            command.env(text(variable, "/name"), value);
        }
        Daemon::spawn(self.plane.netns().enter(&mut command))
    }

    /// A program with its manifest's arguments, but for those of `more`, and with its `ConfigMap`s.
    fn program(&self, name: &str, pod: &Value, more: &[String]) -> Process {
        let mut command = self.command(&self.plane.program(name), pod);
        let places = self.mount(pod);
        let container = &pod["spec"]["containers"][0];
        let option = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
        let ours: Vec<_> = more.iter().map(|argument| option(argument)).collect();
        for argument in container["args"].as_array().expect("it has arguments") {
            let mut argument = argument.as_str().expect("a string").to_owned();
            if ours.contains(&option(&argument)) {
                continue;
            }
            for (mounted, here) in &places {
                argument = argument.replace(mounted, here);
            }
            command.arg(argument);
        }
        let log = format!("{name}-{}", text(pod, "/metadata/uid"));
        self.plane.spawn(&log, command.args(more))
    }

    fn run(&self, name: &str, pod: &Value, more: &[String]) -> Inside {
        Inside::Program { _process: self.program(name, pod, more) }
    }

    /// Writes the pod's `ConfigMap`s to files; where they would be mounted, and where they are.
    fn mount(&self, pod: &Value) -> Vec<(String, String)> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mounts = list(&pod["spec"]["containers"][0]["volumeMounts"]);
        let mut places = Vec::new();
        for volume in list(&pod["spec"]["volumes"]) {
            let map = text(&volume, "/configMap/name");
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]);
            if let (false, Some(mount)) = (map.is_empty(), mount) {
                let directory: PathBuf = self.plane.file(&format!("map-{map}"));
                places.push((
                    text(mount, "/mountPath").to_owned(),
                    directory.display().to_string(),
                    map.to_owned(),
                ));
            }
        }
        for (_, directory, map) in &places {
            fs::create_dir_all(directory).expect("it can be written");
            let namespace = text(pod, "/metadata/namespace");
            let data = self.plane.get(&["configmap", "--namespace", namespace, map]);
            for (file, text) in data["data"].as_object().expect("it has files") {
                // A file may name another by its place.
                let text = places.iter().fold(
                    text.as_str().expect("text").to_owned(),
                    |text, (mounted, here, _)| {
                        text.replace(&format!("{mounted}/"), &format!("{here}/"))
                    },
                );
                fs::write(PathBuf::from(directory).join(file), text).expect("it can be written");
            }
        }
        places.into_iter().map(|(mounted, here, _)| (mounted, here)).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Its panic is a test's failure already, or follows from one.
            let _ = thread.join();
        }
        let pods = std::mem::take(&mut self.shared.state().pods);
        for pod in pods.into_values() {
            if let Inside::Agent(Some(agent)) = pod.inside {
                let _ = agent.stop();
            }
        }
    }
}

/// Applies a directory of `deploy`.
pub(crate) fn apply(plane: &Plane, directory: &str) {
    let path = tools::checkout().join("deploy").join(directory);
    plane.kubectl(&["apply", "--kustomize", path.to_str().expect("plain characters")], None);
}
