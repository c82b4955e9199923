//! The loads, and the servers behind them: nginx for HTTP, the project's own workload for
//! WebSocket.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tempfile::TempDir;

use super::Bench;
use crate::demo::{self, workload::Workload};
use crate::{cmd, demo::metrics};

/// A file system in memory: the disk is not what is measured.
const MEMORY: &str = "/dev/shm";

/// Bytes of the file of the bulk load.
const BULK: usize = 256 << 20;

/// Connections of every load but the bulk one.
const CONNECTIONS: u32 = 16;

/// The unit of `/proc/<pid>/stat`, the same on every architecture that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// Tiny responses on kept-alive HTTP/1.1 connections.
    KeepAlive,
    /// Small text messages and their echoes.
    WebSocket,
    /// One tiny response per connection.
    Short,
    /// A large file, over and over.
    Bulk,
}

impl Load {
    pub(super) const ALL: [Self; 4] = [Self::KeepAlive, Self::WebSocket, Self::Short, Self::Bulk];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1 keep-alive",
            Self::WebSocket => "WebSocket echo",
            Self::Short => "short connections",
            Self::Bulk => "bulk transfer",
        }
    }

    /// What one operation is.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::KeepAlive => "request",
            Self::WebSocket => "round trip",
            Self::Short => "connection",
            Self::Bulk => "GiB",
        }
    }
}

/// What a run of a load came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Operations that were done.
    pub(super) operations: f64,
    /// How long that took.
    pub(super) elapsed: Duration,
    /// Processor time of client and server together, in ticks: what other people do on the
    /// machine is not in it.
    pub(super) ticks: u64,
    /// That of the process that watched, if one did.
    pub(super) watcher_ticks: u64,
    /// Of a hundred operations, how long all but the slowest took, where the load tells.
    pub(super) p99_us: Option<f64>,
}

impl Run {
    /// Operations a second.
    pub(super) fn throughput(&self) -> f64 {
        self.operations / self.elapsed.as_secs_f64()
    }

    /// Operations per tick of processor time.
    pub(super) fn efficiency(&self) -> f64 {
        self.operations / self.ticks.max(1) as f64
    }

    /// What the process that watched used, in percent of a processor.
    pub(super) fn watcher_percent(&self) -> f64 {
        100.0 * self.watcher_ticks as f64 / TICKS_PER_SECOND / self.elapsed.as_secs_f64()
    }
}

/// Operations, how long they took, and the 99th percentile of each in microseconds.
type Done = (f64, Duration, Option<f64>);

/// The servers; they end when this is dropped.
pub(super) struct Servers {
    nginx: Nginx,
    echo: Workload,
    echo_address: String,
    workload: PathBuf,
    /// Messages on each connection, so many that a run takes as long as planned.
    messages: u64,
}

impl Servers {
    pub(super) fn start(bench: &Bench<'_>) -> Result<Self> {
        let workload = bench.programs.join("examples/workload");
        let mut serve = cmd::command(&workload);
        serve.args(["serve", "--protocol", "ws", "--listen", "127.0.0.1:0"]);
        let (echo, ready) = Workload::start(&mut serve, &bench.log)?;
        let echo_address = ready["ready"].as_str().context("no address")?.to_owned();
        let nginx = Nginx::start(&bench.log)?;
        let mut servers = Self { nginx, echo, echo_address, workload, messages: 2_000 };
        // The first one is to warm up.
        for _ in 0..2 {
            let rate = servers.run(Load::WebSocket, bench)?.throughput();
            let planned = rate * bench.plan.run.as_secs_f64() / f64::from(CONNECTIONS);
            servers.messages = planned.max(1.0) as u64;
        }
        Ok(servers)
    }

    /// Runs a load for about as long as the plan wants.
    pub(super) fn run(&mut self, load: Load, bench: &Bench<'_>) -> Result<Run> {
        let server = if load == Load::WebSocket { self.echo.id() } else { self.nginx.child.id() };
        let before = ticks(server)?;
        let (operations, elapsed, p99_us) = match load {
            Load::KeepAlive => self.wrk(bench.plan.run, &[])?,
            Load::Short => self.wrk(bench.plan.run, &["-H", "Connection: close"])?,
            Load::WebSocket => self.echo(&bench.log)?,
            Load::Bulk => self.bulk(bench.plan.run)?,
        };
        let ticks = ticks(server)? - before;
        Ok(Run { operations, elapsed, ticks, watcher_ticks: 0, p99_us })
    }

    fn wrk(&self, time: Duration, more: &[&str]) -> Result<Done> {
        let mut wrk = cmd::command("wrk");
        wrk.args([
            "--latency",
            "-t1",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{}s", time.as_secs()),
        ]);
        wrk.args(more).arg(format!("http://{}/tiny", self.nginx.address));
        let started = Instant::now();
        let said = cmd::output(&mut wrk)?;
        let elapsed = started.elapsed();
        ensure!(!said.contains("Non-2xx"), "wrk got errors: {said}");
        let requests = requests(&said).with_context(|| format!("wrk says: {said}"))?;
        Ok((requests, elapsed, p99(&said)))
    }

    fn echo(&self, log: &File) -> Result<Done> {
        let mut drive = cmd::command(&self.workload);
        let [connections, messages] =
            [u64::from(CONNECTIONS), self.messages].map(|n| n.to_string());
        drive.args(["drive", "--protocol", "ws", "--connect", &self.echo_address]);
        drive.args(["--concurrency", &connections, "--short", &connections]);
        drive.args(["--messages", &messages]);
        let started = Instant::now();
        let (mut driver, books) = Workload::start(&mut drive, log)?;
        let elapsed = started.elapsed();
        ensure!(books["failures"] == 0, "the WebSocket load failed: {books}");
        let answers = books["messages_in"].as_f64().context("the books count messages")?;
        driver.tell("close")?;
        driver.wait()?;
        Ok((answers, elapsed, books["round_trip_us"]["p99"].as_f64()))
    }

    /// Fetches the file again and again, in GiB.
    fn bulk(&self, time: Duration) -> Result<Done> {
        let mut buffer = vec![0; 256 << 10];
        let mut received = 0_usize;
        let started = Instant::now();
        while started.elapsed() < time {
            let mut stream = TcpStream::connect(self.nginx.address)?;
            write!(stream, "GET /bulk HTTP/1.0\r\n\r\n")?;
            let before = received;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    bytes => received += bytes,
                }
            }
            ensure!(received - before > BULK, "nginx sent only {} bytes", received - before);
        }
        Ok((received as f64 / f64::from(1 << 30), started.elapsed(), None))
    }
}

/// An nginx of our own: one process, nothing on disk.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Nginx {
    fn start(log: &File) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("observer-bench").tempdir_in(MEMORY)?;
        let path = directory.path();
        // nginx cannot tell which port it got: take a free one, and hope that it stays free.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::write(path.join("bulk"), vec![0; BULK])?;
        fs::write(path.join("nginx.conf"), configuration(path, address))?;
        let mut nginx = cmd::command("nginx");
        nginx.arg("-e").arg(path.join("error.log")).arg("-p").arg(path);
        nginx.arg("-c").arg(path.join("nginx.conf"));
        nginx.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let mut nginx = Self { child: demo::start(&mut nginx)?, address, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while metrics::get(&address.to_string(), "/tiny").is_err() {
            ensure!(nginx.child.try_wait()?.is_none(), "nginx ended, see bench.log");
            ensure!(Instant::now() < deadline, "nginx does not answer");
            sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = demo::terminate(&mut self.child);
    }
}

fn configuration(directory: &Path, address: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; sendfile on; keepalive_requests 1000000000; lingering_close off;
            client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
            fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
            scgi_temp_path {directory}/e;
            server {{
                listen {address} backlog=4096;
                root {directory};
                location = /tiny {{ return 200 \"ok\"; }}
            }}
        }}"
    )
}

/// The number in wrk's line "  12345 requests in 3.00s, 1.23MB read".
fn requests(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Microseconds in wrk's line "     99%    1.23ms".
fn p99(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("99%"))?.trim();
    let at = line.find(|c: char| c.is_ascii_alphabetic())?;
    let unit = match &line[at..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(line[..at].parse::<f64>().ok()? * unit)
}

/// Processor time of a server and of ourselves with all children that have ended, in ticks.
fn ticks(server: u32) -> Result<u64> {
    Ok(ticks_of(server)? + ticks_in("self", 4)?)
}

/// Processor time of a process.
pub(super) fn ticks_of(process: u32) -> Result<u64> {
    ticks_in(&process.to_string(), 2)
}

fn ticks_in(process: &str, fields: usize) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    spent(&stat, fields).with_context(|| format!("/proc/{process}/stat is {stat:?}"))
}

/// The sum of the first `fields` of utime, stime, cutime and cstime in `/proc/<pid>/stat`.
fn spent(stat: &str, fields: usize) -> Option<u64> {
    // The name of the program is in parentheses and may contain anything; utime is field 14.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let times = after_name.split(' ').skip(11).take(fields);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 300 400 20 0";
        assert_eq!(spent(stat, 2), Some(30));
        assert_eq!(spent(stat, 4), Some(730));
        assert_eq!(spent("nonsense", 2), None);
    }

    #[test]
    fn wrk_tells_the_percentile() {
        let said =
            |time: &str| format!("  Latency Distribution\n     50%   70.00us\n     99%  {time}\n");
        assert_eq!(p99(&said("214.00us")), Some(214.0));
        assert_eq!(p99(&said("1.50ms")), Some(1_500.0));
        assert_eq!(p99(&said("many")), None);
        assert_eq!(p99("unable to connect"), None);
    }

    #[test]
    fn wrk_tells_how_many_requests_it_made() {
        let said = "  1 threads and 16 connections\n  92113 requests in 1.00s, 12.65MB read\n";
        assert_eq!(requests(said), Some(92_113.0));
        assert_eq!(requests("unable to connect"), None);
    }
}
