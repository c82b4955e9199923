//! A socket and its life: the door to its state, who it is, how it opens and closes.

pub(crate) mod identity;
pub(crate) mod lifecycle;
pub(crate) mod path;
pub(crate) mod storage;
