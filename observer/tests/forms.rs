//! The forms of records, those of `observer tail` and `ps` and of the connection log: docs/record.schema.json has them all, and
//! each form tells the same.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{
    daemon::{self, Daemon},
    lock::SystemLock,
    pod::Pod,
    poll::poll,
    process::{Process, run_to_end},
    tools,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the validator of the tests' Python says of these lines.
fn judge(lines: &[Value]) {
    const PROGRAM: &str = "\
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
lines = [json.loads(line) for line in open(sys.argv[2])]
for line in lines:
    for error in validator.iter_errors(line):
        sys.exit(f'{line}: {error.message}: {[of.message for of in error.context]}')
print(len(lines))";
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for line in lines {
        writeln!(file, "{line}").expect("it can be written");
    }
    let mut python = Command::new(tools::python());
    python.args(["-c", PROGRAM]).arg(tools::checkout().join("docs/record.schema.json"));
    let output = run_to_end(python.arg(file.path()), PATIENCE);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), lines.len().to_string());
}

/// A running `observer tail`, which is heard by the daemon already.
struct Tail {
    process: Process,
    printed: File,
}

impl Tail {
    fn start(socket: &Path, args: &[&str]) -> Self {
        let printed = tempfile::tempfile().expect("a file");
        let mut command = Command::new(daemon::executable());
        command.args(["tail", "--socket"]).arg(socket).args(args).stdin(Stdio::null());
        let stdout = printed.try_clone().expect("another descriptor");
        command.stdout(stdout).stderr(Stdio::piped());
        let child = command.spawn().expect("the program runs");
        let mut process = Process::new(child, format!("{command:?}"));
        let mut said = String::new();
        let mut stderr = BufReader::new(process.take_stderr());
        stderr.read_line(&mut said).expect("it says something");
        assert!(said.contains("following"), "{command:?}: {said}");
        Self { process, printed }
    }

    /// What it has printed when it has ended by itself.
    fn end(mut self) -> Vec<String> {
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{status}");
        let mut text = String::new();
        self.printed.rewind().expect("it can be read");
        self.printed.read_to_string(&mut text).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

/// What tells a record from all others.
fn key(fields: &Value) -> String {
    ["peer_port", "local_port", "time"].map(|field| fields[field].to_string()).join(" ")
}

#[test]
fn records_are_those_of_the_schema_in_every_form() {
    const CONNECTIONS: usize = 12;
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("observer.sock");
    let at = socket.to_str().expect("a plain path");
    let daemon = Daemon::start(&["--connection-log", "--socket", at]);
    let (pod, clients) = (Pod::new(), Pod::new());
    // Each connection speaks HTTP, then WebSocket, then ends.
    let all = (3 * CONNECTIONS).to_string();
    let tail = |form: &str| {
        Tail::start(
            &socket,
            &["--pod", &pod.name, "--output", form, "--limit", &all, "--for", "1m"],
        )
    };
    let tails = ["json", "text", "logfmt"].map(tail);
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    let drive = Drive { short: 10, long: 2, ..Drive::new(Protocol::Ws, server.addr) };
    let mut driver = Driver::start(&drive, &clients.cgroup, None);
    driver.ready();
    let mut ps = Command::new(daemon::executable());
    ps.args(["ps", "--json", "--pod", &pod.name, "--socket"]).arg(&socket);
    let open = String::from_utf8(run_to_end(&mut ps, PATIENCE).stdout).expect("text");
    let open: Vec<Value> = open.lines().map(json).collect();
    assert_eq!(open.len(), 2, "{open:?}");
    judge(&open);
    driver.reset();

    let [told, text, logfmt] = tails.map(Tail::end);
    let told: Vec<Value> = told.iter().map(|line| json(line)).collect();
    assert_eq!((told.len(), text.len(), logfmt.len()), (36, 36, 36));
    judge(&told);
    for ((line, text), logfmt) in told.iter().zip(&text).zip(&logfmt) {
        let (event, time) = (&line["event"], &line["time"]);
        let (event, time) = (event.as_str().expect("an event"), time.as_str().expect("a time"));
        assert!(text.starts_with(&format!("{time} {event}")), "{text} is not {line}");
        assert!(logfmt.starts_with(&format!("event={event} time={time} ")), "{logfmt}");
        let peer = format!(" peer_port={} ", line["peer_port"]);
        assert!(logfmt.contains(&peer), "{logfmt} is not {line}");
        assert_eq!(logfmt.split(' ').count(), line.as_object().expect("an object").len());
    }

    // The log has the same connections, with the same values.
    let closed: Vec<&Value> = told.iter().filter(|line| line["event"] == "closed").collect();
    assert_eq!(closed.len(), CONNECTIONS);
    let wanted: BTreeSet<String> = closed.iter().map(|line| key(line)).collect();
    let logged = || -> Vec<Value> {
        let lines = daemon.log();
        lines.lines().map(json).filter(|line| line["target"] == "connection").collect()
    };
    let lines = poll(PATIENCE, || {
        let logged = logged();
        let keys: BTreeSet<String> = logged.iter().map(|line| key(&line["fields"])).collect();
        keys.is_superset(&wanted).then_some(logged)
    });
    let lines = lines.unwrap_or_else(|| panic!("{wanted:?} are not among {:#?}", logged()));
    judge(&lines);
    for line in closed {
        let logged = lines.iter().find(|logged| key(&logged["fields"]) == key(line));
        let mut fields = logged.expect("found above")["fields"].clone();
        let fields = fields.as_object_mut().expect("an object");
        assert_eq!(fields.remove("message"), Some("closed".into()));
        fields.insert("event".to_owned(), "closed".into());
        assert_eq!(Value::from(fields.clone()), *line);
    }
}

/// As `head` does: the reader has seen enough.
#[test]
fn a_closed_pipe_ends_it_quietly() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("observer.sock");
    let _daemon = Daemon::start(&["--socket", socket.to_str().expect("a plain path")]);
    let (pod, clients) = (Pod::new(), Pod::new());
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    for form in ["json", "text", "logfmt"] {
        let mut command = Command::new(daemon::executable());
        command.args(["tail", "--output", form, "--socket"]).arg(&socket).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut tail = Process::new(child.expect("the program runs"), form);
        let mut stderr = BufReader::new(tail.take_stderr());
        let mut said = String::new();
        stderr.read_line(&mut said).expect("it says something");
        assert!(said.contains("following"), "{said}");
        drop(tail.take_stdout());
        let drive = Drive { short: 5, long: 1, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &clients.cgroup, None);
        driver.ready();
        driver.reset();
        let status = tail.wait(PATIENCE);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("text");
        assert!(status.success() && rest.is_empty(), "{form}: {status}: {rest}");
    }
}
