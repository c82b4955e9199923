//! A cgroup shaped like a pod's container, with books of its own.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, bail};

use super::{
    cgroup::TestCgroup,
    daemon::Daemon,
    metrics::{Expected, Metrics},
    poll::poll,
};

/// How long the books may take: the kernel ends a connection a moment after its last segment.
const SETTLE: Duration = Duration::from_secs(3);

/// A cgroup shaped like a pod's container, for one end of one scenario.
pub(crate) struct Pod {
    /// Its cgroup.
    pub(crate) cgroup: TestCgroup,
    /// The value of the label `pod`.
    pub(crate) name: String,
}

impl Pod {
    /// A pod that no other scenario has had: its books start at zero.
    pub(crate) fn new() -> Self {
        static PODS: AtomicU32 = AtomicU32::new(1);
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:08x}-0000-4000-8000-{number:012x}", process::id());
        let container = format!("{:056x}{number:08x}", process::id());
        Self { cgroup: TestCgroup::pod(&name, &container), name }
    }
}

/// Waits until the books of all pods are in order: `mismatches` has nothing to say about any pod's part of a scrape.
pub(crate) fn settle<T>(
    daemon: &Daemon,
    books: &[(&Pod, T)],
    mismatches: impl Fn(&T, &Metrics) -> Vec<String>,
) -> Result<()> {
    let mut wrong = Vec::new();
    let settled = poll(SETTLE, || {
        let metrics = daemon.scrape();
        wrong.clear();
        for (pod, expected) in books {
            // Of hundreds of pods only this one's series belong into a message.
            wrong.extend(mismatches(expected, &only(&metrics, pod)));
        }
        wrong.is_empty().then_some(())
    });
    if settled.is_none() {
        bail!("{}", wrong.join(""));
    }
    Ok(())
}

/// Waits until all of that holds at all ends; says what does not.
pub(crate) fn check(daemon: &Daemon, expected: &[(&Pod, Vec<Expected>)]) -> Result<()> {
    settle(daemon, expected, |sums, metrics| {
        sums.iter().filter_map(|sum| sum.mismatch(metrics)).collect()
    })
}

fn only(metrics: &Metrics, pod: &Pod) -> Metrics {
    let mut own = metrics.clone();
    own.samples.retain(|sample| sample.labels.get("pod") == Some(&pod.name));
    own
}
