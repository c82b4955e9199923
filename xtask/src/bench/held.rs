//! Memory of the daemon and of the kernel with very many connections open.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::Bench;
use super::pods;
use super::watcher::{Kind, Watcher};
use crate::cmd;
use crate::demo::metrics;
use crate::demo::workload::Workload;

/// Connections of each pair of processes: fewer than half of the ports that a client has for one server.
const EACH: usize = 10_000;
/// Pairs of processes.
const PAIRS: usize = 10;
/// How long it may take until the daemon shows all of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon while connections are held, each with both ends on this machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Held {
    pub(super) connections: usize,
    /// Resident memory after a scrape.
    pub(super) resident_kib: u64,
    /// What the kernel gives back for each socket when the programs and their maps go, in bytes; each connection has
    /// two sockets here.
    pub(super) kernel_bytes_per_socket: f64,
    /// What a reconciliation of their sockets takes; none where the kernel refuses reconciliations.
    pub(super) reconciliation_ms: Option<f64>,
}

/// How long two reconciliations may take to come: after each there is none for a hundred times as long as it took.
const RECONCILED_WITHIN: Duration = Duration::from_mins(2);

/// How long the kernel may take to give all memory back.
const FREED: Duration = Duration::from_secs(15);
/// How long its memory must not have shrunk by more than [`STEADY_KIB`] until all is taken for given back.
const STEADY: Duration = Duration::from_secs(2);
const STEADY_KIB: u64 = 256;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Held> {
    let connections = PAIRS * EACH;
    cmd::say("*", &format!("the daemon with {connections} connections"));
    let workload = bench.programs.join("examples/workload");
    let watcher = Watcher::start(Kind::Observer, bench)?;
    let mut processes = Vec::new();
    for pair in 0..PAIRS {
        bench.interrupted.check()?;
        let address = format!("127.0.0.{}", pair + 2);
        let mut serve = cmd::command(&workload);
        serve.args(["serve", "--protocol", "tcp", "--listen", &format!("{address}:0")]);
        let (server, ready) = Workload::start(&mut serve, &bench.log)?;
        let listening = ready["ready"].as_str().context("no address")?.to_owned();
        let mut drive = cmd::command(&workload);
        drive.args(["drive", "--protocol", "tcp", "--connect", &listening]);
        drive.args(["--short", "0", "--long", &EACH.to_string(), "--concurrency", "32"]);
        let (client, books) = Workload::start(&mut drive, &bench.log)?;
        ensure!(books["active"] == EACH, "the load failed: {books}");
        // The client first: it leaves in order.
        processes.push((client, server));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let samples = metrics::read(watcher.address())?;
        let open = samples.iter().filter(|sample| {
            sample.name == "tcp_connections_active" && sample.label("role") == "server"
        });
        let counted: f64 = open.map(|sample| sample.value).sum();
        // Whoever else has connections on this machine is counted, too.
        if counted >= connections as f64 {
            break;
        }
        ensure!(Instant::now() < deadline, "{counted} of {connections} are counted");
    }
    let reconciliation_ms = reconciliation_ms(watcher.address())?;
    let resident_kib = pods::resident_kib(watcher.id())?;
    let before = slab_kib()?;
    watcher.stop()?;
    let freed = before.saturating_sub(settled_slab_kib()?);
    drop(processes);
    let kernel_bytes_per_socket = freed as f64 * 1024.0 / (2 * connections) as f64;
    Ok(Held { connections, resident_kib, kernel_bytes_per_socket, reconciliation_ms })
}

/// How long the next reconciliation takes that begins now or later.
fn reconciliation_ms(address: &str) -> Result<Option<f64>> {
    // Number and seconds of all so far.
    let taken = || -> Result<Option<(f64, f64)>> {
        let samples = metrics::read(address)?;
        let value = |name: &str| {
            samples.iter().find(|sample| sample.name == name).map(|sample| sample.value)
        };
        Ok(value("observer_reconciliations_total")
            .zip(value("observer_reconciliation_seconds_total")))
    };
    let deadline = Instant::now() + RECONCILED_WITHIN;
    let next = |number: f64| -> Result<(f64, f64)> {
        loop {
            match taken()? {
                Some(now) if now.0 > number => return Ok(now),
                _ => {
                    ensure!(
                        Instant::now() < deadline,
                        "no reconciliation within {RECONCILED_WITHIN:?}"
                    );
                }
            }
            sleep(Duration::from_millis(200));
        }
    };
    let Some((number, _)) = taken()? else { return Ok(None) };
    // One may be under way that began before all were there.
    let (number, seconds) = next(number)?;
    let (later, in_all) = next(number)?;
    Ok(Some((in_all - seconds) * 1e3 / (later - number)))
}

/// Memory of the kernel's small objects once it shrinks no more: the state of sockets is freed after a grace period.
fn settled_slab_kib() -> Result<u64> {
    let deadline = Instant::now() + FREED;
    let (mut lowest, mut since) = (slab_kib()?, Instant::now());
    while since.elapsed() < STEADY && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
        let now = slab_kib()?;
        if now + STEADY_KIB < lowest {
            (lowest, since) = (now, Instant::now());
        }
    }
    Ok(lowest)
}

/// Memory of the kernel's small objects, which the state of sockets is among.
fn slab_kib() -> Result<u64> {
    pods::kib(&fs::read_to_string("/proc/meminfo")?, "SUnreclaim:")
        .context("/proc/meminfo tells the kernel's memory")
}
