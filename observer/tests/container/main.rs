//! The image as the manifest runs it: read-only, with three capabilities, in namespaces of its own. And what each
//! capability is for: what becomes of it without that one.
//!
//! - [`sandbox`]: a container made by hand, for what no runtime would do;
//! - [`replicas`]: the test with pods of a real runtime;
//! - [`runtime`], [`cri`], [`image`], [`cgroups`]: containerd, how it is spoken to, what it needs and what it leaves;
//! - [`pods`]: pods as a kubelet has it make them.

#[expect(dead_code, reason = "this test uses its part of the API server")]
#[path = "../kubernetes/api.rs"]
mod api;
mod cgroups;
mod cri;
mod image;
#[expect(dead_code, reason = "this test uses its part of the API server")]
#[path = "../kubernetes/objects.rs"]
mod objects;
mod pods;
mod replicas;
mod runtime;
mod sandbox;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;
#[path = "../kubernetes/tls.rs"]
mod tls;

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use sandbox::Manifest;
use support::{
    bpffs::Bpffs,
    cgroup::TestCgroup,
    daemon::Daemon,
    http,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{self, CLASSIC, Expected, Metrics},
    netns::NetnsPair,
    pod::Pod,
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
/// The ports of the manifest.
const PORTS: [u16; 2] = [9435, 9436];

/// The node of a container: two network namespaces, and a BPF file system.
struct Node {
    pair: NetnsPair,
    bpffs: Bpffs,
    /// Where the thread of the test was before.
    home: File,
}

impl Node {
    /// Moves the calling thread, and what it starts from now on, to the one namespace, from which it reaches the
    /// container in the other as a cluster would.
    fn new() -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        let node = Self { pair: NetnsPair::new(), bpffs: Bpffs::new(), home };
        let there = File::open(node.pair.b.path()).expect("it was just made");
        setns(there, CloneFlags::CLONE_NEWNET).expect("root may");
        node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            eprintln!("the thread stays in the namespace of the test: {error}");
        }
    }
}

/// A running container.
struct Container {
    daemon: Daemon,
    address: IpAddr,
    /// Its files.
    _scratch: TempDir,
}

impl Container {
    fn start(manifest: &Manifest, node: &Node) -> Self {
        let scratch = tempfile::tempdir().expect("it can be written");
        let places = (&node.bpffs, scratch.path());
        let mut command =
            sandbox::command(manifest, &manifest.capabilities(), places, &node.pair.a);
        let daemon = Daemon::spawn(&mut command);
        Self { daemon, address: node.pair.a.ipv4(), _scratch: scratch }
    }

    fn scrape(&self, port: u16) -> Metrics {
        scrape(SocketAddr::new(self.address, port))
    }

    fn wait_for(&self, expected: &[Expected]) {
        metrics::wait_for(PATIENCE, || self.scrape(PORTS[0]), expected);
    }

    /// The process of the observer: the only child of the one that made the namespaces.
    fn process(&self) -> String {
        let id = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.expect("it runs").trim().to_owned()
    }

    /// What `/proc` says of that process.
    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process())).expect("it runs")
    }
}

fn scrape(address: SocketAddr) -> Metrics {
    let answer = http::get(address, "/metrics", Some(CLASSIC)).expect("it answers");
    Metrics::parse(&answer.body).expect("it is well-formed")
}

/// That a process has what the manifest gives it, and no more: `status` is that of `/proc`.
fn assert_confined(status: &str, manifest: &Manifest) {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let expected = manifest.capabilities().iter().map(|name| 1_u64 << sandbox::number(name)).sum();
    let effective = line("CapEff:").map(|hex| u64::from_str_radix(hex, 16));
    assert_eq!(effective, Some(Ok(expected)), "{status}");
    assert_eq!(line("CapEff:"), line("CapBnd:"), "{status}");
    assert_eq!(line("NoNewPrivs:"), Some("1"), "{status}");
}

#[test]
fn the_image_is_small_and_starts_the_program() {
    let size = sandbox::image_size();
    assert!(size < 20 << 20, "{size} bytes");
    let directory = tempfile::tempdir().expect("it can be written");
    let config = sandbox::unpack_image(directory.path());
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/observer"]));
    let version = Command::new(directory.path().join("observer")).arg("--version").output();
    let version = version.expect("it runs");
    let expected = format!("observer {} (revision ", env!("CARGO_PKG_VERSION"));
    let version = String::from_utf8_lossy(&version.stdout);
    assert!(version.starts_with(&expected), "{version}");
}

#[test]
fn it_counts_with_what_the_manifest_gives_it() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let manifest = Manifest::base();
    let node = Node::new();
    let container = Container::start(&manifest, &node);

    assert_confined(&container.proc("status"), &manifest);
    let root = container.proc("mountinfo");
    let root = root.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    assert!(root.is_some_and(|line| line.split(' ').nth(5) == Some("ro,relatime")), "{root:?}");

    // All kernel programs run, but for those that this kernel does not allow to anybody.
    let own = container.scrape(PORTS[1]);
    let lacking = |metrics: &Metrics| {
        let probes = metrics.select("observer_probe_active", &[]).into_iter();
        let lacking = probes.filter(|probe| probe.value == 0.0);
        lacking.map(|probe| probe.labels["program"].clone()).collect::<Vec<_>>()
    };
    let unconfined = Daemon::start(&[]);
    assert_eq!(lacking(&own), lacking(&unconfined.scrape()));
    unconfined.stop();

    // And they count what others do, by the names of their cgroups.
    let (servers, clients) = (Pod::new(), Pod::new());
    for protocol in Protocol::ALL {
        let server = Server::start(protocol, ANY_PORT.into(), &servers.cgroup, None);
        let drive = Drive { short: 20, long: 5, ..Drive::new(protocol, server.addr) };
        let mut driver = Driver::start(&drive, &clients.cgroup, None);
        driver.ready();
        let spoken = match protocol {
            Protocol::Ws => "websocket",
            Protocol::Http1 => "http1",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
        };
        let of = |pod: &Pod, active| {
            let labels = [("pod", pod.name.as_str()), ("protocol", spoken)];
            Expected::sum("tcp_connections_active", &labels, active)
        };
        container.wait_for(&[of(&servers, 5), of(&clients, 5)]);
        driver.close();
        container.wait_for(&[of(&servers, 0), of(&clients, 0)]);
        let closed = [("pod", servers.name.as_str()), ("protocol", spoken)];
        container.wait_for(&[Expected::sum("tcp_connections_closed_total", &closed, 25)]);
    }
    for port in PORTS {
        let address = SocketAddr::new(container.address, port);
        for path in ["/livez", "/readyz"] {
            assert_eq!(http::get(address, path, None).expect("it answers").status, 200);
        }
    }
    drop((container, node));
    before.assert_same();
}

#[test]
fn the_kernel_counts_on_while_the_pod_is_replaced() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let manifest = Manifest::base();
    let node = Node::new();
    let (servers, clients) = (Pod::new(), TestCgroup::new("observer-container-clients"));
    let server = Server::start(Protocol::Ws, ANY_PORT.into(), &servers.cgroup, None);
    let connect = || {
        let drive = Drive { short: 10, long: 5, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &clients, None);
        driver.ready();
        driver
    };
    let expected = |opened, active| {
        let pod = [("pod", servers.name.as_str())];
        [
            Expected::sum("websocket_connections_total", &pod, opened),
            Expected::sum("websocket_connections_active", &pod, active),
        ]
    };
    let container = Container::start(&manifest, &node);
    let first = connect();
    container.wait_for(&expected(15, 5));
    drop(container);
    // Nobody is there, and nobody misses anything.
    let _second = connect();
    first.close();
    let container = Container::start(&manifest, &node);
    let log = container.daemon.log();
    assert!(log.contains("took over"), "{log}");
    container.wait_for(&expected(30, 5));
    drop(container);

    // Until it is told to let go.
    assert!(!node.bpffs.is_clean());
    let (manifest, scratch) = (Manifest::detach(), tempfile::tempdir().expect("it can be written"));
    let places = (&node.bpffs, scratch.path());
    let mut command = sandbox::command(&manifest, &manifest.capabilities(), places, &node.pair.a);
    let output = command.output().expect("unshare is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(node.bpffs.is_clean());
    before.assert_same();
}

#[test]
fn without_one_of_its_capabilities_it_says_which_and_ends() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let manifest = Manifest::base();
    let node = Node::new();
    let all = manifest.capabilities();
    assert_eq!(all.len(), 3, "{all:?}");
    for lacking in &all {
        let mut capabilities = all.clone();
        capabilities.remove(lacking);
        let scratch = tempfile::tempdir().expect("it can be written");
        let places = (&node.bpffs, scratch.path());
        let mut command = sandbox::command(&manifest, &capabilities, places, &node.pair.a);
        let output = command.stdin(Stdio::null()).output().expect("unshare is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "without {lacking}: {said}");
        let complaint = format!("it lacks CAP_{lacking};");
        assert!(said.contains(&complaint), "without {lacking}: {said}");
    }
    drop(node);
    before.assert_same();
}

/// The one capability that the base does without: what the component gives, and the base lacks.
#[test]
fn older_connections_of_other_pods_take_the_component_for_adoption() {
    let _lock = SystemLock::acquire();
    for (manifest, silent) in [(Manifest::base(), 0), (Manifest::with("adoption"), 5)] {
        let (node, workload) = (Node::new(), NetnsPair::new());
        let clients = TestCgroup::new("observer-container-clients");
        let servers = Pod::new();
        let server =
            Server::start(Protocol::Ws, ANY_PORT.into(), &servers.cgroup, Some(&workload.a));
        let drive = Drive { long: 5, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &clients, Some(&workload.a));
        driver.ready();
        let container = Container::start(&manifest, &node);
        let labels = [("pod", servers.name.as_str()), ("role", "server")];
        container.wait_for(&[Expected::sum("tcp_connections_active", &labels, silent)]);
        // The Close frames are what the others are adopted by.
        driver.close();
        container.wait_for(&[Expected::sum("tcp_connections_closed_total", &labels, 5)]);
    }
}
