//! A real proxy between client and server: each connection of a pair is seen as what it is, on
//! each of the four ends. The client's and the server's end of the first hop, and those of the
//! second, which the proxy opens itself.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use support::{
    cgroup::TestCgroup,
    daemon::Daemon,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    poll::poll,
    process::Process,
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

const SHORT: u64 = 400;
const LONG: u64 = 40;
/// Messages on each short connection; a long one begins with a single one.
const MESSAGES: u64 = 3;
const ALL: u64 = SHORT + LONG;
const PATIENCE: Duration = Duration::from_secs(20);

/// A pod with a name of its own.
struct Pod {
    uid: String,
    cgroup: TestCgroup,
}

impl Pod {
    fn new(number: u32) -> Self {
        let uid = format!("9a0c5000-0000-4000-8000-{number:012}");
        let cgroup = TestCgroup::pod(&uid, &format!("9a0c5{number:059}"));
        Self { uid, cgroup }
    }

    fn serve(&self, protocol: Protocol) -> Server {
        Server::start(protocol, ([127, 0, 0, 1], 0).into(), &self.cgroup, None)
    }

    fn drive(&self, protocol: Protocol, connect: SocketAddr) -> Driver {
        let (short, long, messages) = (SHORT, LONG, MESSAGES);
        let drive = Drive { short, long, messages, ..Drive::new(protocol, connect) };
        Driver::start(&drive, &self.cgroup, None)
    }

    /// The pod's server sockets on a port.
    fn server(&self, port: u16) -> End<'_> {
        End { pod: &self.uid, role: "server", port: port.to_string() }
    }

    /// The pod's connections to a server's port.
    fn client(&self, port: u16) -> End<'_> {
        End { pod: &self.uid, role: "client", port: port.to_string() }
    }
}

/// One end of one hop.
struct End<'a> {
    pod: &'a str,
    role: &'a str,
    port: String,
}

/// Connections that are taken for the same things, one after the other; they are the last now.
#[derive(Clone, Copy)]
struct Kind {
    path: &'static [&'static str],
    opened: u64,
    active: u64,
}

const fn websocket(opened: u64, active: u64) -> Kind {
    Kind { path: &["http1", "websocket"], opened, active }
}

const fn http1(opened: u64, active: u64) -> Kind {
    Kind { path: &["http1"], opened, active }
}

const fn grpc(opened: u64, active: u64) -> Kind {
    Kind { path: &["http2", "grpc"], opened, active }
}

impl Kind {
    fn is_now(&self, protocol: &str) -> bool {
        self.path.last() == Some(&protocol)
    }
}

impl End<'_> {
    /// That the end has these connections and no others, and its pod no other end of that role.
    fn expected(&self, kinds: &[Kind]) -> Vec<Expected> {
        [self.counts(kinds), self.lifetimes(kinds)].concat()
    }

    /// That the end has these connections and no others.
    fn counts(&self, kinds: &[Kind]) -> Vec<Expected> {
        let labels = [("pod", self.pod), ("role", self.role), ("port", self.port.as_str())];
        let opened = kinds.iter().map(|kind| kind.opened).sum();
        let mut expected = vec![Expected::sum("tcp_connections_opened_total", &labels, opened)];
        for protocol in PROTOCOLS {
            let labels = [&labels[..], &[("protocol", protocol)]].concat();
            let met = kinds.iter().filter(|kind| kind.path.contains(&protocol));
            let active = kinds.iter().filter(|kind| kind.is_now(protocol)).map(|kind| kind.active);
            let identified = met.map(|kind| kind.opened).sum();
            expected.extend([
                Expected::sum("tcp_connections_identified_total", &labels, identified),
                Expected::sum("tcp_connections_active", &labels, active.sum()),
                Expected::sum("tcp_connections_closed_total", &labels, closed(kinds, protocol)),
            ]);
        }
        expected
    }

    /// That these are all connections of the pod's ends of this role, whose lifetimes are not told apart by port.
    fn lifetimes(&self, kinds: &[Kind]) -> Vec<Expected> {
        let of = |protocol| {
            let labels = [("pod", self.pod), ("role", self.role), ("protocol", protocol)];
            let count = closed(kinds, protocol);
            Expected::sum("tcp_connection_duration_seconds_count", &labels, count)
        };
        PROTOCOLS.map(of).to_vec()
    }
}

const PROTOCOLS: [&str; 7] = ["tcp", "tls", "http1", "http2", "grpc", "websocket", "upgrade"];

fn closed(kinds: &[Kind], protocol: &str) -> u64 {
    let now = kinds.iter().filter(|kind| kind.is_now(protocol));
    now.map(|kind| kind.opened - kind.active).sum()
}

/// The users' families of a pod: one series each, by namespace and pod, of its server sockets.
fn assert_users_families(metrics: &Metrics, protocol: &str, pod: &Pod, total: u64, active: u64) {
    for (name, value) in [("connections_total", total), ("connections_active", active)] {
        let name = format!("{protocol}_{name}");
        let series = metrics.select(&name, &[("pod", &pod.uid)]);
        let [sample] = series[..] else { panic!("not one series of {name}: {series:?}") };
        assert!(sample.labels.keys().eq(["namespace", "pod"]), "other labels: {sample}");
        let difference = (sample.value - value as f64).abs();
        assert!(difference < 0.5, "{sample} is {}, expected {value}", sample.value);
    }
}

/// A pod without servers of the protocol has no series, lest a zero be averaged in.
fn assert_no_users_families(metrics: &Metrics, protocol: &str, pod: &Pod) {
    for name in ["connections_total", "connections_active"] {
        let series = metrics.select(&format!("{protocol}_{name}"), &[("pod", &pod.uid)]);
        assert!(series.is_empty(), "a client has server counts: {series:?}");
    }
}

/// The messages that a pod's servers received and sent, and no error.
fn messages(pod: &Pod, each_way: u64) -> [Expected; 3] {
    let received = [("pod", pod.uid.as_str()), ("direction", "received")];
    let sent = [("pod", pod.uid.as_str()), ("direction", "sent")];
    [
        Expected::sum("websocket_messages_total", &received, each_way),
        Expected::sum("websocket_messages_total", &sent, each_way),
        Expected::sum("websocket_errors_total", &[("pod", &pod.uid)], 0),
    ]
}

/// A running proxy. It is killed, with its workers, when dropped.
struct Proxy {
    master: Process,
    pod: Pod,
    addresses: Vec<SocketAddr>,
    _directory: TempDir,
}

impl Proxy {
    /// Starts a proxy in a pod. `configure` gets the addresses to listen on and a directory for the
    /// proxy's files, `command` the path of the configuration.
    fn start(
        pod: Pod,
        ports: usize,
        configure: impl FnOnce(&[SocketAddr], &str) -> String,
        command: impl FnOnce(&str) -> Command,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let addresses: Vec<_> = free_addresses(ports);
        let text = configure(&addresses, directory.path().to_str().expect("a readable path"));
        let path = directory.path().join("proxy.conf");
        fs::write(&path, text).expect("it is our directory");
        let mut command = command(path.to_str().expect("a readable path"));
        let child = pod.cgroup.spawn_in(command.stdin(Stdio::null()));
        let mut proxy = Self {
            master: Process::new(child, "the proxy"),
            pod,
            addresses,
            _directory: directory,
        };
        proxy.wait_until_it_listens();
        proxy
    }

    fn wait_until_it_listens(&mut self) {
        for address in &self.addresses {
            poll(PATIENCE, || TcpStream::connect(address).ok())
                .unwrap_or_else(|| panic!("the proxy does not listen on {address}"));
        }
    }

    /// Kills all of its processes, which closes all of its connections.
    fn kill(&mut self) {
        let kill: PathBuf = self.pod.cgroup.path().join("cgroup.kill");
        fs::write(&kill, "1").unwrap_or_else(|error| eprintln!("{}: {error}", kill.display()));
        self.master.kill();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Addresses that are free, and stay so: nothing else uses this part of the loopback network.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.80.80:0").expect("a free port"));
    let listeners: Vec<_> = listeners.collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

/// nginx with its own configuration, which has `servers` in its `http` block.
fn nginx(pod: Pod, ports: usize, servers: impl FnOnce(&[SocketAddr]) -> String) -> Proxy {
    let configure = |addresses: &[SocketAddr], directory: &str| {
        let servers = servers(addresses);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {directory}/{kind};\n"))
            .concat();
        format!(
            "daemon off;
            user root;
            worker_processes 2;
            pid {directory}/pid;
            error_log stderr error;
            events {{ worker_connections 4096; }}
            http {{
                access_log off;
                {temporary}
                # Nothing may end but by the client's or the server's wish.
                keepalive_timeout 1h;
                keepalive_requests 1000000;
                proxy_read_timeout 1h;
                grpc_read_timeout 1h;
                map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
                {servers}
            }}"
        )
    };
    Proxy::start(pod, ports, configure, |path| {
        let mut command = Command::new("nginx");
        // Before it has read the configuration it would write to the distribution's own log.
        command.args(["-e", "stderr", "-c", path]);
        command
    })
}

/// An upstream that keeps all of its idle connections.
fn upstream(name: &str, server: SocketAddr) -> String {
    format!(
        "upstream {name} {{
            server {server};
            keepalive 1000;
            keepalive_timeout 1h;
            keepalive_requests 1000000;
        }}\n"
    )
}

/// WebSocket and plain HTTP/1.1 by the same nginx, on the same port.
#[test]
fn nginx_before_websocket_and_http1() {
    let _lock = SystemLock::acquire();
    let [ws_client, http_client, ws_pod, http_pod] = [1, 2, 3, 4].map(Pod::new);
    let (ws_server, mut http_server) =
        (ws_pod.serve(Protocol::Ws), http_pod.serve(Protocol::Http1));
    let proxy = nginx(Pod::new(5), 1, |addresses| {
        let upstreams = [upstream("ws", ws_server.addr), upstream("http", http_server.addr)];
        format!(
            "{}
            server {{
                listen {};
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade;
                location /echo {{ proxy_pass http://ws; }}
                location /messages/ {{ proxy_pass http://http; }}
            }}",
            upstreams.concat(),
            addresses[0]
        )
    });
    let address = proxy.addresses[0];
    let (port, ws_port, http_port) =
        (address.port(), ws_server.addr.port(), http_server.addr.port());
    let daemon = Daemon::start(&[]);
    let mut ws_driver = ws_client.drive(Protocol::Ws, address);
    let mut http_driver = http_client.drive(Protocol::Http1, address);
    ws_driver.ready();
    http_driver.ready();

    let check = |active, each_way, upstream: Kind| {
        let mut expected = ws_client.client(port).expected(&[websocket(ALL, active)]);
        expected.extend(http_client.client(port).expected(&[http1(ALL, active)]));
        let both = [websocket(ALL, active), http1(ALL, active)];
        expected.extend(proxy.pod.server(port).expected(&both));
        expected.extend(proxy.pod.client(ws_port).counts(&[websocket(ALL, active)]));
        let upstreams = proxy.pod.client(http_port);
        expected.extend(upstreams.counts(&[upstream]));
        expected.extend(upstreams.lifetimes(&[websocket(ALL, active), upstream]));
        expected.extend(ws_pod.server(ws_port).expected(&[websocket(ALL, active)]));
        expected.extend(http_pod.server(http_port).expected(&[upstream]));
        expected.extend(messages(&proxy.pod, each_way));
        expected.extend(messages(&ws_pod, each_way));
        let metrics = daemon.wait_for(PATIENCE, &expected);
        for pod in [&proxy.pod, &ws_pod] {
            assert_users_families(&metrics, "websocket", pod, ALL, active);
        }
        for pod in [&ws_client, &http_client, &http_pod] {
            assert_no_users_families(&metrics, "websocket", pod);
        }
    };
    // How many connections nginx needed for the requests only the server knows.
    let books = http_server.books();
    assert_eq!((books.requests, books.closed), (SHORT * MESSAGES + LONG, 0), "{books:?}");
    let upstream = http1(books.accepted, books.accepted);
    let begun = SHORT * MESSAGES + LONG;
    check(LONG, begun, upstream);
    ws_driver.talk();
    let books = ws_driver.talk();
    assert_eq!(books.messages_in, begun + 2 * LONG, "{books:?}");
    check(LONG, begun + 2 * LONG, upstream);
    ws_driver.close();
    http_driver.close();
    check(0, begun + 2 * LONG, upstream);
}

/// nginx and its server in one container: the hop between the two is internal, and makes no user more.
#[test]
fn nginx_beside_its_server() {
    let _lock = SystemLock::acquire();
    let (client_pod, pod) = (Pod::new(31), Pod::new(32));
    let server = pod.serve(Protocol::Ws);
    let proxy = nginx(pod, 1, |addresses| {
        format!(
            "server {{
                listen {};
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $connection_upgrade;
                location /echo {{ proxy_pass http://{}; }}
            }}",
            addresses[0], server.addr
        )
    });
    let daemon = Daemon::start(&[]);
    let mut driver = client_pod.drive(Protocol::Ws, proxy.addresses[0]);
    driver.ready();
    let check = |active, each_way| {
        let hop = |role, path, count| {
            let labels = [("pod", proxy.pod.uid.as_str()), ("role", role), ("path", path)];
            Expected::sum("tcp_connections_opened_total", &labels, count)
        };
        let mut expected = vec![
            hop("server", "external", ALL),
            hop("client", "internal", ALL),
            hop("server", "internal", ALL),
            hop("client", "external", 0),
            Expected::sum("websocket_connections_active", &[("pod", &proxy.pod.uid)], active),
        ];
        expected.extend(messages(&proxy.pod, each_way));
        let metrics = daemon.wait_for(PATIENCE, &expected);
        assert_users_families(&metrics, "websocket", &proxy.pod, ALL, active);
    };
    let begun = SHORT * MESSAGES + LONG;
    check(LONG, begun);
    driver.talk();
    check(LONG, begun + LONG);
    driver.close();
    check(0, begun + LONG);
}

/// gRPC on every end, though nginx opens the second connection with frames of its own making.
#[test]
fn nginx_before_grpc() {
    let _lock = SystemLock::acquire();
    let [client_pod, server_pod] = [11, 12].map(Pod::new);
    let mut server = server_pod.serve(Protocol::Grpc);
    let proxy = nginx(Pod::new(13), 1, |addresses| {
        format!(
            "{}
            server {{
                listen {} http2;
                location / {{ grpc_pass grpc://grpc; }}
            }}",
            upstream("grpc", server.addr),
            addresses[0]
        )
    });
    let (port, server_port) = (proxy.addresses[0].port(), server.addr.port());
    let daemon = Daemon::start(&[]);
    let mut driver = client_pod.drive(Protocol::Grpc, proxy.addresses[0]);
    driver.ready();
    driver.talk();

    let check = |active, upstream: Kind| {
        let mut expected = client_pod.client(port).expected(&[grpc(ALL, active)]);
        expected.extend(proxy.pod.server(port).expected(&[grpc(ALL, active)]));
        expected.extend(proxy.pod.client(server_port).expected(&[upstream]));
        expected.extend(server_pod.server(server_port).expected(&[upstream]));
        let metrics = daemon.wait_for(PATIENCE, &expected);
        assert_users_families(&metrics, "grpc", &proxy.pod, ALL, active);
        let Kind { opened, active, .. } = upstream;
        assert_users_families(&metrics, "grpc", &server_pod, opened, active);
        assert_no_users_families(&metrics, "grpc", &client_pod);
    };
    let books = server.books();
    assert_eq!((books.requests, books.closed), (SHORT * MESSAGES + 2 * LONG, 0), "{books:?}");
    let upstream = grpc(books.accepted, books.accepted);
    check(LONG, upstream);
    driver.close();
    check(0, upstream);
}

/// After the `101` `HAProxy` passes bytes on as they come, in pieces of its own.
#[test]
fn haproxy_before_websocket() {
    let _lock = SystemLock::acquire();
    let [client_pod, server_pod] = [21, 22].map(Pod::new);
    let server = server_pod.serve(Protocol::Ws);
    let configure = |addresses: &[SocketAddr], _: &str| {
        format!(
            "global
                maxconn 4096
            defaults
                mode http
                timeout connect 10s
                timeout client 1h
                timeout server 1h
                timeout tunnel 1h
            frontend clients
                bind {}
                default_backend servers
            backend servers
                server one {}\n",
            addresses[0], server.addr
        )
    };
    let proxy = Proxy::start(Pod::new(23), 1, configure, |path| {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", path]);
        command
    });
    let (port, server_port) = (proxy.addresses[0].port(), server.addr.port());
    let daemon = Daemon::start(&[]);
    let mut driver = client_pod.drive(Protocol::Ws, proxy.addresses[0]);
    driver.ready();

    let check = |active, each_way| {
        let kinds = [websocket(ALL, active)];
        let mut expected = client_pod.client(port).expected(&kinds);
        expected.extend(proxy.pod.server(port).expected(&kinds));
        expected.extend(proxy.pod.client(server_port).expected(&kinds));
        expected.extend(server_pod.server(server_port).expected(&kinds));
        expected.extend(messages(&proxy.pod, each_way));
        expected.extend(messages(&server_pod, each_way));
        let metrics = daemon.wait_for(PATIENCE, &expected);
        for pod in [&proxy.pod, &server_pod] {
            assert_users_families(&metrics, "websocket", pod, ALL, active);
        }
        assert_no_users_families(&metrics, "websocket", &client_pod);
    };
    let begun = SHORT * MESSAGES + LONG;
    check(LONG, begun);
    driver.talk();
    check(LONG, begun + LONG);
    driver.close();
    check(0, begun + LONG);
}
