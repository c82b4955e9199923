//! The command line as it is typed; [`crate::config`] turns it into something checked.

mod looking;
mod variables;

use std::{
    convert::Infallible, net::SocketAddr, path::PathBuf, str::FromStr, sync::LazyLock,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use observer_common::{abi::ABI, counters::Level, wire::slot::DEFAULT_SLOTS};

use crate::{
    export::{Selection, Ui},
    kernel_log::KernelLog,
};

pub use looking::{DoctorArgs, FilterArgs, Form, PsArgs, TailArgs, TopArgs};
pub use variables::{Variables, read};

/// What `--version` says after the name.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("OBSERVER_GIT_REVISION"));
    format!("{version} (revision {revision}, ABI {ABI:016x})")
});

/// Long-lived connections per pod, counted in the kernel.
///
/// Exit codes: 0 ended as asked, 1 failed, 2 wrong command line, 3 the machine lacks something mandatory (see `observer
/// check`), 4 the listen address cannot be had, 5 another observer runs with the same --pin.
#[derive(Debug, Parser)]
#[command(name = "observer", version = VERSION.as_str(), arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Observe this node and serve its metrics until SIGTERM.
    Run(RunArgs),
    /// Remove what an observer that ran with --pin has left in the kernel.
    Detach(DetachArgs),
    /// Say line by line what this kernel and these privileges allow; attaches nothing.
    Check(RunArgs),
    /// Print a line of JSON for each connection that ends or turns out to speak a protocol, as the observer that runs on
    /// this node sees it.
    Tail(TailArgs),
    /// Show what each pod counts, as the observer that runs on this node sees it: a live table, or one look with --once.
    Top(TopArgs),
    /// List the connections that are open on this node.
    Ps(PsArgs),
    /// Say whether the observer that runs on this node can be trusted, and what it has noticed.
    Doctor(DoctorArgs),
    /// Print what completes these commands and their options in a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages (for packages).
    #[command(hide = true)]
    Man(ManArgs),
}

/// Where --pin keeps the kernel side.
const DEFAULT_PIN: &str = "/sys/fs/bpf/observer";

/// Where Docker and Podman keep the state of containers unless they are told otherwise; the last is Podman's for what does
/// not outlive a boot.
const CONTAINER_STATE: [&str; 3] =
    ["/var/lib/docker", "/var/lib/containers/storage", "/run/containers/storage"];

/// Options of `detach`.
#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// The directory that was given to `run`.
    #[arg(long, env = "OBSERVER_PIN", value_name = "PATH", default_value = DEFAULT_PIN)]
    pub pin: PathBuf,

    /// Succeed if the directory does not exist.
    #[arg(long, env = "OBSERVER_IGNORE_NOT_FOUND", value_parser = BoolishValueParser::new())]
    pub ignore_not_found: bool,
}

/// Options of `run`; `check` takes the same, to check exactly what would run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Address of the page /, of /metrics, /livez, /readyz and /healthz; port 0 takes a free one.
    #[arg(long, env = "OBSERVER_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:9435", value_parser = address)]
    pub listen: SocketAddr,

    /// Address of the observer's own metrics, apart from those of the workloads, and of the other paths once more
    /// [default: all on --listen].
    #[arg(long, env = "OBSERVER_SELF_LISTEN", value_name = "ADDR", value_parser = address)]
    pub self_listen: Option<SocketAddr>,

    /// Serve HTTPS with this certificate chain (PEM); it is read again when the file changes.
    #[arg(long, env = "OBSERVER_TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert (PEM); it is read again when the file changes.
    #[arg(long, env = "OBSERVER_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,

    /// Give /metrics only to clients with a certificate of one of these authorities (PEM); it is read again when the file
    /// changes.
    #[arg(long, env = "OBSERVER_TLS_CLIENT_CA", value_name = "PATH")]
    pub tls_client_ca: Option<PathBuf>,

    /// Give /metrics only to clients with a bearer token that is a line of this file; it is read again when it changes.
    #[arg(long, env = "OBSERVER_BEARER_TOKEN_FILE", value_name = "PATH")]
    pub bearer_token_file: Option<PathBuf>,

    /// What the page at / shows: nothing, pods and their counts, or single connections with their peers' addresses, too.
    #[arg(long, env = "OBSERVER_UI", value_name = "LEVEL", default_value = "on")]
    pub ui: Ui,

    /// Root of the cgroup-v2 tree, or the directory whose `unified` it is [default: found in the mount table].
    #[arg(long, env = "OBSERVER_CGROUP_ROOT", value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,

    /// Name of this node: that of the pods to be named, of the log and the build info [default: the host name].
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where pods get their names from: `auto` (the API server of the cluster that this is a pod of, if it is), `off`, or
    /// a kubeconfig file.
    #[arg(long, env = "OBSERVER_KUBE", value_name = "auto|off|PATH", default_value = "auto")]
    pub kube: KubeOption,

    /// Directories in which Docker and Podman keep the state of their containers, with commas: from there containers that
    /// are no pod's have their names. Where nothing is found they go by their ids.
    #[arg(long, env = "OBSERVER_CONTAINER_STATE", value_name = "PATHS", value_delimiter = ',', default_values = CONTAINER_STATE)]
    pub container_state: Vec<PathBuf>,

    /// Put before the names of the workloads' metrics, for clusters whose applications export the same names.
    #[arg(long, env = "OBSERVER_METRICS_PREFIX", value_name = "PREFIX", default_value = "")]
    pub metrics_prefix: String,

    /// Form of the log on standard error.
    #[arg(long, env = "OBSERVER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Lines that the kernel programs log themselves; `off` costs nothing at all.
    #[arg(long, env = "OBSERVER_KERNEL_LOG", value_name = "LEVEL", default_value = "off")]
    pub kernel_log: KernelLog,

    /// Log one line for each connection that ends.
    #[arg(long, env = "OBSERVER_CONNECTION_LOG", value_parser = BoolishValueParser::new())]
    pub connection_log: bool,

    /// Slots in the kernel's table, 1 KiB each; each (cgroup, role, protocol, port) takes one to three.
    #[arg(long, env = "OBSERVER_CELLS", value_name = "COUNT", default_value_t = DEFAULT_SLOTS)]
    pub cells: u32,

    /// Keep the kernel side in this directory of a BPF file system when the daemon ends, and take over what an earlier one
    /// has left there: the kernel counts on meanwhile, and no count or birth is lost. `observer detach` removes it.
    #[arg(
        long,
        env = "OBSERVER_PIN",
        value_name = "PATH",
        num_args = 0..=1,
        default_missing_value = DEFAULT_PIN
    )]
    pub pin: Option<PathBuf>,

    /// With --pin: wait for the end of another observer instead of giving up.
    #[arg(long, env = "OBSERVER_WAIT", value_parser = BoolishValueParser::new())]
    pub wait: bool,

    /// Pretend another ABI version (tests).
    #[arg(long, env = "OBSERVER_SIMULATE_ABI", value_name = "VERSION", hide = true)]
    pub simulate_abi: Option<u32>,

    /// Unix socket on which `observer tail` finds this observer [default: /run/observer/observer.sock].
    #[arg(long, env = "OBSERVER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Bytes of the ring buffer through which records come: a power of two, whole pages (tests).
    #[arg(long, env = "OBSERVER_RECORD_BUFFER", value_name = "BYTES", default_value_t = 1 << 20, hide = true)]
    pub record_buffer: u32,

    /// Pretend that the kernel lacks this hook (tests).
    #[arg(long, env = "OBSERVER_SIMULATE_LACKING", value_name = "HOOK", hide = true)]
    pub simulate_lacking: Vec<String>,

    /// Time between two reconciliations of the sockets, see docs/how-it-counts.md (tests).
    #[arg(long, env = "OBSERVER_RECONCILE_EVERY", value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration, hide = true)]
    pub reconcile_every: Duration,

    /// How much is exported: what users' panels and autoscalers need, what every shipped rule needs, or everything.
    #[arg(long, env = "OBSERVER_DETAIL", value_name = "LEVEL", default_value = "standard")]
    pub detail: Detail,

    /// Only these families: names with commas, `*` for any end, `!` before those that are left out [default: all].
    #[arg(long, env = "OBSERVER_FAMILIES", value_name = "LIST")]
    pub families: Option<Selection>,

    /// Only series of these namespaces, in the same way [default: all].
    #[arg(long, env = "OBSERVER_NAMESPACES", value_name = "LIST")]
    pub namespaces: Option<Selection>,

    /// How long the last counts of what is over are shown: long enough for two scrapes of each scraper.
    #[arg(long, env = "OBSERVER_SHOW_ENDED", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub show_ended: Duration,

    /// How long the users of a pod that is older than the kernel side are not told, unless what was open before its start has
    /// been found: about two intervals of the pings that its clients send.
    #[arg(long, env = "OBSERVER_SETTLING", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub settling: Duration,

    /// Ports, with commas, that do not count for whether the users of a pod can be read: those of probes and of metrics. A
    /// pod's annotation `observer/readable` adds its own.
    #[arg(long, env = "OBSERVER_READABLE", value_name = "PORTS", value_delimiter = ',')]
    pub readable: Vec<u16>,

    /// How long a cell of a cgroup with many ports is idle before it is freed (tests).
    #[arg(long, env = "OBSERVER_CELL_AGE", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration, hide = true)]
    pub cell_age: Duration,

    /// Load programs that return at once: what their hooks cost by themselves (bench).
    #[arg(long, hide = true)]
    pub simulate_empty: bool,

    /// Load the programs of another build, whose code is other and which count the same (tests).
    #[arg(long, value_name = "NUMBER", hide = true)]
    pub simulate_build: Option<u32>,

    /// Die at this step of an update (tests).
    #[arg(long, value_name = "STEP", hide = true)]
    pub simulate_death: Option<u32>,
}

/// Where pods get their names from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeOption {
    /// From the cluster whose pod this is; nowhere if it is none.
    Auto,
    /// From nowhere: pods go by their UID.
    Off,
    /// From the current context of a kubeconfig file.
    File(PathBuf),
}

impl FromStr for KubeOption {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "off" => Self::Off,
            path => Self::File(path.into()),
        })
    }
}

/// Options of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell.
    pub shell: Shell,
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU's.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
    /// The shell of tables.
    Nushell,
}

/// Options of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// The directory to write to.
    pub directory: PathBuf,
}

/// An address with a port; says what is missing where one comes from a program that needs less.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|error| match text.strip_prefix(':').map(str::parse::<u16>) {
        Some(Ok(port)) => format!(
            "the IP address is missing; 0.0.0.0:{port} is every IPv4 address of this machine, [::]:{port} every address"
        ),
        _ => format!("{error}; give an IP address and a port, such as 0.0.0.0:9435 or [::]:9435"),
    })
}

/// How much is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// What users' panels, autoscalers and the shipped rules about users need.
    Core,
    /// What every shipped rule needs.
    Standard,
    /// Everything.
    Full,
}

impl From<Detail> for Level {
    fn from(detail: Detail) -> Self {
        match detail {
            Detail::Core => Self::Core,
            Detail::Standard => Self::Standard,
            Detail::Full => Self::Full,
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
