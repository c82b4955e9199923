//! The log: on standard error, as text or JSON, level by `RUST_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::LogFormat;

/// Without `RUST_LOG`. What the client of the API server says at each attempt is said once by `kube`, and counted.
const DEFAULT: &str = "info,kube_client=off,kube_runtime=off";

/// Starts logging; later calls change nothing.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // `init` also takes over the `log` crate's records, which is where the kernel programs' lines arrive.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
