//! The command line as it is typed; [`crate::config`] turns it into something checked.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Long-lived connections per pod, counted in the kernel.
///
/// Exit codes: 0 ended as asked, 1 failed, 2 wrong command line, 3 the machine lacks something mandatory (see `observer
/// check`), 4 the listen address cannot be had.
#[derive(Debug, Parser)]
#[command(name = "observer", version, arg_required_else_help = true)]
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
    /// Say line by line what this kernel and these privileges allow; attaches nothing.
    Check(RunArgs),
}

/// Options of `run`; `check` takes the same, to check exactly what would run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Address of /metrics, /livez, /readyz and /healthz; port 0 takes a free one.
    #[arg(long, env = "OBSERVER_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:9435")]
    pub listen: SocketAddr,

    /// Root of the cgroup-v2 tree [default: found in the mount table].
    #[arg(long, env = "OBSERVER_CGROUP_ROOT", value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,

    /// Name of this node: that of the pods to be named, of the log and the build info [default: the host name].
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where pods get their names from: `auto` (the API server of the cluster that this is a pod of, if it is), `off`, or
    /// a kubeconfig file.
    #[arg(long, env = "OBSERVER_KUBE", value_name = "auto|off|PATH", default_value = "auto")]
    pub kube: KubeOption,

    /// Put before the name of every metric, for clusters whose applications export the same names.
    #[arg(long, env = "OBSERVER_METRICS_PREFIX", value_name = "PREFIX", default_value = "")]
    pub metrics_prefix: String,

    /// Form of the log on standard error.
    #[arg(long, env = "OBSERVER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Lines that the kernel programs log themselves; `off` costs nothing at all.
    #[arg(long, env = "OBSERVER_KERNEL_LOG", value_name = "LEVEL", default_value = "off")]
    pub kernel_log: KernelLog,

    /// Log one line for each connection that ends.
    #[arg(long, env = "OBSERVER_CONNECTION_LOG")]
    pub connection_log: bool,

    /// Cells in the kernel's table, each for one (cgroup, role, protocol, port); 4 KiB each.
    #[arg(long, env = "OBSERVER_CELLS", value_name = "COUNT", default_value_t = 4_096)]
    pub cells: u32,

    /// Pretend that the kernel lacks this hook (tests).
    #[arg(long, env = "OBSERVER_SIMULATE_LACKING", value_name = "HOOK", hide = true)]
    pub simulate_lacking: Vec<String>,
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

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Level of the kernel programs' own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelLog {
    /// The verifier removes the log calls.
    Off,
    /// Births and deaths of connections.
    Debug,
}
