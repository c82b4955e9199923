//! How many series an ordinary pod costs a Prometheus, at each level of detail and in each format.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use flate2::read::GzDecoder;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use prost::Message as _;
use support::{
    daemon::Daemon,
    http,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{CLASSIC, Expected, Metrics},
    pod::Pod,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(20);
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A pod that serves WebSocket and HTTP, and is a client of three others, one of which speaks a protocol that is known.
struct Ordinary {
    pod: Pod,
    _others: Vec<Pod>,
    drivers: Vec<Driver>,
    servers: Vec<Server>,
}

impl Ordinary {
    fn start() -> Self {
        let pod = Pod::new();
        let (mut others, mut drivers, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        let offers = [(Protocol::Ws, true), (Protocol::Http1, true)];
        let asks = [Protocol::Tcp, Protocol::Tcp, Protocol::Grpc].map(|protocol| (protocol, false));
        for (protocol, is_served) in offers.into_iter().chain(asks) {
            let other = Pod::new();
            let (at, from) = if is_served { (&pod, &other) } else { (&other, &pod) };
            let server = Server::start(protocol, ([127, 0, 0, 1], 0).into(), &at.cgroup, None);
            let drive = Drive { short: 5, long: 2, ..Drive::new(protocol, server.addr) };
            let mut driver = Driver::start(&drive, &from.cgroup, None);
            assert_eq!(driver.ready().failures, 0);
            drivers.push(driver);
            servers.push(server);
            others.push(other);
        }
        Self { pod, _others: others, drivers, servers }
    }

    /// Ends the connections; the pods stay.
    fn finish(&mut self) {
        for driver in self.drivers.drain(..) {
            assert_eq!(driver.close().failures, 0);
        }
        for server in self.servers.drain(..) {
            server.stop();
        }
    }

    fn settled(&self, daemon: &Daemon) {
        let pod = [("pod", self.pod.name.as_str())];
        daemon.wait_for(
            PATIENCE,
            &[
                Expected::sum("tcp_connections_opened_total", &pod, 5 * 7),
                Expected::sum("tcp_connections_active", &pod, 5 * 2),
            ],
        );
    }
}

fn lines_of(metrics: &Metrics, pod: &Pod) -> usize {
    let of_pod = |sample: &&support::metrics::Sample| sample.labels.get("pod") == Some(&pod.name);
    metrics.samples.iter().filter(of_pod).count()
}

/// How many series of each name a pod has.
fn families<'a>(metrics: &'a Metrics, pod: &Pod) -> BTreeMap<&'a str, usize> {
    let mut families = BTreeMap::new();
    for sample in metrics.samples.iter().filter(|s| s.labels.get("pod") == Some(&pod.name)) {
        *families.entry(sample.name.as_str()).or_default() += 1;
    }
    families
}

/// The families that the daemon serves as protobuf.
fn protobuf(daemon: &Daemon) -> Vec<MetricFamily> {
    let (head, bytes) =
        http::get_bytes(daemon.address(), "/metrics", &[("Accept", PROTOBUF)]).expect("it answers");
    assert!(head.contains(PROTOBUF), "{head}");
    let (mut families, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).expect("a family"));
    }
    families
}

#[test]
fn an_ordinary_pod_is_affordable() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let mut figures = Vec::new();
    for (detail, most) in [("core", 30), ("standard", 120), ("full", usize::MAX)] {
        let daemon = Daemon::start(&["--detail", detail]);
        let mut ordinary = Ordinary::start();
        ordinary.settled(&daemon);
        let text = lines_of(&daemon.scrape(), &ordinary.pod);
        let pod = &ordinary.pod.name;
        let metrics = protobuf(&daemon).into_iter().flat_map(|family| family.metric);
        let native = metrics
            .filter(|metric| metric.label.iter().any(|l| l.name == "pod" && l.value == *pod))
            .count();
        println!("{detail}: {text} series in text, {native} with native histograms");
        println!("  {:?}", families(&daemon.scrape(), &ordinary.pod));
        figures.push((detail, text, native));
        assert!(text <= most, "{detail}: {text}");
        ordinary.finish();
        daemon.stop();
    }
    let [(_, core, _), (_, standard, native), (_, full, _)] = figures[..] else { unreachable!() };
    assert!(native <= 60, "{figures:?}");
    assert!(core < standard && standard < full, "{figures:?}");
    before.assert_same();
}

#[test]
fn all_formats_tell_the_same() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let mut ordinary = Ordinary::start();
    ordinary.settled(&daemon);
    let started = std::time::SystemTime::now();

    // Packed and not: byte for byte the same families of the pod, whose connections rest.
    let of_pod = |text: &str| -> Vec<String> {
        let mine = text.lines().filter(|line| line.contains(&ordinary.pod.name));
        mine.map(str::to_owned).collect()
    };
    let plain = http::get(daemon.address(), "/metrics", Some(CLASSIC)).expect("it answers").body;
    let asked = [("Accept", CLASSIC), ("Accept-Encoding", "gzip")];
    let (head, packed) = http::get_bytes(daemon.address(), "/metrics", &asked).expect("it answers");
    assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(of_pod(&plain), of_pod(&text));
    assert!(packed.len() * 5 < text.len(), "{} of {}", packed.len(), text.len());

    // Protobuf has the same values, and each counter says when it began.
    let classic = Metrics::parse(&plain).expect("classic text");
    let mut counters = 0;
    for family in protobuf(&daemon) {
        for metric in &family.metric {
            let labels: Vec<_> =
                metric.label.iter().map(|l| (l.name.as_str(), l.value.as_str())).collect();
            if !labels.contains(&("pod", ordinary.pod.name.as_str())) {
                continue;
            }
            let start = match (&metric.counter, &metric.histogram) {
                (Some(counter), _) => {
                    let text = classic.value(&family.name, &labels);
                    assert!((counter.value - text).abs() < 0.5, "{} {labels:?}", family.name);
                    counter.start_timestamp.as_ref()
                }
                (None, Some(histogram)) => {
                    let count = format!("{}_count", family.name);
                    let text = classic.value(&count, &labels);
                    assert_eq!(histogram.sample_count, text as u64, "{} {labels:?}", family.name);
                    histogram.start_timestamp.as_ref()
                }
                (None, None) => continue,
            };
            let start = start.unwrap_or_else(|| panic!("{} does not say when", family.name));
            let age = started.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
                - start.seconds.unsigned_abs();
            assert!(age < 120, "{} began {age} s ago", family.name);
            counters += 1;
        }
    }
    assert!(counters > 50, "{counters}");
    ordinary.finish();
    daemon.stop();
}
