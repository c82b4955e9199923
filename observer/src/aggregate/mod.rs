//! From cells to series: folding by replica, totals by workload, and letting go of what is over. Pure; time is a parameter.

mod expire;
mod fold;
mod pods;
mod workloads;

pub use expire::{Action, Dead, Expiry};
pub use fold::{Series, SeriesKey, fold};
pub use pods::{KeptKey, Pods};
pub use workloads::{TotalKey, Totals, Workloads};
