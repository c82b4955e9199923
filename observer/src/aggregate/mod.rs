//! From cells to series: folding by replica, totals by workload, letting go of what is over, finding
//! what has ended untold, and noticing time-outs. Pure; time is a parameter.

mod census;
mod clusters;
mod expire;
mod fold;
mod pods;
mod workloads;

pub use census::{Censuses, Tally, Unseen};
pub use clusters::{Cluster, Clusters, Ends, cluster, sentence};
pub use expire::{Action, Ending, Expiry};
pub use fold::{Series, SeriesKey, fold};
pub use pods::{KeptKey, Pods};
pub use workloads::{TotalKey, Workloads};
