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
    bpf::{self, KernelLogger, Options, Origin, Pins, ProbeState},
    cli::RunArgs,
    collect::Collector,
    config::{AddressError, Config},
    exit::Code,
    export::{App, BuildInfo, Part, serve},
    kernel_side::KernelSide,
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
    bpf::heap::share();
    let config = Config::try_from(args)?;
    logging::start(config.log_format);
    let source = kube::source(&config.kube)?;
    // Who waits for another observer's end waits for its port, too.
    let pins = match &config.pin {
        Some(directory) => {
            preflight::privileges()?;
            Some(Pins::open(directory, config.wait)?)
        }
        None => None,
    };
    let listener = bind("--listen", config.listen)?;
    let own_listener =
        config.self_listen.map(|address| bind("--self-listen", address)).transpose()?;
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
        abi: config.simulate_abi,
    };
    let KernelSide { probes, origin, log } =
        KernelSide::start(pins.as_ref(), &options, &cgroup_root)?;
    bpf::heap::trim();
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
    let mut collector = Collector::new(probes, &cgroup_root, known);
    if origin == Origin::TakenOver {
        collector.begin_totals().context("cannot read the cells")?;
    }
    let app = Arc::new(App {
        collector: Mutex::new(collector),
        build: BuildInfo { node: config.node_name.clone(), kernel, origin },
        prefix: config.metrics_prefix.clone(),
        ready: AtomicBool::new(false),
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve_until_signal((listener, own_listener), app, log, &config, names))?;
    if let Some(pins) = config.pin {
        info!(
            pins = %pins.display(),
            "stopped; the kernel counts on for the next one, until `observer detach`"
        );
    } else {
        info!("stopped");
    }
    Ok(Code::Success)
}

/// Binds before anything is attached: a second observer, or a taken port, must leave no trace.
pub(crate) fn bind(option: &'static str, address: SocketAddr) -> Result<StdListener, AddressError> {
    StdListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|reason| AddressError { option, address, reason })
}

async fn serve_until_signal(
    (listener, own_listener): (StdListener, Option<StdListener>),
    app: Arc<App>,
    kernel_log: Option<KernelLogger>,
    config: &Config,
    names: Option<(kube::Source, Arc<Mutex<Names>>)>,
) -> anyhow::Result<()> {
    let (listener, address) = usable(listener)?;
    let (sockets, own_address) = match own_listener.map(usable).transpose()? {
        None => (vec![(listener, Part::All)], None),
        Some((own, address)) => {
            (vec![(listener, Part::Workloads), (own, Part::Own)], Some(address.to_string()))
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut background = vec![tokio::spawn(tick(Arc::clone(&app)))];
    if let Some((source, names)) = names {
        background.push(kube::start(source, &config.node_name, names)?);
    }
    background.extend(kernel_log.map(|log| tokio::spawn(forward_kernel_log(log))));
    if config.connection_log {
        background.push(log_connections(&app)?);
    }
    app.ready.store(true, Ordering::Release);
    info!(listen = %address, self_listen = own_address, "ready");
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
    };
    let served = serve(sockets, app, shutdown).await;
    for task in background {
        task.abort();
    }
    served.context("the HTTP server failed")
}

/// A bound socket for the runtime, and the address that it got.
fn usable(listener: StdListener) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::from_std(listener).context("cannot use a listening socket")?;
    let address = listener.local_addr().context("cannot read a bound address")?;
    Ok((listener, address))
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

async fn forward_kernel_log(mut log: KernelLogger) {
    let mut interval = tokio::time::interval(RING_POLL);
    loop {
        interval.tick().await;
        log.flush();
    }
}

fn log_connections(app: &Arc<App>) -> anyhow::Result<JoinHandle<()>> {
    let mut collector = lock(&app.collector);
    let probes = collector.probes();
    let records = probes.take_records().context("cannot read the connection records")?;
    probes.want_records(true).context("cannot ask for connection records")?;
    drop(collector);
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
