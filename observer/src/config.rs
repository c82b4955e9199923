//! The checked configuration: everything that can be wrong on the command line is found here, before anything is bound
//! or attached.

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf, time::Duration};

use observer_common::wire::slot::RESERVED_SLOTS;
use thiserror::Error;

use crate::{
    access::Files,
    bpf::Options,
    cli::{KubeOption, LogFormat, RunArgs},
    export::{Settings, Ui},
    kernel_log::KernelLog,
};

/// What `run` works with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the HTTP endpoints.
    pub listen: SocketAddr,
    /// Address of the observer's own metrics, if apart.
    pub self_listen: Option<SocketAddr>,
    /// Who may read the endpoints.
    pub access: Files,
    /// What the page shows.
    pub ui: Ui,
    /// Root of the cgroup-v2 tree, if given.
    pub cgroup_root: Option<PathBuf>,
    /// Name of this node.
    pub node_name: String,
    /// Where pods get their names from.
    pub kube: KubeOption,
    /// Where containers get their names from.
    pub container_state: Vec<PathBuf>,
    /// What is exported.
    pub export: Settings,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Level of the kernel programs' log.
    pub kernel_log: KernelLog,
    /// Whether each connection that ends is logged.
    pub connection_log: bool,
    /// Slots in the kernel's table.
    pub cells: u32,
    /// Where the kernel side is kept, if it is to be.
    pub pin: Option<PathBuf>,
    /// Whether to wait for another observer's end.
    pub wait: bool,
    /// ABI version to pretend.
    pub simulate_abi: Option<u32>,
    /// Where `observer tail` finds this observer, if given.
    pub socket: Option<PathBuf>,
    /// Bytes of the ring buffer for records.
    pub record_buffer: u32,
    /// Hooks to pretend away.
    pub simulate_lacking: Vec<String>,
    /// Whether the programs return at once.
    pub simulate_empty: bool,
    /// Another build to pretend.
    pub simulate_build: Option<u32>,
    /// The step of an update at which to die.
    pub simulate_death: Option<u32>,
    /// Time between two reconciliations of the sockets.
    pub reconcile_every: Duration,
    /// How long what is over is shown.
    pub show_ended: Duration,
    /// How long a cell is idle before it may be freed.
    pub cell_age: Duration,
    /// After this time what is open has spoken.
    pub settling: Duration,
    /// Ports that do not count for whether users can be read.
    pub readable: BTreeSet<u16>,
}

/// A value on the command line that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The prefix would make invalid metric names.
    #[error(
        "--metrics-prefix {0:?} is no start of a metric name: use letters, digits and _, not a digit first"
    )]
    Prefix(String),
    /// The table is too small or too large.
    #[error("--cells {0} is out of range: use {min} to {max}", min = MIN_CELLS, max = MAX_CELLS)]
    Cells(u32),
    /// The programs' log has one reader, which would be gone.
    #[error("--kernel-log does not go with --pin: run it without one of them")]
    PinnedLog,
    /// Without pins there is nobody to wait for.
    #[error("--wait waits for the end of another observer with the same pins: give --pin, too")]
    WaitWithoutPins,
    /// One half of what TLS needs.
    #[error("--tls-cert and --tls-key go together: give both or neither")]
    HalfTls,
    /// Without TLS no client shows a certificate.
    #[error("--tls-client-ca needs TLS: give --tls-cert and --tls-key, too")]
    ClientCaWithoutTls,
}

/// The listen address cannot be had.
#[derive(Debug, Error)]
#[error(
    "cannot listen on {address}: {reason}; choose another with {option}, or stop what uses it (`ss -ltnp`)"
)]
pub struct AddressError {
    /// The option that names it.
    pub option: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// What the kernel said. Not the error's `source`, which would be printed once more.
    pub reason: io::Error,
}

/// The slots for overflow and one for use.
const MIN_CELLS: u32 = RESERVED_SLOTS + 1;
/// These are 512 MiB of kernel memory.
const MAX_CELLS: u32 = 1 << 19;

impl Config {
    /// What of it the loader of the kernel programs needs.
    #[must_use]
    pub fn options(&self) -> Options<'_> {
        Options {
            cells: self.cells,
            record_buffer: self.record_buffer,
            kernel_log: self.kernel_log,
            simulate_lacking: &self.simulate_lacking,
            simulate_empty: self.simulate_empty,
            simulate_build: self.simulate_build,
            simulate_death: self.simulate_death,
            abi: self.simulate_abi,
        }
    }
}

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let valid = args.metrics_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !args.metrics_prefix.starts_with(|c: char| c.is_ascii_digit());
        if !valid {
            return Err(ConfigError::Prefix(args.metrics_prefix));
        }
        if !(MIN_CELLS..=MAX_CELLS).contains(&args.cells) {
            return Err(ConfigError::Cells(args.cells));
        }
        if args.pin.is_some() && args.kernel_log != KernelLog::Off {
            return Err(ConfigError::PinnedLog);
        }
        if args.wait && args.pin.is_none() {
            return Err(ConfigError::WaitWithoutPins);
        }
        let certificate = match (args.tls_cert, args.tls_key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        if certificate.is_none() && args.tls_client_ca.is_some() {
            return Err(ConfigError::ClientCaWithoutTls);
        }
        let access =
            Files { certificate, client_ca: args.tls_client_ca, tokens: args.bearer_token_file };
        let mut metrics_prefix = args.metrics_prefix;
        if !metrics_prefix.is_empty() && !metrics_prefix.ends_with('_') {
            metrics_prefix.push('_');
        }
        Ok(Self {
            listen: args.listen,
            self_listen: args.self_listen,
            access,
            ui: args.ui,
            cgroup_root: args.cgroup_root,
            node_name: args.node_name.filter(|n| !n.is_empty()).unwrap_or_else(host_name),
            kube: args.kube,
            container_state: args.container_state,
            export: Settings {
                detail: args.detail.into(),
                families: args.families.unwrap_or_default(),
                namespaces: args.namespaces.unwrap_or_default(),
                prefix: metrics_prefix,
            },
            log_format: args.log_format,
            kernel_log: args.kernel_log,
            connection_log: args.connection_log,
            cells: args.cells,
            pin: args.pin,
            wait: args.wait,
            simulate_abi: args.simulate_abi,
            socket: args.socket,
            record_buffer: args.record_buffer,
            simulate_lacking: args.simulate_lacking,
            simulate_empty: args.simulate_empty,
            simulate_build: args.simulate_build,
            simulate_death: args.simulate_death,
            reconcile_every: args.reconcile_every,
            show_ended: args.show_ended,
            cell_age: args.cell_age,
            settling: args.settling,
            readable: args.readable.into_iter().collect(),
        })
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}
