//! Exit codes, in one place.

use std::process::ExitCode;

use crate::{access, bpf, config, kube, preflight};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Ended as asked.
    Success = 0,
    /// Failed for a reason that is no other code's.
    Failure = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The machine lacks something mandatory: kernel, privileges, cgroup v2.
    Unsupported = 3,
    /// The listen address cannot be had.
    Address = 4,
    /// Another observer runs with the same pins.
    Busy = 5,
}

impl Code {
    /// The code for an error that ends the process.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        if error.is::<preflight::Refusal>() || error.is::<bpf::LoadError>() {
            Self::Unsupported
        } else if error.is::<config::AddressError>() {
            Self::Address
        } else if let Some(error) = error.downcast_ref::<bpf::PinError>() {
            match error {
                bpf::PinError::Busy { .. } => Self::Busy,
                bpf::PinError::NoBpffs(_) => Self::Unsupported,
                bpf::PinError::Foreign { .. } => Self::Usage,
                bpf::PinError::Missing(_) | bpf::PinError::File { .. } => Self::Failure,
            }
        } else if error.is::<config::ConfigError>()
            || error.is::<access::AccessError>()
            || error.is::<kube::SourceError>()
            || error.is::<kube::ClientError>()
        {
            Self::Usage
        } else {
            Self::Failure
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
