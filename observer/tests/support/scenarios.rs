//! Many scenarios in one test: a failing one does not keep the others from running.

use anyhow::Result;

use super::{daemon::Daemon, metrics::Metrics};

/// Of the daemon: enough slots for all scenarios of a test, of which each scrape reads all; the pods of those that are over go
/// at once.
pub(crate) const OPTIONS: [&str; 4] = ["--cells", "4096", "--show-ended", "1s"];

/// What the daemon says it has lost, and which programs the kernel has skipped.
pub(crate) fn losses(metrics: &Metrics) -> Metrics {
    const FAMILIES: [&str; 2] = ["observer_lost_total", "observer_probe_skips_total"];
    let mut losses = metrics.clone();
    losses.samples.retain(|sample| FAMILIES.contains(&sample.name.as_str()));
    losses
}

/// The scenarios that failed, each with what it expected and got.
#[derive(Default)]
pub(crate) struct Failures {
    ran: usize,
    failed: Vec<String>,
}

impl Failures {
    /// Runs one scenario and notes how it went, with what was lost meanwhile if it went wrong.
    pub(crate) fn run(
        &mut self,
        daemon: &Daemon,
        name: &str,
        scenario: impl FnOnce() -> Result<()>,
    ) {
        self.ran += 1;
        let before = losses(&daemon.scrape());
        if let Err(error) = scenario() {
            let lost = losses(&daemon.scrape()).diff(&before);
            let lost = if lost.is_empty() { String::new() } else { format!("lost:\n{lost}") };
            self.failed.push(format!("## {name}\n{error:#}\n{lost}"));
        }
    }

    /// Adds those of other scenarios.
    pub(crate) fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.failed.extend(other.failed);
    }

    /// Fails the test if a scenario has failed.
    pub(crate) fn report(self) {
        let Self { ran, failed } = self;
        assert!(
            failed.is_empty(),
            "{} of {ran} scenarios failed:\n{}",
            failed.len(),
            failed.join("\n")
        );
    }
}
