//! Options of the commands that look.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use observer_common::{
    label::{Reason, Role},
    protocol::Protocol,
};

use crate::view::{MOST, Sort};

/// Which connections are wanted. Filters that are given several times take what fits one of them; names may have `*` for any
/// text and `?` for any letter.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Only of this pod (label value).
    #[arg(long, value_name = "POD")]
    pub pod: Vec<String>,

    /// Only of this namespace (label value).
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,

    /// Only of this container (label value).
    #[arg(long, value_name = "CONTAINER")]
    pub container: Vec<String>,

    /// Only of pods of this workload (label value).
    #[arg(long, value_name = "WORKLOAD")]
    pub workload: Vec<String>,

    /// Only of servers' or clients' sockets.
    #[arg(long, value_name = "ROLE", value_parser = labels(Role::ALL, |r| r.label()))]
    pub role: Vec<String>,

    /// Only of connections that speak this protocol.
    #[arg(long, value_name = "PROTOCOL", value_parser = labels(Protocol::ALL, |p| p.label()))]
    pub protocol: Vec<String>,

    /// Only of connections to this port of a server.
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,

    /// Only of connections with this address at the other end.
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Vec<String>,

    /// Only of connections that have lived so long: seconds, or a number and a unit as in 5m.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub min_lifetime: Option<Duration>,

    /// Only of connections that have lived no longer.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_lifetime: Option<Duration>,

    /// Only of connections that have been silent for so long.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub min_idle: Option<Duration>,

    /// Only of connections that have been silent for no longer.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_idle: Option<Duration>,
}

/// Options of `tail`.
#[derive(Clone, Debug, Args)]
pub struct TailArgs {
    /// The running observer's Unix socket [default: /run/observer/observer.sock].
    #[arg(long, env = "OBSERVER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Which connections.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Only of connections that ended in this way.
    #[arg(long, value_name = "REASON", value_parser = labels(Reason::ALL, |r| r.label()))]
    pub reason: Vec<String>,

    /// How records are printed.
    #[arg(long, value_name = "FORM", default_value = "json")]
    pub output: Form,

    /// End after so many records.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,

    /// End after this time: seconds, or a number and a unit as in 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
}

/// How `tail` prints records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines of JSON, for scripts.
    Json,
    /// Lines for people.
    Text,
    /// Lines of `name=value`.
    Logfmt,
}

/// Options of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The running observer's Unix socket [default: /run/observer/observer.sock].
    #[arg(long, env = "OBSERVER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print the table once, with the counts since the kernel side counts, and end.
    #[arg(long)]
    pub once: bool,

    /// Print lines of JSON, one for each look.
    #[arg(long)]
    pub json: bool,
}

/// Options of `ps`.
#[derive(Clone, Debug, Args)]
pub struct PsArgs {
    /// The running observer's Unix socket [default: /run/observer/observer.sock].
    #[arg(long, env = "OBSERVER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Which connections.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Which come first, those with the most of it.
    #[arg(long, value_name = "BY", default_value = "age")]
    pub sort: Sort,

    /// List so many at most.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=MOST as i64))]
    pub limit: u32,

    /// Print lines of JSON, with the fields of `tail`.
    #[arg(long)]
    pub json: bool,
}

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Print a line of JSON for each finding.
    #[arg(long)]
    pub json: bool,

    /// The running observer's Unix socket [default: /run/observer/observer.sock].
    #[arg(long, env = "OBSERVER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// The label values of an enum.
fn labels<T: Copy>(all: &[T], label: impl Fn(T) -> &'static str) -> PossibleValuesParser {
    all.iter().map(|&value| label(value)).collect::<Vec<_>>().into()
}

/// A time: seconds, or what humantime reads.
fn time(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}
