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
    /// Size of a scrape.
    pub(super) bytes: usize,
    /// Resident memory after the scrapes, and the part of it that is not files or shared.
    pub(super) resident_kib: u64,
    pub(super) anonymous_kib: u64,
    /// From the request until the last byte.
    pub(super) scrape_ms: Spread,
}

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
    let mut times = Vec::new();
    // Taken apart once, afterwards: a scraper's own work and memory are not what is measured.
    let mut answer = Vec::new();
    let text = metrics::get(watcher.address(), "/metrics")?;
    for _ in 0..bench.plan.scrapes {
        answer.clear();
        let started = Instant::now();
        metrics::fetch(watcher.address(), "/metrics", &mut answer)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.len() > text.len() / 2, "a scrape was cut short");
    }
    let missing = pods.iter().filter(|pod| !text.contains(&pod.uid)).count();
    ensure!(missing == 0, "{missing} of {} pods are not in the scrape", pods.len());
    Ok(PodsRow {
        pods: pods.len(),
        series: text.lines().filter(|line| !line.starts_with('#')).count(),
        bytes: text.len(),
        resident_kib: resident_kib(watcher.id())?,
        anonymous_kib: memory(watcher.id(), "RssAnon:")?,
        scrape_ms: Spread::of(times).context("nothing was scraped")?,
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
