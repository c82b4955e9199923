//! From cells to series: folding by replica, totals by workload, and letting go of what is over. Pure; time is a parameter.

mod expire;
mod fold;
mod pods;
mod workloads;

pub use expire::{Action, Expiry, Seen};
pub use fold::{Series, SeriesKey, fold};
pub use pods::{KeptKey, Pods};
pub use workloads::{TotalKey, Totals, Workloads};
