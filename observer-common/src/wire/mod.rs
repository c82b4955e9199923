//! Wire types: the exact memory layout of what crosses the boundary between kernel and user space, or outlives a daemon.
//!
//! Fixed widths, named padding, no enums, sizes and offsets asserted at compile time.

pub mod conn;
pub mod event;
pub mod kept;
pub mod loss;
pub mod replica;
pub mod slot;
