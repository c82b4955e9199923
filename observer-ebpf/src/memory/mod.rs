//! Memory that other processors write at the same time, and the instructions for it.

pub(crate) mod atomic;
pub(crate) mod registers;
pub(crate) mod shared;
