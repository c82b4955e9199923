//! What people look at, `observer top`, `ps`, `doctor` and the page: the numbers are those of `/metrics` and of the programs
//! themselves, who may not look does not, and whoever looks holds up nobody.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    daemon::{self, Daemon},
    http,
    lock::SystemLock,
    metrics::Expected,
    netns::NetnsPair,
    pod::Pod,
    poll::poll,
    process::run_to_end,
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
        let socket = directory.path().join("observer.sock");
        let args = [&["--socket", text(&socket)], args].concat();
        Self { daemon: Daemon::start(&args), directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("observer.sock")
    }

    /// Runs a command that looks.
    fn look(&self, args: &[&str]) -> Output {
        look(&self.socket(), args)
    }

    /// What a command prints that must succeed.
    fn shown(&self, args: &[&str]) -> String {
        let output = self.look(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The rows of a pod in the table.
    fn rows(&self, pod: &Pod) -> Vec<Value> {
        let table = json(&self.shown(&["top", "--once", "--json"]));
        let rows = table["rows"].as_array().expect("rows").clone();
        rows.into_iter().filter(|row| row["pod"] == pod.name.as_str()).collect()
    }

    /// The pod's open connections.
    fn connections(&self, pod: &Pod, args: &[&str]) -> Vec<Value> {
        let args = [&["ps", "--json", "--pod", &pod.name], args].concat();
        self.shown(&args).lines().map(json).collect()
    }
}

fn look(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(daemon::executable());
    run_to_end(command.args(args).args(["--socket", text(socket)]), PATIENCE)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server with long WebSocket connections, each with one message of either side, after `short` that are over.
struct Busy {
    _driver: Driver,
    server: Server,
    clients: Pod,
    pod: Pod,
}

impl Busy {
    fn start(short: u64, long: u64) -> Self {
        let (pod, clients) = (Pod::new(), Pod::new());
        let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
        let drive = Drive { short, long, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &clients.cgroup, None);
        let books = driver.ready();
        assert_eq!((books.opened, books.active), (short + long, long));
        Self { _driver: driver, server, clients, pod }
    }
}

#[test]
fn the_table_has_the_numbers_of_the_metrics() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let busy = Busy::start(40, 7);
    let labels = [("pod", busy.pod.name.as_str())];
    let metrics = stage.daemon.wait_for(
        PATIENCE,
        &[
            Expected::sum("tcp_connections_active", &labels, 7),
            Expected::sum("tcp_connections_closed_total", &labels, 40),
        ],
    );
    // A table is a second old at most.
    let rows = poll(PATIENCE, || {
        let rows = stage.rows(&busy.pod);
        (rows.len() == 1 && rows[0]["active"] == 7 && rows[0]["opened"] == 47).then_some(rows)
    });
    let row = &rows.unwrap_or_else(|| panic!("{:#?}", stage.rows(&busy.pod)))[0];
    assert_eq!((&row["role"], &row["protocol"]), (&"server".into(), &"websocket".into()));
    assert_eq!(row["ports"], serde_json::json!([busy.server.addr.port()]));
    let closed = row["closed"].as_object().expect("by reason");
    for (reason, count) in closed {
        let labels = [labels[0], ("reason", reason)];
        let sum = metrics.sum("tcp_connections_closed_total", &labels);
        assert_eq!(count.as_u64(), Some(sum as u64), "{reason}");
    }
    assert_eq!(closed.values().filter_map(Value::as_u64).sum::<u64>(), 40);
    // All of them ended within a second, or nobody knows better than the metrics.
    let within = [labels[0], ("le", "1")];
    let within = metrics.sum("tcp_connection_duration_seconds_bucket", &within);
    assert_eq!(row["short"].as_u64(), Some(within as u64));
    // What came before the upgrade is that of HTTP.
    for (field, direction) in [("received_bytes", "received"), ("sent_bytes", "sent")] {
        let of = [labels[0], ("direction", direction), ("protocol", "websocket")];
        let bytes = metrics.sum("tcp_payload_bytes_total", &of) as u64;
        assert_eq!(row[field].as_u64(), Some(bytes), "{field}");
    }
    let messages = ["received", "sent"].map(|direction| {
        let of = [labels[0], ("direction", direction)];
        metrics.sum("websocket_messages_total", &of) as u64
    });
    assert_eq!(row["messages"], serde_json::json!(messages));

    let plain = stage.shown(&["top", "--once"]);
    let line = plain.lines().find(|line| line.starts_with(&busy.pod.name)).expect("the pod's line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let port = busy.server.addr.port().to_string();
    assert_eq!(words[1..8], ["server", "websocket", &port, "7", "47", "40", "0"], "{line}");
    let other = look(Path::new("/nowhere/observer.sock"), &["top", "--once"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("`observer run`"), "{}", said(&other));
    let no_terminal = stage.look(&["top"]);
    assert!(said(&no_terminal).contains("--once"), "{}", said(&no_terminal));
    stage.daemon.stop();
}

#[test]
fn each_open_connection_is_listed_once() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    // None has ended, so that what the pod has moved is what these have moved.
    let busy = Busy::start(0, 9);
    let labels = [("pod", busy.pod.name.as_str())];
    let metrics = stage
        .daemon
        .wait_for(PATIENCE, &[Expected::sum("websocket_connections_active", &labels, 9)]);
    let server = stage.connections(&busy.pod, &[]);
    let client = stage.connections(&busy.clients, &[]);
    assert_eq!((server.len(), client.len()), (9, 9), "{server:#?} {client:#?}");
    let port = u64::from(busy.server.addr.port());
    let ports = |lines: &[Value], field: &str| -> BTreeSet<u64> {
        lines.iter().filter_map(|line| line[field].as_u64()).collect()
    };
    assert_eq!(ports(&server, "local_port"), BTreeSet::from([port]));
    assert_eq!(ports(&client, "peer_port"), BTreeSet::from([port]));
    assert_eq!(ports(&server, "peer_port"), ports(&client, "local_port"));
    for line in &server {
        assert_eq!((&line["event"], &line["protocol"]), (&"open".into(), &"websocket".into()));
        assert_eq!(
            (&line["role"], &line["local_address"]),
            (&"server".into(), &"127.0.0.1".into())
        );
        assert!(line["idle_seconds"].as_f64() <= line["lifetime_seconds"].as_f64(), "{line}");
        assert!(line["opened"].as_str() < line["time"].as_str(), "{line}");
    }
    // What the ends say of each other, and what the metrics say.
    let sum = |lines: &[Value], field: &str| -> u64 {
        lines.iter().filter_map(|line| line[field].as_u64()).sum()
    };
    assert_eq!(sum(&server, "received_bytes"), sum(&client, "sent_bytes"));
    assert_eq!(sum(&server, "sent_bytes"), sum(&client, "received_bytes"));
    let all = metrics.sum("tcp_payload_bytes_total", &labels) as u64;
    let shown = sum(&server, "received_bytes") + sum(&server, "sent_bytes");
    assert!(shown > 0);
    assert_eq!(shown, all);

    // The doctor tells of the oldest of the users', before it closes.
    let oldest =
        format!("the oldest of 9 WebSocket and gRPC connections: {} (websocket)", busy.pod.name);
    let told = stage.shown(&["doctor"]);
    assert!(told.contains(&format!("{oldest}, open for ")), "{oldest} is not in:\n{told}");

    // In the order of their age, and of those the first.
    let ages: Vec<f64> =
        server.iter().filter_map(|line| line["lifetime_seconds"].as_f64()).collect();
    assert!(ages.is_sorted_by(|one, other| one >= other), "{ages:?}");
    let few = stage.look(&["ps", "--json", "--pod", &busy.pod.name, "--limit", "3"]);
    assert_eq!(String::from_utf8_lossy(&few.stdout).lines().count(), 3);
    assert!(said(&few).contains("3 of 9 connections"), "{}", said(&few));
    for (filter, count) in [
        (&["--protocol", "websocket"], 9),
        (&["--protocol", "grpc"], 0),
        (&["--role", "client"], 0),
        (&["--port", "1"], 0),
        (&["--peer", "127.*"], 9),
        (&["--max-lifetime", "1h"], 9),
        (&["--min-idle", "1h"], 0),
    ] {
        assert_eq!(stage.connections(&busy.pod, filter).len(), count, "{filter:?}");
    }
    let glob = format!("{}*", &busy.pod.name[..busy.pod.name.len() - 1]);
    assert!(stage.shown(&["ps", "--pod", &glob]).lines().count() > 9, "a heading and nine lines");
    stage.daemon.stop();
}

#[test]
fn connections_of_other_network_namespaces_are_listed() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let pair = NetnsPair::new();
    let (pod, clients) = (Pod::new(), Pod::new());
    let address = SocketAddr::new(pair.a.ipv6(), 0);
    let server = Server::start(Protocol::Tcp, address, &pod.cgroup, Some(&pair.a));
    let drive = Drive { long: 4, ..Drive::new(Protocol::Tcp, server.addr) };
    let mut driver = Driver::start(&drive, &clients.cgroup, Some(&pair.b));
    driver.ready();
    let labels = [("pod", pod.name.as_str())];
    stage.daemon.wait_for(PATIENCE, &[Expected::sum("tcp_connections_active", &labels, 4)]);
    let lines = stage.connections(&pod, &[]);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let local = pair.a.ipv6().to_string();
    assert!(lines.iter().all(|line| line["local_address"] == local.as_str()), "{lines:#?}");
    driver.close();
    server.stop();
    stage.daemon.wait_for(PATIENCE, &[Expected::sum("tcp_connections_active", &labels, 0)]);
    assert!(stage.connections(&pod, &[]).is_empty());
    stage.daemon.stop();
}

#[test]
fn the_doctor_looks_at_the_daemon() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let shown = stage.shown(&["doctor"]);
    assert!(shown.starts_with("ok    observer "), "{shown}");
    assert!(shown.contains("\nok    nothing was lost\n"), "{shown}");
    // Nobody listens on the port of a socket that is bound and does not.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let closed = closed.expect("a free port").to_string();
    let pod = Pod::new();
    let (host, port) = closed.rsplit_once(':').expect("an address");
    let connect = format!(
        "import socket\nfor _ in range(12):\n  try: socket.create_connection(('{host}',{port}))\n  except ConnectionRefusedError: pass"
    );
    let mut python = Command::new("/usr/bin/python3");
    let mut child = pod.cgroup.spawn_in(python.args(["-c", &connect]));
    assert!(child.wait().expect("it ends").success());
    let symptom =
        format!("look  {} (client, tcp): 12 attempts to connect failed: refused 12", pod.name);
    let found = poll(PATIENCE, || stage.shown(&["doctor"]).contains(&symptom).then_some(()));
    assert!(found.is_some(), "{symptom} is not in:\n{}", stage.shown(&["doctor"]));
    // The same for a script.
    let lines: Vec<Value> = stage.shown(&["doctor", "--json"]).lines().map(json).collect();
    let of_pod: Vec<&Value> =
        lines.iter().filter(|line| line["runbook"] == "connect-timeouts").collect();
    let [line] = of_pod[..] else { panic!("{lines:#?}") };
    let text = symptom.strip_prefix("look  ").expect("it begins so");
    assert_eq!((&line["mark"], &line["text"]), (&"look".into(), &text.into()));
    assert!(lines.iter().all(|line| line["mark"] != "fail"), "{lines:#?}");
    let socket = stage.socket();
    stage.daemon.stop();
    let none = look(&socket, &["doctor"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(none.stdout.starts_with(b"FAIL  no observer runs here"), "{none:?}");
    let none = look(&socket, &["doctor", "--json"]);
    assert_eq!(none.status.code(), Some(1));
    let said = String::from_utf8(none.stdout).expect("text");
    let first = json(said.lines().next().expect("a line"));
    assert_eq!((&first["mark"], &first["runbook"]), (&"fail".into(), &"observer-down".into()));
}

#[test]
fn who_waits_for_a_name_that_is_not_here_is_told() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let pod = Pod::new();
    let tail = |name: &str| said(&stage.look(&["tail", "--pod", name, "--for", "0.1"]));
    // A typing error at the end of the name.
    let near = format!("{}x", pod.name);
    let hint = tail(&near);
    assert!(hint.contains(&format!("is called `{near}`; near it: ")), "{hint}");
    assert!(hint.contains(&format!(": {}", pod.name)), "{hint}");
    let hint = tail("no-such-pod");
    assert!(hint.contains("no pod on this node is called `no-such-pod`"), "{hint}");
    for here in [pod.name.as_str(), &pod.name[..8], "*"] {
        let name = if here.len() == 8 { format!("{here}*") } else { here.to_owned() };
        let said = tail(&name);
        assert!(!said.contains("is called"), "{said}");
    }
    stage.daemon.stop();
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    let (head, body) = http::get_bytes(address, path, &[]).expect("an answer");
    (head.to_lowercase(), String::from_utf8(body).expect("text"))
}

/// The bytes that may come over, which the page is to stay below.
const PAGE: usize = 60 * 1024;

#[test]
fn the_page_asks_nobody_else() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let busy = Busy::start(3, 5);
    let address = stage.daemon.address();
    let mut bytes = 0;
    for (path, kind) in [
        ("/", "text/html"),
        ("/ui/style.css", "text/css"),
        ("/ui/script.js", "text/javascript"),
        ("/api/v1/snapshot", "application/json"),
    ] {
        let (head, body) = get(address, path);
        assert!(head.starts_with("http/1.0 200 "), "{path}: {head}");
        for line in [
            format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self';".to_owned(),
            "frame-ancestors 'none'".to_owned(),
            "x-content-type-options: nosniff".to_owned(),
            "referrer-policy: no-referrer".to_owned(),
            "cache-control: no-store".to_owned(),
        ] {
            assert!(head.contains(&line), "{path}: {line} is not in\n{head}");
        }
        if kind != "application/json" {
            bytes += body.len();
            // The one address is the name of a kind of markup.
            let others = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!others.contains("://"), "{path} names another place");
            for risk in ["innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!body.contains(risk), "{path} has {risk}");
            }
        }
        let request = format!("HEAD {path} HTTP/1.0\r\n\r\n");
        let answer = exchange(address, &request);
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer =
            exchange(address, &format!("POST {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.0 405 "), "{path}: {answer}");
    }
    assert!(bytes < PAGE, "{bytes} bytes, uncompressed");
    // It shows what the metrics show, and no peer.
    let snapshot = poll(PATIENCE, || {
        let table = json(&get(address, "/api/v1/snapshot").1);
        let rows = table["rows"].as_array()?;
        let ours = rows.iter().find(|row| row["pod"] == busy.pod.name.as_str())?;
        (ours["active"] == 5 && ours["opened"] == 8).then_some(table.clone())
    });
    let snapshot = snapshot.expect("the pod's row").to_string();
    assert!(!snapshot.contains("127.0.0.1"), "addresses are nobody's business");
    let (head, packed) =
        http::get_bytes(address, "/api/v1/snapshot", &[("Accept-Encoding", "gzip")]).expect("one");
    assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).expect("gzip");
    assert!(json(&unpacked)["rows"].is_array());
    for path in [
        "/api/v1/connections/-/x",
        "/api/v1",
        "/ui/",
        "/ui/../metrics",
        "/ui/%2e%2e/script.js",
        "/index.html",
    ] {
        assert!(get(address, path).0.starts_with("http/1.0 404 "), "{path}");
    }
    stage.daemon.stop();
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn who_may_see_what() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "a-token-of-this-test\n").expect("it is ours");
    let stage = Stage::new(&[
        "--ui",
        "full",
        "--bearer-token-file",
        text(&tokens),
        "--self-listen",
        "127.0.0.1:0",
    ]);
    let busy = Busy::start(0, 6);
    let own = stage.daemon.self_address().expect("an address of its own");
    // Where pods' metrics are scraped is no page.
    assert!(get(stage.daemon.address(), "/").0.starts_with("http/1.0 404 "));
    // The page says nothing, so that a token can be typed into it.
    let (head, page) = get(own, "/");
    assert!(head.starts_with("http/1.0 200 ") && page.contains("id=\"token\""), "{head}");
    let connections = format!("/api/v1/connections/-/{}", busy.pod.name);
    for path in ["/api/v1/snapshot", &connections] {
        let (head, body) = get(own, path);
        assert!(head.starts_with("http/1.0 401 ") && body.len() < 100, "{path}: {head}{body}");
        let wrong = http::get_bytes(own, path, &[("Authorization", "Bearer no")]).expect("one").0;
        assert!(wrong.starts_with("HTTP/1.0 401 "), "{wrong}");
    }
    let bearer = [("Authorization", "Bearer a-token-of-this-test")];
    let open = poll(PATIENCE, || {
        let (head, body) = http::get_bytes(own, &connections, &bearer).expect("an answer");
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        let text = String::from_utf8(body).expect("text");
        (text.lines().count() == 7).then(|| text.lines().map(json).collect::<Vec<_>>())
    });
    let open = open.expect("six connections, and how many there are");
    assert_eq!((&open[6]["event"], &open[6]["connections"]), (&"listed".into(), &6.into()));
    assert!(open[..6].iter().all(|line| line["peer_address"] == "127.0.0.1"), "{open:#?}");
    stage.daemon.stop();

    let stage = Stage::new(&["--ui", "off"]);
    for path in ["/", "/ui/script.js", "/api/v1/snapshot"] {
        assert!(get(stage.daemon.address(), path).0.starts_with("http/1.0 404 "), "{path}");
    }
    stage.daemon.stop();
}

#[test]
fn whoever_looks_holds_up_nobody() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new(&[]);
    let busy = Busy::start(10, 5);
    let address = stage.daemon.address();
    // These ask and never read.
    let idle: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("the daemon listens");
            stream.write_all(b"GET /api/v1/snapshot HTTP/1.0\r\n\r\n").expect("it listens");
            stream
        })
        .collect();
    let readers: Vec<_> = (0..50)
        .map(|_| {
            thread::spawn(move || {
                (0..5).all(|_| get(address, "/api/v1/snapshot").0.starts_with("http/1.0 200 "))
            })
        })
        .collect();
    let labels = [("pod", busy.pod.name.as_str())];
    let expected = [
        Expected::sum("tcp_connections_active", &labels, 5),
        Expected::sum("tcp_connections_closed_total", &labels, 10),
        Expected::sum("observer_lost_total", &[], 0),
    ];
    stage.daemon.wait_for(PATIENCE, &expected);
    assert!(readers.into_iter().all(|reader| reader.join().expect("no panic")));
    drop(idle);
    stage.daemon.wait_for(PATIENCE, &expected);
    stage.daemon.stop();
}
