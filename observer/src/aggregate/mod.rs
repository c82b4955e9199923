//! From cells to series: folding by replica, and letting go of what is over. Pure; time is a parameter.

mod expire;
mod fold;

pub use expire::{Action, Dead, Expiry};
pub use fold::{Series, SeriesKey, fold};
