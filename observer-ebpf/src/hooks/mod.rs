//! The kernel's hooks, one file for each family: arguments in, one call out.

mod adopt;
pub(crate) mod callbacks;
mod dispatch;
mod error;
mod older;
mod reconcile;
mod reset;
mod segment;
mod state;
