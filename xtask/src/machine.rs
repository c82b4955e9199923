//! The machine that something was measured on.

use std::fmt;
use std::fs;
use std::thread;

use anyhow::Result;
use serde::Serialize;

/// What to say about it beside figures.
#[derive(Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// The load averages before the measurement: what others did.
    pub(crate) load_before: String,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |model| model.trim_start_matches(['\t', ':', ' ']));
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            processor: model.to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_before: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, load_before } = self;
        write!(
            to,
            "{processor}, {cores} cores, Linux {kernel}; load averages before: {load_before}"
        )
    }
}
