//! The way of a segment's payload: who may work on its stream, in which order, and who parses it.
//!
//! ```text
//! hooks/segment ─▶ claim ─▶ order ─┬─▶ parsers ─▶ (finish)
//!                    │             └─▶ keep ─▶ kept segments ─▶ drain ─▶ parsers
//!                    └─ busy: keep, handed over to whoever has claimed the stream
//! ```
//!
//! Programs go on by tail calls; what one hands to the next is the [`job`] in the packet's control buffer, and the claim.

mod adopted;
pub(crate) mod claim;
pub(crate) mod drain;
pub(crate) mod inline;
pub(crate) mod job;
pub(crate) mod keep;
pub(crate) mod kept;
pub(crate) mod note;
pub(crate) mod order;
pub(crate) mod packet;
pub(crate) mod parsers;
mod scratch;
pub(crate) mod settle;
