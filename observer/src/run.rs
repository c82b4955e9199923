//! `observer run`: from the command line to the last request.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};
use tracing::{info, warn};

use crate::{
    attribute::Names,
    bpf::{self, KernelLogger, Origin, Pins, ProbeState},
    cli::RunArgs,
    collect::{Collector, Times, lock},
    config::{AddressError, Config},
    exit::Code,
    export::{App, BuildInfo, Part, serve},
    kernel_side::KernelSide,
    kube, logging, preflight,
    tail::{self, Hub},
};

/// How often dead cgroups are looked for.
const TICK: Duration = Duration::from_secs(1);
/// After a census there is none for so many times as long as it took: with very many sockets it takes up to a percent of a
/// processor, and no more.
const CENSUS_REST: u32 = 100;
/// How often the kernel programs' log is read, if it is on.
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
    let records = offer_records(config.socket.as_deref())?;
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
    let KernelSide { probes, origin, log } =
        KernelSide::start(pins.as_ref(), &config.options(), &cgroup_root)?;
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
    let times = Times { show_ended: config.show_ended, cell_age: config.cell_age };
    let mut collector = Collector::new(probes, &cgroup_root, known, times);
    if origin == Origin::TakenOver {
        collector.take_over().context("cannot read what an earlier observer has counted")?;
    }
    let app = Arc::new(App {
        collector: Arc::new(Mutex::new(collector)),
        build: BuildInfo { node: config.node_name.clone(), kernel, origin },
        prefix: config.metrics_prefix.clone(),
        ready: AtomicBool::new(false),
    });
    let service = Service { listener, own_listener, app, kernel_log: log, names, records };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(service.until_signal(&config))?;
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

/// What runs beside each other until the end.
struct Service {
    listener: StdListener,
    own_listener: Option<StdListener>,
    app: Arc<App>,
    kernel_log: Option<KernelLogger>,
    names: Option<(kube::Source, Arc<Mutex<Names>>)>,
    records: Option<tail::Socket>,
}

impl Service {
    async fn until_signal(self, config: &Config) -> anyhow::Result<()> {
        let app = self.app;
        let (listener, address) = usable(self.listener)?;
        let (sockets, own_address) = match self.own_listener.map(usable).transpose()? {
            None => (vec![(listener, Part::All)], None),
            Some((own, address)) => {
                (vec![(listener, Part::Workloads), (own, Part::Own)], Some(address.to_string()))
            }
        };
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut background = vec![tokio::spawn(tick(Arc::clone(&app)))];
        if lock(&app.collector).probes().census().is_some() {
            let censuses = take_censuses(Arc::clone(&app), config.census_interval);
            background.push(tokio::spawn(censuses));
        }
        background.extend(self.kernel_log.map(|log| tokio::spawn(forward_kernel_log(log))));
        if let Some((source, names)) = self.names {
            background.push(kube::start(source, &config.node_name, names)?);
        }
        let hub = follow_records(&app, config)?;
        background
            .extend(self.records.map(|socket| tokio::spawn(tail::serve(socket, hub.clone()))));
        app.ready.store(true, Ordering::Release);
        info!(listen = %address, self_listen = own_address, "ready");
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: stopping"),
                _ = interrupt.recv() => info!("SIGINT: stopping"),
            }
        };
        let served = serve(sockets, Arc::clone(&app), shutdown).await;
        for task in background {
            task.abort();
        }
        // The programs may stay, and nobody reads their records any more.
        if let Err(error) = lock(&app.collector).probes().want_records(false) {
            warn!(%error, "cannot tell the programs that records are not wanted");
        }
        served.context("the HTTP server failed")
    }
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

async fn take_censuses(app: Arc<App>, interval: Duration) {
    let mut wait = interval;
    loop {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let app = Arc::clone(&app);
        let census = tokio::task::spawn_blocking(move || lock(&app.collector).census());
        if let Err(error) = census.await {
            warn!(%error, "a census of the sockets failed");
        }
        wait = interval.max(began.elapsed() * CENSUS_REST);
    }
}

async fn forward_kernel_log(mut log: KernelLogger) {
    let mut interval = tokio::time::interval(RING_POLL);
    loop {
        interval.tick().await;
        log.flush();
    }
}

/// The socket of `observer tail`. One that nobody has asked for may be missing.
fn offer_records(path: Option<&Path>) -> Result<Option<tail::Socket>, tail::SocketError> {
    match (tail::listen(path.unwrap_or(Path::new(tail::DEFAULT))), path) {
        (Ok(socket), _) => Ok(Some(socket)),
        (Err(error), Some(_)) => Err(error),
        (Err(error), None) => {
            warn!(%error, "`observer tail` will not find this observer");
            Ok(None)
        }
    }
}

/// Starts to read records, for the log or for those who will ask.
fn follow_records(app: &App, config: &Config) -> anyhow::Result<Hub> {
    let records = lock(&app.collector).probes().take_records();
    let records = records.context("cannot read the connection records")?;
    let records = records.context("the connection records are taken already")?;
    let size = config.record_buffer;
    tail::spawn(Arc::clone(&app.collector), records, size, config.connection_log)
        .context("cannot start to read the connection records")
}
