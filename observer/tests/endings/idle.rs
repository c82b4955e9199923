//! Real proxies that cut WebSocket connections because nothing was said: a cluster at their time-out, under the reason of
//! the side that did it, on each of the four ends.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{
    books::{Books, check},
    support::{
        daemon::Daemon,
        metrics::Metrics,
        peer::Peer,
        pod::{Pod, settle},
        poll::poll,
        process::Process,
        scale::is_slow,
        scenarios::Failures,
    },
};

/// Enough to be a cluster.
const CONNECTIONS: u64 = 12;
/// How long the daemon may take to notice the cluster.
const TOLD: Duration = Duration::from_secs(20);
/// How long a proxy may take to start.
const START: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: idle.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLBMxihnOnP9Z2mvPBQ1Zgs0=\r\n\r\n";
/// A text message of a server.
const MESSAGE: &[u8] = b"\x81\x05hello";

/// Milliseconds of the proxies' time-outs: 5 s. Their timers count from before their own last write; on a slow machine
/// from so much before it that what is left would be below what counts as idle.
fn time_out() -> u64 {
    if is_slow() { 5_500 } else { 5_000 }
}

/// nginx and its time-out for silent tunnels.
pub(crate) fn behind_nginx(daemon: &Daemon, failures: &mut Failures) {
    failures.run(daemon, "nginx: proxy_read_timeout 5s", || cut(daemon, nginx));
}

/// `HAProxy` and its own.
pub(crate) fn behind_haproxy(daemon: &Daemon, failures: &mut Failures) {
    failures.run(daemon, "HAProxy: timeout tunnel 5s", || cut(daemon, haproxy));
}

/// A proxy's configuration, for the address it listens on and the server's, with a directory for its files; and the
/// command that runs it, for the configuration's path.
struct Recipe {
    configuration: String,
    command: fn(&Path) -> Command,
}

fn nginx(listen: SocketAddr, server: SocketAddr, directory: &Path) -> Recipe {
    let directory = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind};\n"))
        .concat();
    let configuration = format!(
        "daemon off;
        user root;
        worker_processes 1;
        pid {directory}/pid;
        error_log stderr crit;
        events {{ worker_connections 100; }}
        http {{
            access_log off;
            {temporary}
            server {{
                listen {listen};
                location / {{
                    proxy_pass http://{server};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                    proxy_read_timeout {}ms;
                }}
            }}
        }}",
        time_out()
    );
    let command = |path: &Path| {
        let mut command = Command::new("nginx");
        // Before it has read the configuration it would write to the distribution's own log.
        command.args(["-e", "stderr", "-c"]).arg(path);
        command
    };
    Recipe { configuration, command }
}

fn haproxy(listen: SocketAddr, server: SocketAddr, _: &Path) -> Recipe {
    let configuration = format!(
        "global
            maxconn 100
        defaults
            mode http
            timeout connect 5s
            timeout client 30s
            timeout server 30s
            timeout tunnel {}ms
        listen proxy
            bind {listen}
            server server {server}\n",
        time_out()
    );
    let command = |path: &Path| {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f"]).arg(path);
        command
    };
    Recipe { configuration, command }
}

/// A running proxy. Its workers go with its cgroup.
struct Proxy {
    master: Process,
    pod: Pod,
    address: SocketAddr,
    _directory: TempDir,
}

impl Proxy {
    fn start(
        recipe: fn(SocketAddr, SocketAddr, &Path) -> Recipe,
        server: SocketAddr,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Nothing else uses this part of the loopback network: the port stays free.
        let address = TcpListener::bind("127.0.80.5:0")?.local_addr()?;
        let Recipe { configuration, command } = recipe(address, server, directory.path());
        let path = directory.path().join("proxy.conf");
        fs::write(&path, configuration)?;
        let pod = Pod::new();
        let child = pod.cgroup.spawn_in(command(&path).stdin(Stdio::null()));
        let proxy =
            Self { master: Process::new(child, "the proxy"), pod, address, _directory: directory };
        poll(START, || listens(address).then_some(())).context("the proxy does not listen")?;
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::write(self.pod.cgroup.path().join("cgroup.kill"), "1");
        self.master.kill();
    }
}

/// Whether somebody listens there: to ask by a connection would be to have it counted.
fn listens(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    // sl, local address, remote address, state: 0A is LISTEN.
    fs::read_to_string("/proc/net/tcp").is_ok_and(|sockets| {
        sockets.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
        })
    })
}

fn cut(daemon: &Daemon, recipe: fn(SocketAddr, SocketAddr, &Path) -> Recipe) -> Result<()> {
    let (client_pod, server_pod) = (Pod::new(), Pod::new());
    let mut client = Peer::start(&client_pod.cgroup, None);
    let mut server = Peer::start(&server_pod.cgroup, None);
    let server_address = server.listen("127.0.0.1:0".parse()?, false)?;
    let proxy = Proxy::start(recipe, server_address)?;
    for _ in 0..CONNECTIONS {
        client.ask(&format!("connect {}", proxy.address))?;
        client.say_send(REQUEST)?;
        client.answer()?;
        server.ask("accept")?;
        server.ask("receive-head")?;
        server.say_send(SWITCHING)?;
        server.answer()?;
        client.ask("receive-head")?;
        server.say_send(MESSAGE)?;
        server.answer()?;
        client.expect(MESSAGE)?;
        client.ask("keep")?;
        server.ask("keep")?;
    }
    let side = |role, address: SocketAddr| {
        Books::new(role, address.port()).speaking("websocket").opened(CONNECTIONS)
    };
    let open = |role, address| side(role, address).active(CONNECTIONS);
    check(
        daemon,
        &[
            (&client_pod, open("client", proxy.address)),
            (&proxy.pod, open("server", proxy.address).and(open("client", server_address))),
            (&server_pod, open("server", server_address)),
        ],
    )?;
    client.say("outlast")?;
    server.say("outlast")?;
    for peer in [&client, &server] {
        ensure!(peer.answer()? == CONNECTIONS.to_string(), "not all were cut");
    }
    let far = End { role: "client", port: proxy.address.port(), reasons: &["peer"], was_cut: true };
    let near = End { role: "server", reasons: &["local"], was_cut: false, ..far };
    let port = server_address.port();
    // HAProxy ends its side, and at once resets what has not ended by then: which comes first is up to the server.
    let upstream = End { role: "client", port, reasons: &["local", "reset_local"], was_cut: false };
    let server = End { role: "server", port, reasons: &["peer", "reset_peer"], was_cut: true };
    let books =
        [(&client_pod, vec![far]), (&proxy.pod, vec![near, upstream]), (&server_pod, vec![server])];
    settle(daemon, &books, |ends, metrics| {
        ends.iter().flat_map(|end| end.mismatches(metrics)).collect()
    })?;
    let told = || named(&daemon.log(), &server_pod).then_some(());
    poll(TOLD, told).context("the log does not name the cluster")
}

/// Whether a line of the log says that a proxy cuts the pod's connections after 5 s.
fn named(log: &str, pod: &Pod) -> bool {
    log.lines().any(|line| {
        line.contains(&pod.name)
            && line.contains("closes of this pod's silent WebSocket connections came 5 s after")
            && line.contains("from the peer: a proxy read timeout")
    })
}

/// One end of a hop whose connections have all been cut.
#[derive(Clone, Copy)]
struct End {
    role: &'static str,
    port: u16,
    /// Each ended in one of these ways.
    reasons: &'static [&'static str],
    /// The other end did it.
    was_cut: bool,
}

impl End {
    fn mismatches(&self, metrics: &Metrics) -> Vec<String> {
        let port = self.port.to_string();
        let here = [("role", self.role), ("port", port.as_str())];
        let sum = |family: &str, more: &[(&str, &str)]| {
            metrics.sum(family, &[&here[..], more].concat()) as u64
        };
        let closed_so = |reason: &&str| {
            let so = [("protocol", "websocket"), ("reason", *reason)];
            sum("tcp_connections_closed_total", &so)
        };
        let idle_up_to = |bound| {
            let side = if self.was_cut { "peer" } else { "local" };
            let labels =
                [("role", self.role), ("protocol", "websocket"), ("side", side), ("le", bound)];
            metrics.sum("tcp_connection_idle_seconds_bucket", &labels) as u64
        };
        let mut found = vec![
            ("opened", sum("tcp_connections_opened_total", &[]), CONNECTIONS),
            ("active", sum("tcp_connections_active", &[]), 0),
            ("closed", sum("tcp_connections_closed_total", &[]), CONNECTIONS),
            ("closed so", self.reasons.iter().map(closed_so).sum(), CONNECTIONS),
            ("idle for 4 s", idle_up_to("4"), 0),
            ("idle for 6 s", idle_up_to("6"), CONNECTIONS),
        ];
        if self.was_cut {
            found.push(("idle closes", sum("tcp_idle_closes_total", &[]), CONNECTIONS));
        }
        let wrong = found.iter().filter(|(_, got, expected)| got != expected);
        let Self { role, port, reasons, .. } = self;
        wrong
            .map(|(what, got, expected)| {
                format!("{role} of port {port}, {reasons:?}: {what}\n- expected {expected}\n+ got      {got}\n")
            })
            .collect()
    }
}
