//! From cells to series: folding by replica, totals by workload, freeing cells that are over or idle without a counter going
//! down, finding what has ended untold, and noticing time-outs. Pure; time is a parameter.

mod age;
mod clusters;
mod expire;
mod fold;
mod reconciliation;
mod replicas;
mod withhold;
mod workloads;

pub use age::{Ages, Used};
pub use clusters::{Cluster, Clusters, Ends, cluster, sentence, silent_ends};
pub use expire::{Action, Ending, Expiry};
pub use fold::{Series, SeriesKey, fold};
pub use reconciliation::{Reconciliations, Tally, Unseen};
pub use replicas::{Replica, Replicas, without_port};
pub use withhold::{Evidence, Withheld, Withholding};
pub use workloads::{Sort, TotalKey, Workloads};
