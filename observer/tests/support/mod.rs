//! What the system tests stand on: real cgroups, real network namespaces, real programs.
//!
//! A test takes the [`lock`], makes its [`cgroup`]s and [`netns`], starts the [`daemon`] and the
//! [`workload`], and compares the daemon's [`metrics`] with the workload's books. Everything here
//! cleans up when dropped, a failing test's too, and everything waits with a deadline by
//! [`poll`]ing. Nothing skips: a test that cannot run has failed, and says why.

pub(crate) mod bpffs;
pub(crate) mod cgroup;
pub(crate) mod churn;
pub(crate) mod daemon;
pub(crate) mod http;
pub(crate) mod leaks;
pub(crate) mod lock;
pub(crate) mod metrics;
pub(crate) mod netns;
pub(crate) mod peer;
pub(crate) mod pod;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod prometheus;
pub(crate) mod provoke;
pub(crate) mod scale;
pub(crate) mod scenarios;
pub(crate) mod tools;
pub(crate) mod wire;
pub(crate) mod workload;
