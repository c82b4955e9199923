//! `observer run`: from the command line to the last request.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tracing::{info, warn};

use crate::{
    attribute::Names,
    bpf::{self, Options, ProbeState, Probes},
    cli::{KernelLog, RunArgs},
    collect::Collector,
    config::{AddressError, Config},
    exit::Code,
    export::{App, BuildInfo, serve},
    kube, logging, preflight,
    records::Ended,
};

/// How often dead cgroups are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often the kernel's ring buffers are read, when anybody wants what is in them.
const RING_POLL: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from running; see [`Code::of`] for the exit code of each.
pub fn run(args: RunArgs) -> anyhow::Result<Code> {
    let config = Config::try_from(args)?;
    logging::start(config.log_format);
    let source = kube::source(&config.kube)?;
    let listener = bind(config.listen)?;
    preflight::privileges()?;
    preflight::btf()?;
    let (cgroup_root, layout) = preflight::cgroup_root(config.cgroup_root.as_deref())?;
    let kernel = preflight::kernel_release();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node_name,
        %kernel,
        cgroup_root = %cgroup_root.display(),
        cgroup_layout = %layout,
        cells = config.cells,
        "starting"
    );
    let options = Options {
        cells: config.cells,
        kernel_log: config.kernel_log,
        simulate_lacking: &config.simulate_lacking,
    };
    let probes = bpf::load(&options)?.attach(&cgroup_root)?;
    for (probe, state) in probes.states() {
        if let ProbeState::Unavailable(reason) = state {
            warn!(
                hook = probe.hook.name(),
                missing = probe.tells,
                reason,
                "running without a probe"
            );
        }
    }
    match &source {
        Ok(source) => info!(%source, "pods get their names from the API server"),
        Err(reason) => info!(%reason, "pods go by their UID"),
    }
    let names = source.ok().map(|source| (source, Arc::new(Mutex::new(Names::default()))));
    let known = names.as_ref().map(|(_, names)| Arc::clone(names));
    let app = Arc::new(App {
        collector: Mutex::new(Collector::new(probes, &cgroup_root, known)),
        build: BuildInfo { node: config.node_name.clone(), kernel },
        prefix: config.metrics_prefix.clone(),
        ready: AtomicBool::new(false),
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve_until_signal(listener, app, &config, names))?;
    info!("stopped");
    Ok(Code::Success)
}

/// Binds before anything is attached: a second observer, or a taken port, must leave no trace.
pub(crate) fn bind(address: SocketAddr) -> Result<StdListener, AddressError> {
    StdListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|reason| AddressError { address, reason })
}

async fn serve_until_signal(
    listener: StdListener,
    app: Arc<App>,
    config: &Config,
    names: Option<(kube::Source, Arc<Mutex<Names>>)>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).context("cannot use the listening socket")?;
    let address = listener.local_addr().context("cannot read the bound address")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut background = vec![tokio::spawn(tick(Arc::clone(&app)))];
    if let Some((source, names)) = names {
        background.push(kube::start(source, &config.node_name, names)?);
    }
    if config.kernel_log != KernelLog::Off {
        background.push(forward_kernel_log(lock(&app.collector).probes())?);
    }
    if config.connection_log {
        background.push(log_connections(&app)?);
    }
    app.ready.store(true, Ordering::Release);
    info!(listen = %address, "ready");
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
    };
    let served = serve(listener, app, shutdown).await;
    for task in background {
        task.abort();
    }
    served.context("the HTTP server failed")
}

async fn tick(app: Arc<App>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let app = Arc::clone(&app);
        let pass = tokio::task::spawn_blocking(move || lock(&app.collector).tick(Instant::now()));
        if let Err(error) = pass.await {
            warn!(%error, "a pass over the cells failed");
        }
    }
}

fn lock(collector: &Mutex<Collector>) -> std::sync::MutexGuard<'_, Collector> {
    // Each pass reads the counters anew: a panic in an earlier one leaves nothing half-done that matters.
    collector.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward_kernel_log(probes: &mut Probes) -> anyhow::Result<JoinHandle<()>> {
    let mut logger = probes.kernel_log().context("cannot read the kernel programs' log")?;
    Ok(tokio::spawn(async move {
        let mut interval = tokio::time::interval(RING_POLL);
        loop {
            interval.tick().await;
            logger.flush();
        }
    }))
}

fn log_connections(app: &Arc<App>) -> anyhow::Result<JoinHandle<()>> {
    let records = lock(&app.collector)
        .probes()
        .take_records()
        .context("cannot read the connection records")?;
    let mut records = records.context("the connection records are taken already")?;
    let app = Arc::clone(app);
    Ok(tokio::spawn(async move {
        let mut interval = tokio::time::interval(RING_POLL);
        loop {
            interval.tick().await;
            let mut collector = lock(&app.collector);
            let mut walked = false;
            while let Some(record) = records.next() {
                match Ended::try_from(&*record) {
                    Ok(ended) => {
                        // A cgroup that is younger than the last walk; one walk names all of them.
                        if !walked && !collector.knows(ended.cgroup) {
                            collector.refresh();
                            walked = true;
                        }
                        ended.log(&collector.identity(ended.cgroup));
                    }
                    Err(error) => warn!(%error, "unreadable record"),
                }
            }
        }
    }))
}
