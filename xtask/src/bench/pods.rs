//! Memory and scrape time of the daemon with many pods.
//!
//! Each pod is a cgroup shaped like a kubelet's in which a client talks HTTP/1.1 to one server and
//! WebSocket to another, and ends; what was counted for it stays as long as the cgroup.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::Bench;
use super::watcher::{Kind, Watcher};
use crate::cmd;
use crate::demo::metrics;
use crate::demo::pods::{Pod, Pods};
use crate::demo::workload::Workload;
use crate::spread::Spread;

/// Numbers of pods, growing.
const PODS: [usize; 3] = [10, 100, 500];

/// The daemon with a number of pods.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PodsRow {
    pub(super) pods: usize,
    /// Samples in a scrape.
    pub(super) series: usize,
    /// Scrapes in each format, that of old tools first.
    pub(super) scrapes: Vec<Scrapes>,
    /// Resident memory before the scrapes, and the most that it was during them.
    pub(super) resident_kib: u64,
    pub(super) peak_kib: u64,
}

/// Scrapes in one format.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scrapes {
    pub(super) format: &'static str,
    /// Size of the answer.
    pub(super) bytes: usize,
    /// From the request until the last byte.
    pub(super) ms: Spread,
}

/// What scrapers ask for.
const FORMATS: [(&str, &str); 3] = [
    ("text", ""),
    ("OpenMetrics, gzip", "Accept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n"),
    (
        "protobuf, gzip",
        "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n\
         Accept-Encoding: gzip\r\n",
    ),
];

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<PodsRow>> {
    let parent = Pods::new("observer-bench")?;
    let workload = bench.programs.join("examples/workload");
    let watcher = Watcher::start(Kind::Observer, bench)?;
    let mut servers = Vec::new();
    for protocol in ["http1", "ws"] {
        let pod = parent.create("servers")?;
        let mut serve = pod.command(&workload);
        serve.args(["serve", "--protocol", protocol, "--listen", "127.0.0.1:0"]);
        let (server, ready) = Workload::start(&mut serve, &bench.log)?;
        let address = ready["ready"].as_str().context("no address")?.to_owned();
        servers.push((protocol, address, server));
    }
    let mut pods: Vec<Pod> = Vec::new();
    let mut rows = Vec::new();
    for count in PODS {
        cmd::say("*", &format!("the daemon with {count} pods"));
        while pods.len() < count {
            bench.interrupted.check()?;
            let pod = parent.create("client")?;
            for (protocol, address, _) in &servers {
                let mut drive = pod.command(&workload);
                drive.args(["drive", "--protocol", protocol, "--connect", address]);
                drive.args(["--short", "2", "--messages", "2"]);
                let (mut client, _) = Workload::start(&mut drive, &bench.log)?;
                client.tell("close")?;
                client.wait()?;
            }
            pods.push(pod);
        }
        rows.push(row(bench, &watcher, &pods)?);
    }
    watcher.stop()?;
    Ok(rows)
}

fn row(bench: &Bench<'_>, watcher: &Watcher, pods: &[Pod]) -> Result<PodsRow> {
    // Taken apart once: a scraper's own work and memory are not what is measured.
    let text = metrics::get(watcher.address(), "/metrics")?;
    let resident_kib = resident_kib(watcher.id())?;
    // From here on the most is that of the scrapes.
    fs::write(format!("/proc/{}/clear_refs", watcher.id()), "5")?;
    let scrapes = FORMATS.iter().map(|(format, lines)| {
        let (mut times, mut bytes, mut answer) = (Vec::new(), 0, Vec::new());
        for _ in 0..bench.plan.scrapes {
            answer.clear();
            let started = Instant::now();
            metrics::fetch_as(watcher.address(), "/metrics", lines, &mut answer)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            ensure!(answer.len() > bytes / 2, "a scrape was cut short");
            bytes = answer.len();
        }
        Ok(Scrapes { format, bytes, ms: Spread::of(times).context("nothing was scraped")? })
    });
    let scrapes = scrapes.collect::<Result<_>>()?;
    let missing = pods.iter().filter(|pod| !text.contains(&pod.uid)).count();
    ensure!(missing == 0, "{missing} of {} pods are not in the scrape", pods.len());
    Ok(PodsRow {
        pods: pods.len(),
        series: text.lines().filter(|line| !line.starts_with('#')).count(),
        scrapes,
        resident_kib,
        peak_kib: memory(watcher.id(), "VmHWM:")?,
    })
}

/// Resident memory of a process.
pub(super) fn resident_kib(process: u32) -> Result<u64> {
    memory(process, "VmRSS:")
}

fn memory(process: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    kib(&status, field).context("/proc tells a process's memory")
}

/// A field of `/proc/<pid>/status` or `/proc/meminfo` in KiB.
pub(super) fn kib(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::kib;

    #[test]
    fn memory_is_in_kib() {
        let status = "VmRSS:\t    5120 kB\nRssAnon:\t     640 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(5120));
        assert_eq!(kib(status, "VmHWM:"), None);
    }
}
