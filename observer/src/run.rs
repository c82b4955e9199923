//! `observer run`: from the command line to the last request.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::AbortHandle,
    time::MissedTickBehavior,
};
use tracing::{info, warn};

use crate::{
    access::{self, Access},
    attribute::{CgroupIndex, Names},
    bpf::{self, KernelLogger, Origin, Pins, ProbeState},
    cli::RunArgs,
    collect::{Beginning, Collector, Terms, Times, lock},
    config::{AddressError, Config},
    exit::Code,
    export::{About, App, DroppedLines, Part, serve},
    kernel_side::KernelSide,
    kube, logging, preflight,
    tail::{self, Hub},
};

/// How often dead cgroups are looked for.
const TICK: Duration = Duration::from_secs(1);
/// After a reconciliation there is none for so many times as long as it took: with very many sockets it takes up to a percent of
/// a processor, and no more.
const RECONCILE_REST: u32 = 100;
/// So long the start waits for the names of pods.
const FIRST_NAMES: Duration = Duration::from_secs(2);
/// How often the kernel programs' log is read, if it is on.
const RING_POLL: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from running; see [`Code::of`] for the exit code of each.
pub fn run(args: RunArgs) -> anyhow::Result<Code> {
    bpf::heap::share();
    let config = Config::try_from(args)?;
    let log_lines = logging::start(config.log_format)?;
    let source = kube::source(&config.kube)?;
    let access = Access::load(config.access.clone())?;
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
    info!(%access, "who may read the endpoints");
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
    let KernelSide { mut probes, origin, log, visited } =
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
    let (newest_cgroup, visited_all) = probes.slots().beginning();
    let age = probes.since().elapsed().unwrap_or_default();
    let beginning = Beginning { age, newest_cgroup, visited_all, visited };
    let (settling, left_out) = (config.settling, config.readable.clone());
    let terms = Terms { beginning, settling, left_out };
    let cgroups = CgroupIndex::new(cgroup_root).with_names_of(config.container_state.clone());
    let mut collector = Collector::new(probes, cgroups, known, times, terms);
    if matches!(origin, Origin::TakenOver | Origin::Updated) {
        collector.take_over().context("cannot read what an earlier observer has counted")?;
    }
    let about = About {
        node: config.node_name.clone(),
        kernel,
        origin,
        dropped: DroppedLines(log_lines.dropped().into()),
    };
    let app = Arc::new(App::new(collector, about, config.export.clone()));
    let access = Arc::new(access);
    let service = Service { listener, own_listener, app, access, kernel_log: log, names, records };
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
    access: Arc<Access>,
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
        let mut background = vec![
            tokio::spawn(tick(Arc::clone(&app))).abort_handle(),
            tokio::spawn(access::follow(Arc::clone(&self.access))).abort_handle(),
        ];
        if lock(&app.collector).probes().reconciliation().is_some() {
            let reconciliations = reconcile_regularly(Arc::clone(&app), config.reconcile_every);
            background.push(tokio::spawn(reconciliations).abort_handle());
        }
        let kernel_log = self.kernel_log.map(|log| tokio::spawn(forward_kernel_log(log)));
        background.extend(kernel_log.map(|task| task.abort_handle()));
        if let Some((source, names)) = self.names {
            background.push(follow_names(source, &config.node_name, Arc::clone(&names))?);
            wait_for_names(&names).await;
        }
        let hub = follow_records(&app, config)?;
        let views = Arc::clone(&app.views);
        let tail = self.records.map(|socket| tokio::spawn(tail::serve(socket, hub.clone(), views)));
        background.extend(tail.map(|task| task.abort_handle()));
        app.ready.store(true, Ordering::Release);
        info!(listen = %address, self_listen = own_address, "ready");
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: stopping"),
                _ = interrupt.recv() => info!("SIGINT: stopping"),
            }
        };
        let served = serve(sockets, config.ui, Arc::clone(&app), &self.access, shutdown).await;
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

async fn reconcile_regularly(app: Arc<App>, interval: Duration) {
    let mut wait = interval;
    loop {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let app = Arc::clone(&app);
        let reconciliation = tokio::task::spawn_blocking(move || lock(&app.collector).reconcile());
        if let Err(error) = reconciliation.await {
            warn!(%error, "a reconciliation of the sockets failed");
        }
        wait = interval.max(began.elapsed() * RECONCILE_REST);
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

/// Follows the API server on a thread of its own: it waits for a scrape that holds the names' lock, and those who ask the
/// endpoints are not to wait with it.
fn follow_names(
    source: kube::Source,
    node: &str,
    names: Arc<Mutex<Names>>,
) -> anyhow::Result<AbortHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime for the API server")?;
    let task = {
        let _inside = runtime.enter();
        kube::start(source, node, names)?
    };
    let handle = task.abort_handle();
    thread::Builder::new()
        .name("names".to_owned())
        .spawn(move || runtime.block_on(task))
        .context("cannot start a thread for the API server")?;
    Ok(handle)
}

/// Waits for the API server's first list, but not for long: a scrape before it would end the series of all pods, and begin
/// others that go by their UID.
async fn wait_for_names(names: &Mutex<Names>) {
    let known = || names.lock().unwrap_or_else(PoisonError::into_inner).health().current;
    let until = Instant::now() + FIRST_NAMES;
    while !known() && Instant::now() < until {
        tokio::time::sleep(FIRST_NAMES / 100).await;
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        sync::mpsc,
    };

    use super::*;
    use crate::cli::KubeOption;

    /// What the API server says to everything.
    const ANSWER: &str =
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;

    /// An API server without pods; tells of each request that it has answered.
    fn api_server() -> (SocketAddr, mpsc::Receiver<()>) {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, answered) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let _ = stream.read(&mut [0; 4096]);
                let length = ANSWER.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all((head + ANSWER).as_bytes());
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
        (address, answered)
    }

    #[test]
    fn the_endpoints_do_not_wait_for_who_waits_for_the_names() {
        let (address, answered) = api_server();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: a, users: [{{name: a, user: {{}}}}], \
             clusters: [{{name: a, cluster: {{server: \"http://{address}\"}}}}], \
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]}}"
        );
        std::fs::write(file.path(), config).expect("it is ours");
        let source = kube::source(&KubeOption::File(file.path().to_owned()));
        let source = source.expect("a kubeconfig").expect("one that was asked for");
        let names = Arc::new(Mutex::new(Names::default()));

        // A scrape is under way, and the follower is to note that a list begins.
        let scrape = names.lock().expect("nobody has it");
        let (done, ended) = mpsc::channel();
        let waiting = Arc::clone(&names);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
            runtime.block_on(async {
                let _follower = follow_names(source, "node", waiting).expect("it starts");
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = done.send(());
                std::future::pending::<()>().await;
            });
        });
        ended.recv_timeout(Duration::from_secs(10)).expect("the runtime of the endpoints goes on");
        assert!(answered.try_recv().is_err(), "the follower does not wait for the names");
        drop(scrape);
        answered.recv_timeout(Duration::from_secs(10)).expect("it goes on");
    }
}
