//! Whether the kernel programs write a log of their own: an option of the command line that decides what is loaded.

use clap::ValueEnum;

/// Level of the kernel programs' own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelLog {
    /// The verifier removes the log calls.
    Off,
    /// Births and deaths of connections.
    Debug,
}
