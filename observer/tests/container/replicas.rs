//! As close to a cluster as one machine comes: containerd, runc and CNI, pods made as a kubelet makes them, the image as
//! the manifest says, and an API server that tells it names.

use std::{fs, net::SocketAddr, path::Path};

use serde::Deserialize;

use crate::{
    Node, PATIENCE, PORTS,
    api::{ApiServer, NODE},
    assert_confined,
    cgroups::Driver,
    objects::{Object, Started},
    pods::{Container, PORT, Pod},
    runtime::Containerd,
    sandbox::Manifest,
    scrape,
    support::{
        cgroup::TestCgroup,
        http,
        leaks::BpfSnapshot,
        lock::SystemLock,
        metrics::{self, Expected, Metrics},
        poll::poll,
        workload::{Drive, Driver as Client, DriverBooks, Protocol, ServerBooks},
    },
};

const AGENT: &str = "c0a7a1e0-0000-4000-8000-000000000001";
/// Pods of one `StatefulSet`, and the two ways in which cgroups are named.
const REPLICAS: [(&str, &str, Driver); 2] = [
    ("chat-0", "c0a7a1e0-0000-4000-8000-000000000002", Driver::Cgroupfs),
    ("chat-1", "c0a7a1e0-0000-4000-8000-000000000003", Driver::Systemd),
];
const TOKEN: &str = "a-token-of-a-service-account";
/// Connections to each container: some come and go, some stay.
const SHORT: u64 = 10;
const LONG: u64 = 5;

/// The observer in its pod.
struct Agent {
    address: SocketAddr,
}

impl Agent {
    fn wait_for(&self, expected: &[Expected]) -> Metrics {
        metrics::wait_for(PATIENCE, || scrape(self.address), expected)
    }

    /// Waits until no series but those of workloads has one of these for its pod.
    fn wait_until_gone(&self, names: &[&str]) -> Metrics {
        let gone = |metrics: &Metrics| {
            let mut pods = metrics.samples.iter().filter_map(|sample| sample.labels.get("pod"));
            !pods.any(|pod| names.contains(&pod.as_str()))
        };
        metrics::wait_until(PATIENCE, || scrape(self.address), gone)
    }
}

/// What a replica has done up to now.
#[derive(Clone, Copy, Default)]
struct Books {
    opened: u64,
    active: u64,
    received: u64,
    sent: u64,
}

/// What must be shown of a pod, and of one of its containers, which may be called by their names or not.
fn expected((namespace, pod): (&str, &str), books: Books) -> Vec<Expected> {
    let of = [("namespace", namespace), ("pod", pod)];
    let [received, sent] = ["received", "sent"]
        .map(|way| [("namespace", namespace), ("pod", pod), ("direction", way)]);
    vec![
        Expected::sum("websocket_connections_active", &of, books.active),
        Expected::sum("websocket_connections_total", &of, books.opened),
        Expected::sum("websocket_errors_total", &of, 0),
        Expected::sum("websocket_messages_total", &received, books.received),
        Expected::sum("websocket_messages_total", &sent, books.sent),
        Expected::sum("tcp_connections_opened_total", &of, books.opened),
        Expected::sum("tcp_connections_closed_total", &of, books.opened - books.active),
    ]
}

/// Likewise of a container: the connections of its server.
fn expected_of(
    (namespace, pod, container): (&str, &str, &str),
    opened: u64,
    active: u64,
) -> Vec<Expected> {
    let port = PORT.to_string();
    let server = [
        ("namespace", namespace),
        ("pod", pod),
        ("container", container),
        ("role", "server"),
        ("port", &port),
    ];
    let websocket = [&server[..], &[("protocol", "websocket")]].concat();
    vec![
        Expected::sum("tcp_connections_opened_total", &server, opened),
        Expected::sum("tcp_connections_identified_total", &websocket, opened),
        Expected::sum("tcp_connections_active", &websocket, active),
        Expected::sum("tcp_connections_closed_total", &websocket, opened - active),
    ]
}

/// Starts the observer in a pod of its own, and waits until it is ready.
fn observe<'a>(
    pod: &Pod<'a>,
    node: &Node,
    api: &ApiServer,
    account: &Path,
) -> (Agent, Container<'a>) {
    let manifest = Manifest::base();
    let server = (api.address().ip().to_string(), api.address().port().to_string());
    let container = pod.observer(&manifest, &node.bpffs, account, (&server.0, &server.1));
    let [address, own] = PORTS.map(|port| SocketAddr::new(pod.address, port));
    let is_ready = || http::get(own, "/readyz", None).is_ok_and(|answer| answer.status == 200);
    poll(PATIENCE, || is_ready().then_some(()))
        .unwrap_or_else(|| panic!("it does not become ready: {:#?}", container.said()));
    assert_confined(&container.proc("status"), &manifest);
    assert!(container.proc("status").contains("\nSeccomp:\t2\n"), "no seccomp profile");
    (Agent { address }, container)
}

/// A pod whose container is restarted once. Nobody knows its name when it begins.
fn replicate(
    agent: &Agent,
    api: &ApiServer,
    (pod, clients): (&Pod, &TestCgroup),
    (name, uid): (&'static str, &str),
) -> Books {
    #[derive(Deserialize)]
    struct Ready {
        #[serde(rename = "ready")]
        _address: SocketAddr,
    }
    const NAMESPACE: &str = "shop";
    const CONTAINER: &str = "server";
    let mut books = Books::default();
    let mut object = Object::new(uid, NAMESPACE, name).owned_by("StatefulSet", "chat");
    for attempt in 0..2 {
        let container = pod.server("ws", CONTAINER, attempt);
        container.line::<Ready>(0);
        let address = SocketAddr::new(pod.address, PORT);
        let drive = Drive { short: SHORT, long: LONG, ..Drive::new(Protocol::Ws, address) };
        let mut client = Client::start(&drive, clients, None);
        let mut add = |driven: DriverBooks, before: DriverBooks| {
            books.opened += driven.opened - before.opened;
            books.active = driven.active;
            books.received += driven.messages_out - before.messages_out;
            books.sent += driven.messages_in - before.messages_in;
            books
        };
        let first = client.ready();
        let now = add(first, DriverBooks::default());
        assert_eq!((first.opened, first.active), (SHORT + LONG, LONG));
        // The container's id is all that is known of it; of the pod that is so the first time only.
        let (namespace, shown) = if attempt == 0 { ("", uid) } else { (NAMESPACE, name) };
        agent.wait_for(&expected((namespace, shown), now));
        agent.wait_for(&expected_of((namespace, shown, container.short()), SHORT + LONG, LONG));

        // All is shown by name as soon as the API server tells it; nothing is by id any more.
        object.containers = vec![Started { name: CONTAINER, id: container.id.clone() }];
        api.apply(&object);
        let named = (NAMESPACE, name);
        let named_container = (NAMESPACE, name, CONTAINER);
        agent.wait_for(&expected_of(named_container, now.opened, LONG));
        let metrics = agent.wait_until_gone(&[uid]);
        assert!(expected(named, now).iter().all(|sum| sum.mismatch(&metrics).is_none()));
        let by_id = ("container", container.short());
        assert!(
            metrics.samples.iter().all(|s| s.labels.get(by_id.0).is_none_or(|id| id != by_id.1))
        );

        // Counting goes on.
        let second = client.talk();
        let now = add(second, first);
        agent.wait_for(&expected(named, now));
        let last = client.close();
        let now = add(last, second);
        assert_eq!(now.active, 0);
        agent.wait_for(&expected(named, now));
        agent.wait_for(&expected_of(named_container, now.opened, 0));

        // The runtime passes SIGTERM on. What the server counted is what its client did.
        assert_eq!(container.end(), 0, "{:?}", container.said());
        let served: ServerBooks = container.line(1);
        assert_eq!((served.accepted, served.closed), (SHORT + LONG, SHORT + LONG));
        let messages = (served.messages_in, served.messages_out);
        assert_eq!(messages, (last.messages_out, last.messages_in));
        container.remove();
    }
    books
}

#[test]
fn pods_of_a_real_runtime_are_named_counted_and_gone() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let node = Node::new();
    let clients = TestCgroup::new("observer-container-clients");
    let containerd = Containerd::start(&node.pair);
    let mut api = ApiServer::with_tls(node.pair.b.ipv4(), TOKEN);
    api.appear();
    let account = containerd.path("account");
    fs::create_dir(&account).expect("it can be written");
    for (file, text) in [("token", TOKEN), ("ca.crt", api.authority()), ("namespace", "observer")] {
        fs::write(account.join(file), text).expect("it can be written");
    }

    let name = ("observer", "observer-x7k2p", AGENT);
    let agent_pod = Pod::run(&containerd, name, Driver::Cgroupfs);
    let (agent, observer) = observe(&agent_pod, &node, &api, &account);

    // Two replicas side by side.
    let pods =
        REPLICAS.map(|(name, uid, driver)| Pod::run(&containerd, ("shop", name, uid), driver));
    containerd.assert_seen(3);
    let mut all = Books::default();
    for ((name, uid, _), pod) in REPLICAS.into_iter().zip(&pods) {
        let books = replicate(&agent, &api, (pod, &clients), (name, uid));
        all.opened += books.opened;
        all.received += books.received;
    }
    assert_eq!(all.opened, 4 * (SHORT + LONG));

    // The first is removed, and the second stays; then that goes as well.
    let mut left = 2_u64;
    for ((name, uid, _), pod) in REPLICAS.into_iter().zip(pods) {
        pod.remove();
        api.delete(uid);
        let metrics = agent.wait_until_gone(&[name, uid]);
        left -= 1;
        let shop = metrics.select("workload_pod_info", &[("namespace", "shop"), ("node", NODE)]);
        assert_eq!(shop.len() as u64, left, "{shop:?}");
    }
    // What they counted is not lost.
    let chat = [
        ("namespace", "shop"),
        ("workload_kind", "StatefulSet"),
        ("workload", "chat"),
        ("role", "server"),
    ];
    let received = [&chat[..], &[("direction", "received")]].concat();
    agent.wait_for(&[
        Expected::sum("workload_tcp_connections_opened_total", &chat, all.opened),
        Expected::sum("workload_tcp_connections_closed_total", &chat, all.opened),
        Expected::sum("workload_websocket_messages_total", &received, all.received),
    ]);

    assert_eq!(observer.end(), 0, "{:#?}", observer.said());
    let log = observer.said().join("\n");
    assert!(!log.contains(TOKEN), "the token is logged: {log}");
    agent_pod.remove();
    containerd.assert_empty();
    drop((api, containerd, node));
    before.assert_same();
}
