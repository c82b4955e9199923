//! Real proxies that cut WebSocket connections because nothing was said: their timer is found, whatever it is, and the ends
//! have the reason of the side that did it, on each of the four ends.

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

/// Enough to be a timer's.
const CONNECTIONS: u64 = 12;
/// How long the daemon may take to notice the timer.
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

/// A proxy's time-out, and the bounds of the histogram around it.
#[derive(Clone, Copy)]
struct Timer {
    seconds: u64,
    above: &'static str,
    below: &'static str,
}

impl Timer {
    /// Timers count from before the proxies' own last write; on a slow machine from so much before it that what is left
    /// would be below what counts as idle.
    fn millis(self) -> u64 {
        self.seconds * 1000 + if is_slow() { 500 } else { 0 }
    }

    /// Whether this is what was set: a program's timers are as late as they may be.
    fn is(self, found: f64) -> bool {
        let late = found - self.millis() as f64 / 1000.0;
        if is_slow() { late.abs() < 0.6 } else { (-0.05..0.3).contains(&late) }
    }
}

/// nginx and its time-out for silent tunnels.
pub(crate) fn behind_nginx(daemon: &Daemon, failures: &mut Failures) {
    let timer = Timer { seconds: 5, above: "4", below: "6" };
    failures.run(daemon, "nginx: proxy_read_timeout 5s", || cut(daemon, nginx, timer));
}

/// `HAProxy` and its own, which is in none of the narrow buckets.
pub(crate) fn behind_haproxy(daemon: &Daemon, failures: &mut Failures) {
    let timer = Timer { seconds: 7, above: "6", below: "9" };
    failures.run(daemon, "HAProxy: timeout tunnel 7s", || cut(daemon, haproxy, timer));
}

/// A proxy's configuration, for the address it listens on and the server's, with a directory for its files; and the
/// command that runs it, for the configuration's path.
struct Recipe {
    configuration: String,
    command: fn(&Path) -> Command,
}

fn nginx(listen: SocketAddr, server: SocketAddr, directory: &Path, timer: Timer) -> Recipe {
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
        timer.millis()
    );
    let command = |path: &Path| {
        let mut command = Command::new("nginx");
        // Before it has read the configuration it would write to the distribution's own log.
        command.args(["-e", "stderr", "-c"]).arg(path);
        command
    };
    Recipe { configuration, command }
}

fn haproxy(listen: SocketAddr, server: SocketAddr, _: &Path, timer: Timer) -> Recipe {
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
        timer.millis()
    );
    let command = |path: &Path| {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f"]).arg(path);
        command
    };
    Recipe { configuration, command }
}

/// Makes a recipe.
type MakeRecipe = fn(SocketAddr, SocketAddr, &Path, Timer) -> Recipe;

/// A running proxy. Its workers go with its cgroup.
struct Proxy {
    master: Process,
    pod: Pod,
    address: SocketAddr,
    _directory: TempDir,
}

impl Proxy {
    fn start(recipe: MakeRecipe, server: SocketAddr, timer: Timer) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Nothing else uses this part of the loopback network: the port stays free.
        let address = TcpListener::bind("127.0.80.5:0")?.local_addr()?;
        let Recipe { configuration, command } = recipe(address, server, directory.path(), timer);
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

fn cut(daemon: &Daemon, recipe: MakeRecipe, timer: Timer) -> Result<()> {
    let (client_pod, server_pod) = (Pod::new(), Pod::new());
    let mut client = Peer::start(&client_pod.cgroup, None);
    let mut server = Peer::start(&server_pod.cgroup, None);
    let server_address = server.listen("127.0.0.1:0".parse()?, false)?;
    let proxy = Proxy::start(recipe, server_address, timer)?;
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
    let port = proxy.address.port();
    let far = End { role: "client", port, reasons: &["peer"], was_cut: true, timer };
    let near = End { role: "server", reasons: &["local"], was_cut: false, ..far };
    let port = server_address.port();
    // HAProxy ends its side, and at once resets what has not ended by then: which comes first is up to the server.
    let upstream = End { port, reasons: &["local", "reset_local"], was_cut: false, ..far };
    let server =
        End { role: "server", port, reasons: &["peer", "reset_peer"], was_cut: true, timer };
    let books =
        [(&client_pod, vec![far]), (&proxy.pod, vec![near, upstream]), (&server_pod, vec![server])];
    settle(daemon, &books, |ends, metrics| {
        ends.iter().flat_map(|end| end.mismatches(metrics)).collect()
    })?;
    let found = || exported(&daemon.scrape(), &server_pod);
    let seconds = poll(TOLD, found).context("the timer is not found")?;
    ensure!(timer.is(seconds), "{seconds} s instead of {} s", timer.seconds);
    let told = || named(&daemon.log(), &server_pod, seconds).then_some(());
    poll(TOLD, told).context("the log does not name the timer")
}

/// The timer by which peers cut the connections of a pod's servers.
fn exported(metrics: &Metrics, pod: &Pod) -> Option<f64> {
    let labels = [
        ("pod", pod.name.as_str()),
        ("role", "server"),
        ("protocol", "websocket"),
        ("side", "peer"),
    ];
    metrics.select("tcp_idle_cut_seconds", &labels).first().map(|sample| sample.value)
}

/// Whether a line of the log says that a proxy cuts the pod's connections after this time.
fn named(log: &str, pod: &Pod, seconds: f64) -> bool {
    let said = format!(
        "{CONNECTIONS} of {CONNECTIONS} closes of this pod's silent WebSocket connections came {seconds} s after the last \
         byte, from the peer (on this node's loopback): a proxy read timeout"
    );
    log.lines().any(|line| line.contains(&pod.name) && line.contains(&said))
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
    timer: Timer,
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
            ("idle for less", idle_up_to(self.timer.above), 0),
            ("idle for no more", idle_up_to(self.timer.below), CONNECTIONS),
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
