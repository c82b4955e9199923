//! The HTTP endpoints as Prometheus, a kubelet and a careless client meet them.
//!
//! What the scrape's text may look like is not for these tests to say: promtool judges the classic
//! format and the parser of Prometheus' Python client judges `OpenMetrics`.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    process::{ChildStderr, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;
use support::{
    cgroup::TestCgroup,
    daemon::{self, Daemon},
    http::{self, Response},
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{self, CLASSIC, Expected, Metrics},
    pod::Pod,
    poll::poll,
    process::{Process, run_to_end},
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// What Prometheus 2.x and 3.x send when they are not told otherwise.
const PROMETHEUS: [&str; 2] = [
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
     q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/\
     openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
     text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
];

const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

fn get(daemon: &Daemon, path: &str, accept: Option<&str>) -> Response {
    http::get(daemon.address(), path, accept).unwrap_or_else(|error| panic!("{path}: {error:#}"))
}

/// A daemon that has something of everything to show: each protocol, open and closed.
struct Busy {
    daemon: Daemon,
    _drivers: Vec<Driver>,
    _servers: Vec<Server>,
    _cgroups: [TestCgroup; 2],
}

impl Busy {
    fn start(args: &[&str], prefix: &str) -> Self {
        let clients = TestCgroup::new("observer-endpoints-clients");
        let cgroup = TestCgroup::pod(
            "0b5e7e00-e4d0-4e4d-a001-000000000001",
            "e4d0000000000000000000000000000000000000000000000000000000000001",
        );
        let daemon = Daemon::start(args);
        let mut servers = Vec::new();
        let mut drivers = Vec::new();
        for protocol in Protocol::ALL {
            let server = Server::start(protocol, ([127, 0, 0, 1], 0).into(), &cgroup, None);
            let drive = Drive { short: 10, long: 3, ..Drive::new(protocol, server.addr) };
            let mut driver = Driver::start(&drive, &clients, None);
            driver.ready();
            servers.push(server);
            drivers.push(driver);
        }
        let pod = [("pod", "0b5e7e00-e4d0-4e4d-a001-000000000001")];
        let active = format!("{prefix}tcp_connections_active");
        daemon.wait_for(PATIENCE, &[Expected::sum(&active, &pod, 4 * 3)]);
        Self { daemon, _drivers: drivers, _servers: servers, _cgroups: [clients, cgroup] }
    }
}

#[test]
fn the_probes_answer() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    for path in ["/livez", "/readyz", "/healthz"] {
        let answer = get(&daemon, path, None);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
        assert!(answer.content_type.starts_with("text/plain"), "{path}: {answer:?}");
    }
    for path in ["/metric", "/metrics/", "/livez/x", "/%00", "/../metrics", "/debug/pprof"] {
        assert_eq!(get(&daemon, path, None).status, 404, "{path}");
    }
    for method in ["POST", "DELETE"] {
        let request = format!("{method} /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        let answer = exchange(daemon.address(), &request);
        assert!(answer.starts_with("HTTP/1.0 405 "), "{method}: {answer}");
    }
    for request in ["nonsense\r\n\r\n", "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", "\0\0\0\0\r\n"]
    {
        let answer = exchange(daemon.address(), request);
        assert!(answer.is_empty() || answer.contains(" 400 "), "{request:?}: {answer}");
    }
    daemon.scrape();
    daemon.stop();
}

/// Sends the request and reads to the end.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

#[test]
fn the_format_is_the_one_that_is_asked_for() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let open = |accept| {
        let answer = get(&daemon, "/metrics", accept);
        assert_eq!((answer.status, answer.content_type.as_str()), (200, OPEN_METRICS_TYPE));
        assert!(answer.body.ends_with("\n# EOF\n"), "{accept:?}: {}", answer.body);
        assert_eq!(answer.body.matches("# EOF").count(), 1, "{accept:?}: {}", answer.body);
        assert!(answer.body.contains("\n# TYPE observer_build info\n"), "{}", answer.body);
    };
    let classic = |accept| {
        let answer = get(&daemon, "/metrics", accept);
        assert_eq!((answer.status, answer.content_type.as_str()), (200, CLASSIC_TYPE));
        assert!(!answer.body.contains("# EOF"), "{accept:?}: {}", answer.body);
        assert!(answer.body.contains("\n# TYPE observer_build_info gauge\n"), "{}", answer.body);
    };
    open(Some("application/openmetrics-text"));
    open(Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for accept in PROMETHEUS {
        open(Some(accept));
    }
    classic(None);
    for accept in [CLASSIC, "*/*", "text/html,*/*;q=0.8", "text/*", "application/json", "", ",;="] {
        classic(Some(accept));
    }
    classic(Some("application/openmetrics-text;q=0, text/plain"));
    daemon.stop();
}

/// The names of all samples of a scrape, by which of the two parts they belong to.
fn parts(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    names.partition(|name| name.starts_with("observer_") || name.starts_with("process_"))
}

#[test]
fn the_observers_own_metrics_can_have_an_address_of_their_own() {
    let _lock = SystemLock::acquire();
    let busy = Busy::start(&["--self-listen", "127.0.0.1:0"], "");
    let text = get(&busy.daemon, "/metrics", Some(CLASSIC)).body;
    let (own, workloads) = parts(&text);
    assert!(own.is_empty() && workloads.len() > 10, "{own:?} {workloads:?}");
    let address = busy.daemon.self_address().expect("it logs both addresses");
    let answer = http::get(address, "/metrics", Some(CLASSIC)).expect("it serves there as well");
    let (own, workloads) = parts(&answer.body);
    assert!(workloads.is_empty(), "{workloads:?}");
    assert!(own.contains("observer_build_info") && own.contains("process_cpu_seconds_total"));
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(http::get(address, path, None).expect("the probes answer").status, 200);
    }
}

#[test]
fn without_it_all_metrics_are_on_one_address() {
    let _lock = SystemLock::acquire();
    let busy = Busy::start(&[], "");
    let text = get(&busy.daemon, "/metrics", Some(CLASSIC)).body;
    let (own, workloads) = parts(&text);
    assert!(own.len() > 10 && workloads.len() > 10, "{own:?} {workloads:?}");
    assert_eq!(busy.daemon.self_address(), None);
}

/// Runs a judge of texts with `text` on its stdin.
fn judge(command: &mut Command, text: &str) -> Output {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    // It prints nothing before it has read all: neither pipe can fill up.
    stdin.write_all(text.as_bytes()).expect("the judge reads");
    drop(stdin);
    child.wait_with_output().expect("the judge ends")
}

/// With a prefix, and at each level of detail.
#[test]
fn promtool_and_the_parser_of_open_metrics_accept_the_text() {
    let _lock = SystemLock::acquire();
    for (args, prefix) in [
        (&["--detail", "core"][..], ""),
        (&["--detail", "standard"], ""),
        (&["--detail", "full"], ""),
        (&["--metrics-prefix", "edge"], "edge_"),
    ] {
        let busy = Busy::start(args, prefix);
        let text = get(&busy.daemon, "/metrics", Some(CLASSIC)).body;
        let verdict = judge(Command::new("promtool").args(["check", "metrics"]), &text);
        let complaints = [verdict.stdout, verdict.stderr].concat();
        let complaints = String::from_utf8_lossy(&complaints);
        assert!(verdict.status.success() && complaints.is_empty(), "{args:?}: {complaints}");
        for name in text.lines().filter(|line| !line.starts_with('#')) {
            let own = name.starts_with("observer_") || name.starts_with("process_");
            assert!(own || name.starts_with(prefix), "without its prefix: {name}");
        }
        // What other programs export by the same names is told apart by the target; alerts ask for these names.
        for name in ["observer_build_info", "observer_lost_total", "process_cpu_seconds_total"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} has another name");
        }

        let text = get(&busy.daemon, "/metrics", Some("application/openmetrics-text")).body;
        let families = parsed(&text);
        for family in [
            "websocket_connections_active gauge 1 True",
            "websocket_connections counter 1 True",
            "websocket_messages counter 2 True",
            "grpc_connections_active gauge 1 True",
            "grpc_connections counter 1 True",
        ] {
            let family = format!("{prefix}{family}");
            assert!(families.contains(&family), "no {family} in {families:#?}");
        }
        assert!(families.iter().any(|family| family == "observer_build info 1 True"));
        for family in families {
            assert!(!family.contains(" unknown "), "no type: {family}");
            assert!(family.ends_with(" True"), "no help: {family}");
        }
    }
}

/// Prints one line for each family: name, type, how many samples it has, and whether it has a help text.
const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, len(family.samples), bool(family.documentation))
";

/// What the parser of Prometheus' Python client finds in a text.
fn parsed(text: &str) -> Vec<String> {
    // Debian's package belongs to Debian's interpreter, whichever others come first in the path.
    let verdict = judge(Command::new("/usr/bin/python3").args(["-c", PARSE]), text);
    let complaints = String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success(), "python3-prometheus-client: {complaints}");
    String::from_utf8_lossy(&verdict.stdout).lines().map(str::to_owned).collect()
}

/// promtool lets it pass, but without this bucket every quantile is NaN.
#[test]
fn histograms_end_at_infinity() {
    let _lock = SystemLock::acquire();
    let busy = Busy::start(&[], "");
    let metrics = busy.daemon.scrape();
    let histograms = metrics.types.iter().filter(|(_, kind)| *kind == "histogram");
    let counts = |name| metrics.select(&format!("{name}_count"), &[]).into_iter();
    let counts: Vec<_> =
        histograms.flat_map(|(name, _)| counts(name).map(move |count| (name, count))).collect();
    assert!(!counts.is_empty(), "no histogram");
    for (name, count) in counts {
        let labels: Vec<_> = count.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let last = [&labels[..], &[("le", "+Inf")]].concat();
        let buckets = metrics.select(&format!("{name}_bucket"), &labels);
        let les: Vec<_> = buckets.iter().map(|bucket| &bucket.labels["le"]).collect();
        assert_eq!(les.last().map(|le| le.as_str()), Some("+Inf"), "{les:?}");
        let all = metrics.value(&format!("{name}_bucket"), &last);
        assert!((all - count.value).abs() < 0.5, "{count}: {} of {all}", count.value);
        let rising = buckets.is_sorted_by(|a, b| a.value <= b.value);
        assert!(rising, "buckets are not cumulative: {buckets:?}");
    }
}

/// Clients that connect and then say too little, or never read.
fn careless(address: SocketAddr) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for beginning in ["", "G", "GET /metrics HT", "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: "] {
        for _ in 0..50 {
            let mut client = connect(address);
            client.write_all(beginning.as_bytes()).expect("it listens");
            clients.push(client);
        }
    }
    for _ in 0..50 {
        let mut client = connect(address);
        // Many requests at once, and not one answer is read: the daemon's sends come to a halt.
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
        client.write_all(&request).expect("it listens");
        clients.push(client);
    }
    clients
}

#[test]
fn careless_clients_do_not_hold_up_scrapes() {
    let _lock = SystemLock::acquire();
    let busy = Busy::start(&[], "");
    let daemon = &busy.daemon;
    let clients = careless(daemon.address());
    for _ in 0..20 {
        let started = Instant::now();
        daemon.scrape();
        assert_eq!(get(daemon, "/livez", None).status, 200);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "a scrape took {took:?}");
    }
    drop(clients);
}

#[test]
fn careless_clients_do_not_hold_up_the_end() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let daemon = Daemon::start(&[]);
    let clients = careless(daemon.address());
    daemon.scrape();
    daemon.stop();
    before.assert_same();
    drop(clients);
}

/// A certificate of an authority, and the key: PEM.
struct Certified {
    authority: String,
    chain: String,
    key: String,
}

impl Certified {
    /// For this machine, or for a client.
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        // One that has its issuer's name would count as signed by itself.
        params.distinguished_name.push(DnType::CommonName, "observer test");
        params.use_authority_key_identifier_extension = true;
        let chain = params.signed_by(&key, &issuer).expect("a certificate").pem();
        Self { authority, chain, key: key.serialize_pem() }
    }
}

/// Prints the status of the answer to `GET URL` with a client of Python and OpenSSL, or why there is none.
const GET: &str = "
import ssl, sys, urllib.error, urllib.request
url, authority, certificate, token = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
if certificate: context.load_cert_chain(certificate)
request = urllib.request.Request(url, headers={'Authorization': 'Bearer ' + token} if token else {})
try: print(urllib.request.urlopen(request, context=context, timeout=20).status)
except urllib.error.HTTPError as error: print(error.code)
except urllib.error.URLError as error: print(error.reason)
";

/// What the daemon reads, in a directory of the test's.
struct Secrets(TempDir);

impl Secrets {
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("it is ours");
        self.path(name)
    }

    /// The files of a server, whose clients then have the authority's.
    fn write_server(&self, server: &Certified) {
        self.write("tls.crt", &server.chain);
        self.write("tls.key", &server.key);
        self.write("ca.crt", &server.authority);
    }

    fn get(&self, address: SocketAddr, path: &str, certificate: &str, token: &str) -> String {
        let url = format!("https://{address}{path}");
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", GET, &url, &self.path("ca.crt"), certificate, token]);
        let output = run_to_end(&mut python, Duration::from_mins(1));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

#[test]
fn https_for_who_may_read_the_metrics() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let secrets = Secrets(tempfile::tempdir().expect("a directory"));
    let (server, client) = (Certified::new(), Certified::new());
    secrets.write_server(&server);
    let own = secrets.write("client.pem", &[&*client.chain, &*client.key].concat());
    let files = [
        ("--tls-cert", secrets.path("tls.crt")),
        ("--tls-key", secrets.path("tls.key")),
        ("--tls-client-ca", secrets.write("clients.crt", &client.authority)),
        ("--bearer-token-file", secrets.write("tokens", "first\n")),
    ];
    let files = files.iter().flat_map(|(option, path)| [*option, path.as_str()]);
    let args: Vec<_> = ["--self-listen", "127.0.0.1:0"].into_iter().chain(files).collect();
    let daemon = Daemon::start(&args);
    let own_address = daemon.self_address().expect("it logs both addresses");
    for address in [daemon.address(), own_address] {
        let get = |path, certificate, token| secrets.get(address, path, certificate, token);
        assert_eq!(get("/metrics", &own, "first"), "200");
        assert_eq!(get("/metrics", &own, "second"), "401");
        assert_eq!(get("/metrics", &own, ""), "401");
        assert_eq!(get("/metrics", "", "first"), "403");
        for path in ["/livez", "/readyz", "/healthz"] {
            assert_eq!(get(path, "", ""), "200", "a kubelet shows nothing");
        }
        assert!(http::get(address, "/livez", None).is_err(), "no HTTP without TLS");
    }

    // As a kubelet changes a secret, but for what is between: files that do not belong together change nothing.
    let address = daemon.address();
    let next = Certified::new();
    secrets.write("tls.crt", &next.chain);
    let warned = || daemon.log().contains("stay as they were").then_some(());
    poll(PATIENCE, warned).unwrap_or_else(|| panic!("no warning: {}", daemon.log()));
    assert_eq!(secrets.get(address, "/metrics", &own, "first"), "200");
    secrets.write_server(&next);
    secrets.write("tokens", "second\n");
    let changed = || (secrets.get(address, "/metrics", &own, "second") == "200").then_some(());
    poll(PATIENCE, changed).unwrap_or_else(|| panic!("nothing changes: {}", daemon.log()));
    assert_eq!(secrets.get(address, "/metrics", &own, "first"), "401");
    secrets.write("ca.crt", &server.authority);
    let refused = secrets.get(address, "/livez", "", "");
    assert!(refused.contains("CERTIFICATE_VERIFY_FAILED"), "the old one is gone: {refused}");

    // Nobody is in the way of others, nor of the end.
    let silent: Vec<_> = (0..200).map(|_| connect(address)).collect();
    secrets.write("ca.crt", &next.authority);
    let began = Instant::now();
    assert_eq!(secrets.get(address, "/metrics", &own, "second"), "200");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    daemon.stop();
    before.assert_same();
    drop(silent);
}

/// A daemon whose standard error is read to the line `ready`, and then no more.
fn start_unread(args: &[&str]) -> (Process, BufReader<ChildStderr>, SocketAddr) {
    let mut command = Command::new(daemon::executable());
    command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]).args(args);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut process = Process::new(child, "the daemon");
    let mut log = BufReader::new(process.take_stderr());
    let ready = log.by_ref().lines().map_while(Result::ok).find_map(|l| daemon::ready_address(&l));
    (process, log, ready.expect("it gets ready"))
}

/// Records of which some must have been dropped as lines: the queue holds 8,192, the pipe 64 KiB of lines that are not
/// shorter than 200, and those in the ring buffer (1 MiB) and in the turn that reads it (4,096) are no lines yet.
const TOO_MANY: u64 = 8_192 + 328 + 9_000 + 4_096;

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_scrapes() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let (mut process, log, address) = start_unread(&["--connection-log"]);
    let scrape = || {
        let answer = http::get(address, "/metrics", Some(CLASSIC)).expect("it answers");
        Metrics::parse(&answer.body).expect("a scrape")
    };
    let ring_full = || scrape().sum("observer_lost_total", &[("kind", "ring_full")]) as u64;
    let pod = Pod::new();
    let server = Server::start(Protocol::Tcp, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    // Both ends are this pod's.
    let mut closed = 0;
    while closed - ring_full().min(closed) < TOO_MANY {
        let drive = Drive { short: 5_000, ..Drive::new(Protocol::Tcp, server.addr) };
        let mut driver = Driver::start(&drive, &pod.cgroup, None);
        driver.ready();
        driver.close();
        closed += 2 * drive.short;
        let labels = [("pod", pod.name.as_str())];
        let all = Expected::sum("tcp_connections_closed_total", &labels, closed);
        metrics::wait_for(PATIENCE, scrape, &[all]);
    }
    server.stop();

    // Somebody reads again, and is told what is missing.
    let lines = Arc::new(Mutex::new(Vec::new()));
    let read = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            read.lock().expect("no panic").push(line["fields"].clone());
        }
    });
    let told = || {
        let lines = lines.lock().expect("no panic");
        let dropped = lines.iter().filter(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message == "lines of the connection log were dropped: standard error was not read"
        });
        let dropped: u64 = dropped.filter_map(|line| line["lines"].as_u64()).sum();
        let shown = lines.iter().filter(|line| line["pod"] == pod.name.as_str()).count() as u64;
        (shown, dropped)
    };
    let counted = || scrape().sum("observer_log_lines_dropped_total", &[("log", "connections")]);
    assert!(counted() > 0.5, "nobody has read, and nothing was dropped");
    let complete = || {
        let (shown, dropped) = told();
        (dropped > 0 && shown + dropped + ring_full() >= closed).then_some(())
    };
    poll(PATIENCE, complete)
        .unwrap_or_else(|| panic!("{closed} closed; shown, lost: {:?}", told()));
    assert_eq!(counted() as u64, told().1, "the metric and the log");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
    reader.join().expect("all lines are JSON");
    before.assert_same();
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let (mut process, log, _) = start_unread(&[]);
    // Who writes to the pipe beside the daemon fills it.
    let pipe = format!("/proc/{}/fd/2", process.id());
    let mut pipe = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(pipe);
    let pipe = pipe.as_mut().expect("its standard error");
    let error = loop {
        if let Err(error) = pipe.write(&[b'\n'; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
    before.assert_same();
    drop(log);
}
