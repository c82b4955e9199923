//! From cells to series: folding by replica, totals by workload, freeing cells that are over or idle without a counter going
//! down, finding what has ended untold, and finding timers that cut what is silent. Pure; time is a parameter.

mod age;
mod expire;
mod fold;
mod idle;
mod reconciliation;
mod replicas;
mod withhold;
mod workloads;

pub use age::{Ages, Used};
pub use expire::{Action, Ending, Expiry};
pub use fold::{Series, SeriesKey, fold};
pub use idle::{Cut, Ends, IdleCuts, Place, Watch, sentence, who};
pub use reconciliation::{Reconciliations, Tally, Unseen};
pub use replicas::{Replica, Replicas, without_port};
pub use withhold::{Evidence, Withheld, Withholding};
pub use workloads::{Sort, TotalKey, Workloads};
