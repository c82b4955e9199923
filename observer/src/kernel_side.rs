//! How the daemon comes to its kernel side: made anew, taken over, or replaced.

use std::path::Path;

use anyhow::Context as _;
use tracing::{info, warn};

use crate::{
    adopt::adopt_all,
    bpf::{self, KernelLogger, Options, Origin, Pins, Probes},
    kernel_log::KernelLog,
};

/// What has been attached, or was found attached.
pub struct KernelSide {
    /// What it counts.
    pub probes: Probes,
    /// Whose it is.
    pub origin: Origin,
    /// The programs' own log, if it is on.
    pub log: Option<KernelLogger>,
}

impl KernelSide {
    /// A kernel side that ends with the daemon, or one that the pins keep.
    ///
    /// # Errors
    /// If it cannot be loaded, attached or pinned.
    pub fn start(
        pins: Option<&Pins>,
        options: &Options<'_>,
        cgroup_root: &Path,
    ) -> anyhow::Result<Self> {
        match pins {
            Some(pins) => pinned(pins, options, cgroup_root),
            None => created(options, cgroup_root, None),
        }
    }
}

/// What an earlier daemon has left, if it can be used; a new kernel side in its place otherwise.
fn pinned(pins: &Pins, options: &Options<'_>, cgroup_root: &Path) -> anyhow::Result<KernelSide> {
    let fingerprint = bpf::fingerprint(options, cgroup_root);
    if let Some(mut probes) = pins.take_over(&fingerprint) {
        info!(fingerprint, "took over the kernel side of an earlier observer");
        probes.want_records(false).context("cannot use the kernel side of an earlier observer")?;
        return Ok(KernelSide { probes, origin: Origin::TakenOver, log: None });
    }
    let replaced = pins.clear()?;
    if replaced {
        warn!(
            fingerprint,
            "replaced the kernel side of an incompatible observer: its counts end, and what is open is adopted"
        );
    }
    let side = created(options, cgroup_root, Some((pins, &fingerprint)))?;
    let origin = if replaced { Origin::Replaced } else { Origin::Created };
    Ok(KernelSide { origin, ..side })
}

fn created(
    options: &Options<'_>,
    cgroup_root: &Path,
    pins: Option<(&Pins, &str)>,
) -> anyhow::Result<KernelSide> {
    let mut attached = bpf::load(options)?.attach(cgroup_root)?;
    let log = match options.kernel_log {
        KernelLog::Off => None,
        KernelLog::Debug => {
            Some(attached.kernel_log().context("cannot read the kernel programs' log")?)
        }
    };
    if let Some(adopter) = attached.adopter()? {
        adopt_all(adopter);
    }
    // Last: whoever takes it over adopts nothing any more.
    let probes = attached.serve(pins)?;
    Ok(KernelSide { probes, origin: Origin::Created, log })
}
