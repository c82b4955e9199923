//! Memory of the daemon with very many connections open.

use std::time::Duration;

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
}

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
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let text = metrics::get(watcher.address(), "/metrics")?;
        let open = |line: &str| {
            line.starts_with("tcp_connections_active{") && line.contains("role=\"server\"")
        };
        let values =
            text.lines().filter(|line| open(line)).filter_map(|line| line.rsplit_once(' '));
        let counted: usize = values.filter_map(|(_, value)| value.parse::<usize>().ok()).sum();
        // Whoever else has connections on this machine is counted, too.
        if counted >= connections {
            break;
        }
        ensure!(std::time::Instant::now() < deadline, "{counted} of {connections} are counted");
    }
    let resident_kib = pods::resident_kib(watcher.id())?;
    watcher.stop()?;
    Ok(Held { connections, resident_kib })
}
