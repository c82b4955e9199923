//! The lab can fail: each thing that must turn it red does so.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Lab;
use super::kernels::Kernel;
use super::qemu::Guest;
use super::verdict::Report;

/// One thing that must be noticed.
struct Case {
    name: &'static str,
    steps: &'static [&'static str],
    lacking: Option<&'static str>,
    limit: Duration,
    /// Each must be part of a complaint, and each complaint must have one.
    noticed: &'static [&'static str],
}

const PATIENCE: Duration = Duration::from_mins(3);
const INCOMPLETE: &str = "the last step did not come to its end";

const CASES: &[Case] = &[
    Case {
        name: "nothing wrong",
        steps: &["self-test-pass"],
        lacking: None,
        limit: PATIENCE,
        noticed: &[],
    },
    Case {
        name: "a failed test and a skip that is not expected",
        steps: &["self-test-pass", "self-test-fail", "self-test-skip"],
        lacking: None,
        limit: PATIENCE,
        noticed: &["self-test-fail failed", "self-test-skip was skipped"],
    },
    Case {
        name: "a panic of the guest's kernel",
        steps: &["self-test-panic", "self-test-pass"],
        lacking: None,
        limit: PATIENCE,
        noticed: &["self-test-panic failed", INCOMPLETE, "Kernel panic"],
    },
    Case {
        name: "a guest that hangs",
        steps: &["self-test-hang"],
        lacking: None,
        limit: Duration::from_secs(30),
        noticed: &["self-test-hang failed", INCOMPLETE, "did not power off"],
    },
    Case {
        name: "a kernel that lacks a hook",
        steps: &["check"],
        lacking: Some("inet_sock_set_state"),
        limit: PATIENCE,
        noticed: &["check failed"],
    },
];

/// Boots a guest for each case on the first kernel that is not to be refused.
pub(super) fn run(lab: &Lab, kernels: &[Kernel]) -> Result<()> {
    let kernel =
        kernels.iter().rfind(|kernel| !kernel.refused).context("no kernel to test the lab with")?;
    let initramfs = lab.world(kernel.architecture)?.initramfs(kernel, &lab.directory)?;
    let mut missed = 0;
    for case in CASES {
        let guest = Guest {
            kernel,
            initramfs: &initramfs,
            processors: 2,
            steps: case.steps,
            locked: false,
            lacking: case.lacking,
            limit: case.limit,
            directory: lab.directory.join("self-test"),
        };
        let ended = guest.boot()?;
        let mut complaints = lab.expected.complaints(&kernel.names(), &Report::read(&ended.report));
        complaints.extend(ended.trouble);
        let seen = case.sees(&complaints);
        println!("{} {}: {complaints:?}", if seen { "noticed" } else { "MISSED " }, case.name);
        missed += usize::from(!seen);
    }
    ensure!(missed == 0, "the lab does not notice {missed} of {} things that it must", CASES.len());
    Ok(())
}

impl Case {
    fn sees(&self, complaints: &[String]) -> bool {
        self.noticed.iter().all(|part| complaints.iter().any(|complaint| complaint.contains(part)))
            && complaints
                .iter()
                .all(|complaint| self.noticed.iter().any(|part| complaint.contains(part)))
    }
}
