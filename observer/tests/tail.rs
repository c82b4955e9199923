//! `observer tail`: each connection once, with what it was; only those asked for; and nothing lost in silence, neither in
//! the ring buffer nor for a reader that does not read.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;
use support::{
    daemon::{self, Daemon},
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    pod::Pod,
    poll::poll,
    process::{Process, run_to_end},
    scale::scaled,
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with a socket of its own.
struct Stage {
    daemon: Daemon,
    directory: TempDir,
}

impl Stage {
    fn new(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("run/observer.sock");
        let args = [&["--socket", text(&socket)], args].concat();
        Self { daemon: Daemon::start(&args), directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/observer.sock")
    }

    fn tail(&self, args: &[&str]) -> Tail {
        Tail::start(&self.socket(), args)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn tail_command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(daemon::executable());
    command.args(["tail", "--socket", text(socket)]).args(args);
    command
}

/// A running `observer tail`, which is heard by the daemon already.
struct Tail {
    process: Process,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Tail {
    fn start(socket: &Path, args: &[&str]) -> Self {
        let mut command = tail_command(socket, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the daemon's binary runs");
        let mut process = Process::new(child, format!("{command:?}"));
        let mut said = String::new();
        let mut stderr = BufReader::new(process.take_stderr());
        stderr.read_line(&mut said).expect("it says something");
        assert!(said.contains("following"), "{command:?}: {said}");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, kept) = (process.take_stdout(), Arc::clone(&lines));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { process, lines, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there are so many records of these pods, and returns them.
    fn wait_for(&self, pods: &[&Pod], count: u64) -> Vec<Value> {
        poll(PATIENCE, || {
            let lines = of(&self.lines(), pods);
            (lines.len() as u64 >= count).then_some(lines)
        })
        .unwrap_or_else(|| panic!("{count} records were expected: {:#?}", self.lines()))
    }

    /// Waits for its own end, which must be a success; returns all lines.
    fn end(mut self) -> Vec<Value> {
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{status}");
        self.reader.take().expect("not joined yet").join().expect("all lines are JSON");
        self.lines()
    }
}

/// The records of these pods.
fn of(lines: &[Value], pods: &[&Pod]) -> Vec<Value> {
    let ours = |line: &&Value| pods.iter().any(|pod| line["pod"] == pod.name.as_str());
    lines.iter().filter(ours).cloned().collect()
}

/// What the kernel's ring buffer and the reader's queue have dropped, as the last line about it says.
fn dropped(lines: &[Value]) -> (u64, u64) {
    let last = lines.iter().rfind(|line| line["event"] == "dropped");
    last.map_or((0, 0), |line| (number(line, "ring"), number(line, "queue")))
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {line}"))
}

fn event<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// The sum of a time in nanoseconds.
fn nanoseconds(lines: &[&Value], field: &str) -> u64 {
    lines.iter().map(|line| (line[field].as_f64().expect("a time") * 1e9).round() as u64).sum()
}

/// How many lines have these values.
fn count(lines: &[&Value], fields: &[&str]) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let values = fields.iter().map(|field| line[field].as_str().unwrap_or("").to_owned());
        *counts.entry(values.collect()).or_default() += 1;
    }
    counts
}

/// How many a family of counters has counted for the pod, by these labels.
fn counted(
    metrics: &Metrics,
    family: &str,
    pod: &Pod,
    labels: &[&str],
) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    for sample in metrics.select(family, &[("pod", &pod.name)]) {
        if sample.value != 0.0 {
            let values = labels.iter().map(|label| sample.labels[*label].clone()).collect();
            *counts.entry(values).or_default() += sample.value as u64;
        }
    }
    counts
}

#[test]
fn each_connection_is_shown_with_what_it_was() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let stage = Stage::new(&[]);
    let mode = std::fs::metadata(stage.socket()).expect("there is a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for root only");
    let (server_pod, client_pod) = (Pod::new(), Pod::new());
    let pods = [&server_pod, &client_pod];
    let (short, long) = (scaled(200), 10);
    let all = short + long;
    let everything = stage.tail(&[]);
    let one_pod = stage.tail(&["--pod", &client_pod.name, "--namespace", ""]);
    let protocol = stage.tail(&["--pod", &client_pod.name, "--protocol", "websocket"]);
    let never = stage.tail(&["--pod", &client_pod.name, "--min-lifetime", "1h"]);
    let few = stage.tail(&["--pod", &client_pod.name, "--limit", "3"]);

    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &server_pod.cgroup, None);
    let port = server.addr.port();
    let drive = Drive { short, long, messages: 2, ..Drive::new(Protocol::Ws, server.addr) };
    let mut driver = Driver::start(&drive, &client_pod.cgroup, None);
    driver.ready();
    let reset = stage.tail(&["--reason", "reset_local", "--reason", "reset_peer"]);
    driver.reset();
    // At each end: it speaks HTTP, then WebSocket, then ends.
    let lines = everything.wait_for(&pods, 2 * 3 * all);
    assert_eq!(few.end().len(), 3);
    let metrics = stage.daemon.wait_for(
        PATIENCE,
        &pods.map(|pod| Expected::sum("tcp_connections_active", &[("pod", &pod.name)], 0)),
    );

    for (pod, role) in [(&server_pod, "server"), (&client_pod, "client")] {
        let mine = of(&lines, &[pod]);
        let (closed, identified) = (event(&mine, "closed"), event(&mine, "identified"));
        assert_eq!(closed.len() as u64, all, "{pod}", pod = pod.name);
        let by = ["container", "role", "protocol", "reason"];
        assert_eq!(
            count(&closed, &by),
            counted(&metrics, "tcp_connections_closed_total", pod, &by)
        );
        let by = ["container", "role", "protocol"];
        let family = "tcp_connections_identified_total";
        assert_eq!(count(&identified, &by), counted(&metrics, family, pod, &by));
        let of_pod = [("pod", pod.name.as_str())];
        for (field, family) in [
            ("lifetime_seconds", "tcp_connection_duration_seconds_sum"),
            ("idle_seconds", "tcp_connection_idle_seconds_sum"),
        ] {
            let sum = (metrics.sum(family, &of_pod) * 1e9).round() as u64;
            let shown = nanoseconds(&closed, field);
            assert!(
                (shown.saturating_sub(1_000)..shown + 1_000).contains(&sum),
                "{field} against {family}: {shown} and {sum}"
            );
        }
        for line in &closed {
            assert!(line["idle_seconds"].as_f64() <= line["lifetime_seconds"].as_f64(), "{line}");
        }
        for direction in ["received", "sent"] {
            let field = format!("{direction}_bytes");
            let sum: u64 = closed.iter().map(|line| number(line, &field)).sum();
            let labels = [of_pod[0], ("direction", direction)];
            let bytes = metrics.sum("tcp_payload_bytes_total", &labels) as u64;
            assert_eq!(sum, bytes, "{field} of {role}s");
        }
        for line in &mine {
            let own = if role == "server" { "local_port" } else { "peer_port" };
            assert_eq!(number(line, own), u64::from(port), "{line}");
            assert_eq!(
                (&line["local_address"], &line["role"]),
                (&"127.0.0.1".into(), &role.into())
            );
        }
        for line in closed {
            assert!(line["opened"].as_str() < line["time"].as_str(), "{line}");
        }
    }
    let ports = |pod: &Pod, field| -> BTreeSet<u64> {
        event(&of(&lines, &[pod]), "closed").iter().map(|line| number(line, field)).collect()
    };
    assert_eq!(ports(&server_pod, "peer_port"), ports(&client_pod, "local_port"));

    assert_eq!(one_pod.wait_for(&pods, 3 * all), of(&lines, &[&client_pod]));
    let websocket = protocol.wait_for(&pods, 2 * all);
    assert!(websocket.iter().all(|line| line["protocol"] == "websocket"), "{websocket:#?}");
    let resets = reset.wait_for(&pods, 2 * long);
    assert_eq!(resets.len() as u64, 2 * long, "{resets:#?}");
    assert!(never.lines().is_empty(), "{:#?}", never.lines());
    drop((everything, one_pod, protocol, never, reset));
    server.stop();
    stage.daemon.stop();
    before.assert_same();
}

#[test]
fn a_full_ring_buffer_loses_records_and_no_count() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&["--record-buffer", "4096"]);
    let (server_pod, client_pod) = (Pod::new(), Pod::new());
    let pods = [&server_pod, &client_pod];
    let tail = stage.tail(&["--for", "20"]);
    let server = Server::start(Protocol::Tcp, ([127, 0, 0, 1], 0).into(), &server_pod.cgroup, None);
    let short = scaled(4_000);
    let drive = Drive { short, ..Drive::new(Protocol::Tcp, server.addr) };
    let mut driver = Driver::start(&drive, &client_pod.cgroup, None);
    driver.ready();
    driver.close();
    let books = server.stop();
    assert_eq!((books.accepted, books.closed), (short, short));
    let expected: Vec<_> = pods
        .iter()
        .flat_map(|pod| {
            let pod = [("pod", pod.name.as_str())];
            [
                Expected::sum("tcp_connections_opened_total", &pod, short),
                Expected::sum("tcp_connections_closed_total", &pod, short),
                Expected::sum("tcp_connection_duration_seconds_count", &pod, short),
                Expected::sum("tcp_connection_idle_seconds_count", &pod, short),
                Expected::sum("tcp_connections_active", &pod, 0),
            ]
        })
        .collect();
    stage.daemon.wait_for(PATIENCE, &expected);

    let lines = tail.end();
    let metrics = stage.daemon.scrape();
    let (ring, queue) = dropped(&lines);
    let shown = event(&of(&lines, &pods), "closed").len() as u64;
    let lost = metrics.sum("observer_lost_total", &[("kind", "ring_full")]) as u64;
    assert_eq!((ring, queue), (lost, 0), "what the stream says against what the metrics say");
    assert!(ring > 0 && shown < 2 * short, "the ring buffer was not too small: {ring}, {shown}");
    assert!(shown + ring >= 2 * short, "{shown} shown and {ring} lost of {}", 2 * short);
    // Whatever else happened on this machine was shown, or lost, too.
    let ever = ["tcp_connections_closed_total", "tcp_connections_identified_total"];
    let ever: u64 = ever.iter().map(|family| metrics.sum(family, &[]) as u64).sum();
    assert!(shown + ring <= ever, "{shown} shown and {ring} lost of at most {ever}");
    stage.daemon.stop();
}

#[test]
fn a_reader_that_does_not_read_loses_what_is_its_own() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let pod = Pod::new();
    let mut stream = UnixStream::connect(stage.socket()).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    writeln!(stream, "{{\"pod\":[\"{}\"]}}", pod.name).expect("a short line");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next()?.expect("a line")).ok();
    assert_eq!(next().expect("an answer")["event"], "following");

    // Both ends are this pod's, and more than socket and queue can hold.
    let server = Server::start(Protocol::Tcp, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    let short = 5_000;
    let drive = Drive { short, ..Drive::new(Protocol::Tcp, server.addr) };
    let mut driver = Driver::start(&drive, &pod.cgroup, None);
    driver.ready();
    driver.close();
    server.stop();
    let labels = [("pod", pod.name.as_str())];
    stage
        .daemon
        .wait_for(PATIENCE, &[Expected::sum("tcp_connections_closed_total", &labels, 2 * short)]);
    // Others are not held up.
    let other = stage.tail(&["--limit", "1"]);
    stage.daemon.scrape();
    assert_eq!(other.end().len(), 1);

    stream.shutdown(Shutdown::Write).expect("it is open");
    let rest: Vec<Value> = std::iter::from_fn(next).collect();
    let (ring, queue) = dropped(&rest);
    let shown = event(&rest, "closed").len() as u64;
    assert_eq!((shown + queue, ring), (2 * short, 0), "{shown} shown, {queue} lost");
    assert!(queue > 0, "the queue holds everything");
    stage.daemon.stop();
}

#[test]
fn tail_says_what_is_wrong() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("observer.sock");
    let complaint = |args: &[&str]| {
        let output = run_to_end(&mut tail_command(&socket, args), PATIENCE);
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = complaint(&[]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("`observer run`") && message.contains("--socket"), "{message}");
    let (code, message) = complaint(&["--protocol", "gprc"]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("grpc"), "{message}");

    let daemon = Daemon::start(&["--socket", text(&socket)]);
    let second = run_to_end(
        Command::new(daemon::executable()).args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--socket",
            text(&socket),
        ]),
        PATIENCE,
    );
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && message.contains("--socket"), "{message}");
    // What a killed daemon leaves behind is no daemon, and in nobody's way.
    daemon.kill();
    assert_eq!(complaint(&[]).0, Some(1));
    let daemon = Daemon::start(&["--socket", text(&socket)]);
    let tail = Tail::start(&socket, &["--for", "0.2"]);
    tail.end();
    daemon.stop();
    assert!(!socket.exists(), "the socket is left behind");
}

/// Closes two connections: one without lingering, one that waits for nothing in `FIN_WAIT2`.
const CLOSERS: &str = "
import socket, struct, time
listener = socket.create_server(('127.0.0.1', 0))
def pair():
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]
client, server = pair()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
client.close()
client, server = pair()
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, -1)
client.shutdown(socket.SHUT_WR)
assert server.recv(1) == b''
FIN_WAIT2 = 5
while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != FIN_WAIT2: time.sleep(0.01)
client.close()
";

/// What the README says of these causes is what the kernel says.
#[test]
fn what_a_program_does_to_linger_or_not() {
    let _lock = SystemLock::acquire();
    let (daemon, pod) = (Daemon::start(&[]), Pod::new());
    let mut python = Command::new("/usr/bin/python3");
    let child = pod.cgroup.spawn_in(python.args(["-c", CLOSERS]));
    let status = Process::new(child, "python3").wait(PATIENCE);
    assert!(status.success(), "{status}");
    let reasons = [("program", "reset_sent")];
    let told = daemon.scrape().sum("observer_probe_active", &reasons) > 0.5;
    let expected = if told {
        vec![("abort_on_linger", 1), ("disconnect", 1)]
    } else {
        vec![("unspecified", 2)]
    };
    let labels = |cause| [("pod", pod.name.as_str()), ("direction", "sent"), ("cause", cause)];
    let sums = expected
        .iter()
        .map(|&(cause, count)| Expected::sum("tcp_resets_total", &labels(cause), count));
    daemon.wait_for(PATIENCE, &sums.collect::<Vec<_>>());
    daemon.stop();
}
