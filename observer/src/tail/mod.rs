//! The socket of the daemon: records of single connections as they happen (`observer tail`), and what [`crate::view`] shows
//! (`top`, `ps`, `doctor`).
//!
//! ```text
//!   kernel ─ ring buffer ─▶ hub ─┬─▶ connection log
//!                                ├─▶ bounded queue ─▶ socket ─▶ observer tail
//!                                └─▶ bounded queue ─▶ socket ─▶ observer tail
//! ```
//!
//! The kernel writes records only while somebody listens. Nobody waits for anybody: what does not fit into the ring
//! buffer, or into the queue of a reader that is slow, is dropped and counted, and the count is shown to that reader.
//!
//! On the socket the client says, in one line of JSON, what it wants ([`Request`](crate::view::Request)); the daemon answers
//! with a line of JSON for each record (`line`), connection or table. When a client that follows has had enough it closes its
//! direction, and gets what has happened until then.

mod hub;
pub mod line;
mod socket;
mod source;

pub use hub::{Hub, spawn};
pub use socket::{DEFAULT, Socket, SocketError, listen, serve};
