//! The books: what is counted, where, and what is lost.
//!
//! ```text
//! losses ◀─┬─ slots ◀─┬─ transitions    a connection's way through the cells
//!          │          └─ add            everything else that is counted
//!          └─ records                   details, for whoever listens
//! ```

pub(crate) mod add;
pub(crate) mod losses;
pub(crate) mod records;
pub(crate) mod slots;
pub(crate) mod transitions;
