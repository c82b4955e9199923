//! How the daemon comes to its kernel side: made anew, taken over, updated, or replaced.

use std::{collections::HashSet, path::Path};

use anyhow::Context as _;
use tracing::{info, warn};

use crate::{
    adopt::{Visit, adopt_all},
    attribute::CgroupIndex,
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
    /// Cgroups whose connections from before its start were looked for.
    pub visited: HashSet<u64>,
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
    if let Some((mut probes, origin)) = pins.take_over(&fingerprint, options, cgroup_root)? {
        if origin == Origin::Updated {
            info!(
                fingerprint,
                "took over the kernel side of an earlier observer, with the programs of this build in the place of its own"
            );
        } else {
            info!(fingerprint, "took over the kernel side of an earlier observer");
        }
        probes.want_records(false).context("cannot use the kernel side of an earlier observer")?;
        return Ok(KernelSide { probes, origin, log: None, visited: HashSet::new() });
    }
    let replaced = pins.clear()?;
    if replaced {
        warn!(
            fingerprint,
            "replaced the kernel side of an incompatible observer: its counts end, and what is open is adopted"
        );
    }
    let side = created(options, cgroup_root, Some((pins, options, &fingerprint)))?;
    let origin = if replaced { Origin::Replaced } else { Origin::Created };
    Ok(KernelSide { origin, ..side })
}

fn created(
    options: &Options<'_>,
    cgroup_root: &Path,
    pins: Option<(&Pins, &Options<'_>, &str)>,
) -> anyhow::Result<KernelSide> {
    let loaded = bpf::load(options)?;
    let mut cgroups = CgroupIndex::new(cgroup_root.to_owned());
    cgroups.refresh().context("cannot walk the cgroup tree")?;
    let mut attached = loaded.attach(cgroup_root, cgroups.numbers())?;
    let log = match options.kernel_log {
        KernelLog::Off => None,
        KernelLog::Debug => {
            Some(attached.kernel_log().context("cannot read the kernel programs' log")?)
        }
    };
    let visit = match attached.adopter()? {
        Some(adopter) => adopt_all(adopter, |cgroup| cgroups.number(cgroup)),
        None => Visit::default(),
    };
    // Last: whoever takes it over adopts nothing any more.
    let mut probes = attached.serve(pins)?;
    if visit.everywhere {
        probes.slots().note_visit();
    }
    Ok(KernelSide { probes, origin: Origin::Created, log, visited: visit.cgroups })
}
