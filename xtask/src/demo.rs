//! `cargo xtask run --demo`: something to look at.
//!
//! Four cgroups shaped like pods, with names from a stand-in for the API server: a WebSocket server
//! and its clients, a gRPC server and its clients. The clients connect, talk, leave and reset all the time, and a table read from the
//! daemon's own `/metrics` shows what it makes of that. At the end all that was started is
//! stopped and the cgroups are removed.

pub(crate) mod api;
mod clients;
pub(crate) mod metrics;
mod pictures;
pub(crate) mod pods;
mod table;
pub(crate) mod workload;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IsTerminal as _, stdout};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use api::Api;
use clap::Args;
use clients::Clients;
use pods::{Pod, Pods};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use workload::Workload;

use crate::cmd;

/// Where the demo's daemon serves its metrics.
const LISTEN: &str = "127.0.0.1:9435";

/// How long the daemon may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who serves what to whom.
const SERVICES: &[Service] = &[
    Service { server: "chat-0", clients: "browsers-0", protocol: "ws", held: 12, passing: 30 },
    Service { server: "quotes-0", clients: "traders-0", protocol: "grpc", held: 5, passing: 10 },
];

/// A server pod and the pod of its clients.
struct Service {
    server: &'static str,
    clients: &'static str,
    /// As the workload calls it.
    protocol: &'static str,
    /// Connections that a group of clients keeps for a while.
    held: u32,
    /// Connections that it opens, uses once and closes.
    passing: u32,
}

/// What the demo is told on its command line.
#[derive(Args)]
pub(crate) struct Options {
    /// The directory of the programs: `observer`, `examples/workload`
    #[arg(long)]
    pub(crate) programs: PathBuf,
    /// End after this many seconds instead of at Ctrl-C
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Take the documents' pictures into this directory after a while, and end
    #[arg(long)]
    pub(crate) pictures: Option<PathBuf>,
    /// More arguments for `observer run`
    #[arg(last = true)]
    pub(crate) args: Vec<OsString>,
}

impl Options {
    /// The command line that gives these options.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut line = vec!["--programs".into(), self.programs.clone().into()];
        if let Some(seconds) = self.seconds {
            line.extend(["--seconds".into(), seconds.to_string().into()]);
        }
        if let Some(directory) = &self.pictures {
            line.extend(["--pictures".into(), directory.clone().into()]);
        }
        line.push("--".into());
        line.extend(self.args.iter().cloned());
        line
    }
}

/// Runs the demo, as root.
pub(crate) fn run(options: &Options) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }

    // Values are dropped in the reverse order: clients, servers, daemon, cgroups.
    let cgroups = Pods::new("observer-demo")?;
    let names = SERVICES.iter().flat_map(|service| [service.server, service.clients]);
    let pods: Vec<Pod> = names.map(|name| cgroups.create(name)).collect::<Result<_>>()?;
    let api = Api::serve(&pods)?;
    let mut observer = Observer::start(options, &api)?;
    println!("metrics: http://{LISTEN}/metrics");
    println!("log of the daemon: {}", observer.log_path.display());
    let workload = options.programs.join("examples/workload");
    let mut servers = Vec::new();
    let mut clients = Vec::new();
    for (service, [server_pod, clients_pod]) in SERVICES.iter().zip(pods.as_chunks().0) {
        let log = observer.log()?;
        let mut serve = server_pod.command(&workload);
        serve.args(["serve", "--protocol", service.protocol, "--listen", "127.0.0.1:0"]);
        let (server, ready) = Workload::start(&mut serve, &log)?;
        let address =
            ready["ready"].as_str().context("the server does not say where it listens")?;
        clients.push(Clients::start(service, clients_pod.command(&workload), address, log));
        servers.push(server);
    }

    let seconds = options.seconds.map(Duration::from_secs);
    let duration = if options.pictures.is_some() { Some(pictures::AFTER) } else { seconds };
    let end = duration.map(|duration| Instant::now() + duration);
    let mut table = table::Table::new(stdout().is_terminal());
    let mut next = Instant::now();
    while !interrupted.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        if Instant::now() >= next {
            next += Duration::from_secs(1);
            observer.still_runs()?;
            table.show(&pods, &metrics::read(LISTEN)?);
        }
        sleep(Duration::from_millis(50));
    }

    if let Some(directory) = &options.pictures {
        let page = format!("http://{LISTEN}/");
        pictures::take(&options.programs.join("observer"), &page, directory)?;
    }
    println!("stopping");
    clients.iter_mut().try_for_each(Clients::stop)?;
    drop(servers);
    observer.stop()
}

/// The daemon of the demo.
struct Observer {
    child: Child,
    log_path: PathBuf,
}

impl Observer {
    /// Starts the daemon and waits until it is ready.
    fn start(options: &Options, api: &Api) -> Result<Self> {
        let log_path = options.programs.join("observer-demo.log");
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let log = append_to(&log_path)?;
        let mut command = cmd::command(options.programs.join("observer"));
        command.args(["run", "--listen", LISTEN, "--node-name", api::NODE, "--kube"]);
        command.arg(api.kubeconfig()).args(&options.args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut observer = Self { child: start(&mut command)?, log_path };
        let deadline = Instant::now() + PATIENCE;
        while !metrics::is_ready(LISTEN) {
            observer.still_runs()?;
            ensure!(Instant::now() < deadline, "observer is not ready after {PATIENCE:?}");
            sleep(Duration::from_millis(50));
        }
        Ok(observer)
    }

    /// The daemon's log, to add to.
    fn log(&self) -> Result<File> {
        append_to(&self.log_path)
    }

    /// An error with the end of the log, should the daemon have ended.
    fn still_runs(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log_path).unwrap_or_default();
        let last = log.trim_end().rsplit('\n').next().unwrap_or_default();
        bail!("observer ended with {status}: {last}")
    }

    /// Ends the daemon the way a service manager would; it must not mind.
    fn stop(mut self) -> Result<()> {
        let well = terminate(&mut self.child)?;
        ensure!(well, "observer ended badly, see {}", self.log_path.display());
        Ok(())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = terminate(&mut self.child);
    }
}

/// Opens a file that several processes write to.
fn append_to(path: &Path) -> Result<File> {
    Ok(File::options().append(true).open(path)?)
}

/// Starts a program that a Ctrl-C on our terminal does not reach: the demo ends in order.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    let name = command.get_program().to_owned();
    let child = command.process_group(0).spawn();
    child.with_context(|| format!("starting {}", name.display()))
}

/// Asks a child to end, insists after a while, and tells whether it ended well. A child that has
/// ended before is only reported.
pub(crate) fn terminate(child: &mut Child) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    if child.try_wait()?.is_none() {
        let pid = Pid::from_raw(child.id().try_into()?).context("a child has a process id")?;
        kill_process(pid, Signal::TERM)?;
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() > deadline {
            child.kill()?;
        }
        sleep(Duration::from_millis(20));
    }
}
