//! A real Prometheus with the configuration of `deploy/`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{daemon::Daemon, http, poll::poll, process::Process, tools};

/// How long it may take to start, and to have scraped what a test waits for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Instead of the shipped intervals, for which a test would have to wait.
const INTERVAL: &str = "2s";

/// A file of `deploy/components/prometheus`.
pub(crate) fn shipped(name: &str) -> PathBuf {
    tools::checkout().join("deploy/components/prometheus").join(name)
}

/// An agent as the API server would describe its pod.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    /// Its node.
    pub(crate) node: String,
    /// Where it serves the workloads' metrics.
    pub(crate) workloads: SocketAddr,
    /// Where it serves its own.
    pub(crate) own: SocketAddr,
}

impl Agent {
    /// A daemon that serves its own metrics apart, on a node of this name.
    pub(crate) fn of(daemon: &Daemon, node: &str) -> Self {
        let own = daemon.self_address().expect("it was given an address for them");
        Self { node: node.to_owned(), workloads: daemon.address(), own }
    }

    /// What Prometheus would discover: a target for each port of the pod.
    fn targets(&self) -> Vec<Value> {
        let ports = [("metrics", self.workloads), ("self-metrics", self.own)];
        let target = |(port, address): (&str, SocketAddr)| {
            json!({
                "targets": [address.to_string()],
                "labels": {
                    "__meta_kubernetes_namespace": "observer",
                    "__meta_kubernetes_pod_name": format!("observer-{}", self.node),
                    "__meta_kubernetes_pod_container_port_name": port,
                    "__meta_kubernetes_pod_node_name": self.node,
                    "__meta_kubernetes_pod_phase": "Running",
                },
            })
        };
        ports.map(target).into()
    }
}

/// The shipped scrape configuration and rules, with `agents` in place of what the API server would tell: Debian builds
/// Prometheus without its discovery of pods.
pub(crate) fn configuration(agents: &[Agent]) -> Value {
    let text = fs::read_to_string(shipped("scrape.yaml")).expect("it is shipped");
    let mut configuration: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let targets: Vec<_> = agents.iter().flat_map(Agent::targets).collect();
    let jobs = configuration["scrape_configs"].as_array_mut().expect("there are jobs");
    for job in jobs {
        let job = job.as_object_mut().expect("a job is an object");
        job.remove("kubernetes_sd_configs").expect("it discovers pods");
        job.insert("static_configs".to_owned(), json!(targets));
        for interval in ["scrape_interval", "scrape_timeout"] {
            job.insert(interval.to_owned(), json!(INTERVAL));
        }
    }
    configuration["global"] = json!({"evaluation_interval": INTERVAL});
    configuration["rule_files"] = json!([shipped("rules.yaml"), shipped("alerts.yaml")]);
    configuration
}

/// A value of an instant vector.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Sample {
    /// The labels, the name of the metric among them.
    #[serde(rename = "metric")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Time and value.
    value: (f64, String),
}

impl Sample {
    /// The value.
    pub(crate) fn value(&self) -> f64 {
        self.value.1.parse().expect("Prometheus writes numbers as Rust reads them")
    }

    /// Whether the value is this count.
    pub(crate) fn is(&self, count: u64) -> bool {
        self.value.1 == count.to_string()
    }

    /// A label; empty if there is none.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// In which format a newer Prometheus asks for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The classic text, uncompressed.
    Plain,
    /// `OpenMetrics`, compressed.
    OpenMetrics,
    /// Protobuf, compressed; what it tells of the time since when counters count is used.
    Protobuf,
}

impl Format {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::OpenMetrics, Self::Protobuf];

    fn protocol(self) -> &'static str {
        match self {
            Self::Plain => "PrometheusText0.0.4",
            Self::OpenMetrics => "OpenMetricsText1.0.0",
            Self::Protobuf => "PrometheusProto",
        }
    }
}

/// A running Prometheus, killed when dropped.
pub(crate) struct Prometheus {
    _process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts it, and waits until it answers.
    pub(crate) fn start(agents: &[Agent]) -> Self {
        Self::with(agents, &[])
    }

    /// One that asks for protobuf, and keeps native histograms.
    pub(crate) fn start_native(agents: &[Agent]) -> Self {
        Self::with(agents, &["--enable-feature=native-histograms"])
    }

    /// One of a newer version than the distribution's, that asks for this format.
    pub(crate) fn start_latest(agents: &[Agent], format: Format) -> Self {
        let mut configuration = configuration(agents);
        configuration["global"] = json!({
            "evaluation_interval": INTERVAL,
            "scrape_protocols": [format.protocol()],
            "scrape_native_histograms": format == Format::Protobuf,
            "always_scrape_classic_histograms": true,
        });
        if format == Format::Plain {
            for job in configuration["scrape_configs"].as_array_mut().expect("there are jobs") {
                job["enable_compression"] = json!(false);
            }
        }
        let features: &[_] = match format {
            Format::Protobuf => &["--enable-feature=created-timestamp-zero-ingestion"],
            Format::Plain | Format::OpenMetrics => &[],
        };
        Self::of(&tools::program("prometheus-latest"), &configuration, features)
    }

    fn with(agents: &[Agent], options: &[&str]) -> Self {
        Self::of(Path::new("prometheus"), &configuration(agents), options)
    }

    fn of(program: &Path, configuration: &Value, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("it can be written");
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration.to_string()).expect("it can be written");
        let address = free_address();
        let process = spawn(program, &file, &directory.path().join("data"), address, options);
        let prometheus = Self { _process: process, address, _directory: directory };
        let ready = || http::get(address, "/-/ready", None).is_ok_and(|a| a.status == 200);
        poll(PATIENCE, || ready().then_some(())).expect("Prometheus did not start; see its log");
        prometheus
    }

    /// The instant vector that an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Vec<Sample> {
        self.try_query(expression).unwrap_or_else(|error| panic!("{expression}: {error:#}"))
    }

    fn try_query(&self, expression: &str) -> Result<Vec<Sample>> {
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            result: Vec<Sample>,
        }
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let answer = http::get(self.address, &path, None)?;
        ensure!(answer.status == 200, "{}", answer.body);
        let answer: Answer = serde_json::from_str(&answer.body).context("no instant vector")?;
        Ok(answer.data.result)
    }

    /// Asks until the answer is as wanted; panics with the last one if it never is.
    pub(crate) fn wait_until(
        &self,
        expression: &str,
        wanted: impl Fn(&[Sample]) -> bool,
    ) -> Vec<Sample> {
        let mut last = Vec::new();
        poll(PATIENCE, || {
            last = self.query(expression);
            wanted(&last).then(|| last.clone())
        })
        .unwrap_or_else(|| panic!("{expression}: {last:#?}"))
    }

    /// Waits until each of the targets of a job has been scraped.
    pub(crate) fn wait_for_targets(&self, job: &str, targets: usize) {
        let up = format!("up{{job=\"{job}\"}} == 1");
        self.wait_until(&up, |samples| samples.len() == targets);
    }
}

fn spawn(
    program: &Path,
    file: &Path,
    data: &Path,
    address: SocketAddr,
    options: &[&str],
) -> Process {
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={address}"))
        .args(["--log.level=warn"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = command.spawn();
    let child = child.unwrap_or_else(|error| panic!("cannot run Prometheus: {error}"));
    Process::new(child, "Prometheus")
}

/// An address that is free now, and not handed out again soon.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound")
}

/// For a URL, everything but letters and digits as its bytes.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
