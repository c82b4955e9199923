//! Series and bytes of typical pods, at each level of detail.
//!
//! The pods have names, from the demo's stand-in for an API server, so that an idle one has its zeros.

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::Bench;
use super::watcher::{Kind, Watcher};
use crate::cmd;
use crate::demo::api::{Api, NODE};
use crate::demo::metrics;
use crate::demo::pods::{Pod, Pods};
use crate::demo::workload::Workload;

/// Levels, from the smallest on.
const LEVELS: [&str; 3] = ["core", "standard", "full"];

/// The pods whose series are counted.
const SHAPES: [Shape; 4] = [
    Shape {
        name: "ordinary-0",
        what: "serves WebSocket and HTTP/1, client of three",
        serves: &["ws", "http1"],
        asks: &["tcp", "tcp", "grpc"],
    },
    Shape { name: "chat-0", what: "serves WebSocket", serves: &["ws"], asks: &[] },
    Shape {
        name: "ingress-0",
        what: "serves WebSocket and HTTP/1, client of four of each",
        serves: &["ws", "http1"],
        asks: &["ws", "ws", "ws", "ws", "http1", "http1", "http1", "http1"],
    },
    Shape { name: "idle-0", what: "idle", serves: &[], asks: &[] },
];

/// Where everybody else is.
const OTHERS: &str = "others-0";

/// A pod, by what it speaks with whom.
struct Shape {
    name: &'static str,
    what: &'static str,
    serves: &'static [&'static str],
    asks: &'static [&'static str],
}

/// What a pod costs at a level.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DetailRow {
    pub(super) pod: &'static str,
    pub(super) what: &'static str,
    pub(super) level: &'static str,
    /// Lines in text.
    pub(super) series: usize,
    /// Series where a histogram by powers of two is one.
    pub(super) native: usize,
    /// Size of the lines.
    pub(super) bytes: usize,
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<DetailRow>> {
    let mut rows = Vec::new();
    for level in LEVELS {
        cmd::say("*", &format!("series of typical pods at the level {level}"));
        bench.interrupted.check()?;
        rows.extend(measure_at(level, bench)?);
    }
    Ok(rows)
}

fn measure_at(level: &'static str, bench: &Bench<'_>) -> Result<Vec<DetailRow>> {
    let cgroups = Pods::new("observer-bench")?;
    let names = SHAPES.iter().map(|shape| shape.name).chain([OTHERS]);
    let pods: Vec<Pod> = names.map(|name| cgroups.create(name)).collect::<Result<_>>()?;
    let (others, of_shapes) = pods.split_last().context("there are pods")?;
    let api = Api::serve(&pods)?;
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().context("a path of plain characters")?;
    let args = ["--detail", level, "--node-name", NODE, "--kube", kubeconfig];
    let watcher = Watcher::start_with(Kind::Observer, bench, &args)?;
    let mut running = Vec::new();
    for (shape, pod) in SHAPES.iter().zip(of_shapes) {
        let served = shape.serves.iter().map(|protocol| (*protocol, pod, others));
        let asked = shape.asks.iter().map(|protocol| (*protocol, others, pod));
        for (protocol, server, client) in served.chain(asked) {
            running.push(talk(bench, protocol, server, client)?);
        }
    }
    let text = metrics::get(watcher.address(), "/metrics")?;
    let rows = SHAPES.iter().map(|shape| row(shape, level, &text)).collect::<Result<_>>();
    drop(running);
    watcher.stop()?;
    rows
}

/// Some connections that come and go, and some that stay.
fn talk(
    bench: &Bench<'_>,
    protocol: &str,
    server: &Pod,
    client: &Pod,
) -> Result<(Workload, Workload)> {
    let workload = bench.programs.join("examples/workload");
    let mut serve = server.command(&workload);
    serve.args(["serve", "--protocol", protocol, "--listen", "127.0.0.1:0"]);
    let (server, ready) = Workload::start(&mut serve, &bench.log)?;
    let address = ready["ready"].as_str().context("no address")?;
    let mut drive = client.command(&workload);
    drive.args(["drive", "--protocol", protocol, "--connect", address]);
    drive.args(["--short", "5", "--long", "2"]);
    let (client, _) = Workload::start(&mut drive, &bench.log)?;
    Ok((client, server))
}

fn row(shape: &Shape, level: &'static str, text: &str) -> Result<DetailRow> {
    let label = format!("pod=\"{}\"", shape.name);
    let mine = text.lines().filter(|line| line.contains(&label));
    let (mut series, mut native, mut bytes) = (0, 0, 0);
    for line in mine {
        series += 1;
        bytes += line.len() + 1;
        // Of a histogram the bucket without a bound stands for all.
        let is_part = line.contains("_bucket{") && !line.contains("le=\"+Inf\"");
        let name = line.split('{').next().unwrap_or_default();
        native += usize::from(!is_part && !name.ends_with("_sum") && !name.ends_with("_count"));
    }
    ensure!(series > 0, "{} has no series", shape.name);
    Ok(DetailRow { pod: shape.name, what: shape.what, level, series, native, bytes })
}

/// How many series a pod may have at a level: in text, and with native histograms.
pub(super) fn target(row: &DetailRow) -> (Option<usize>, Option<usize>) {
    match (row.pod, row.level) {
        ("ordinary-0", "core") => (Some(30), None),
        ("ordinary-0", "standard") => (Some(120), Some(60)),
        ("idle-0", "core" | "standard") => (Some(6), None),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_histogram_is_one_series() {
        let text = "a_total{pod=\"idle-0\"} 1\nb_bucket{pod=\"idle-0\",le=\"1.0\"} 1\n\
                    b_bucket{pod=\"idle-0\",le=\"+Inf\"} 1\nb_sum{pod=\"idle-0\"} 1\n\
                    b_count{pod=\"idle-0\"} 1\na_total{pod=\"other\"} 1\n";
        let row = row(&SHAPES[3], "core", text).unwrap();
        assert_eq!((row.series, row.native), (5, 2));
        assert_eq!(row.bytes, text.len() - "a_total{pod=\"other\"} 1\n".len());
        assert_eq!(target(&row), (Some(6), None));
    }
}
