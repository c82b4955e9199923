//! `observer tail`: records of single connections, as they happen.
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
//! On the socket the client says, in one line of JSON, which records it wants ([`Filter`]); the daemon answers with a line
//! of JSON for each (`line`). When the client has had enough it closes its direction, and gets what has happened until
//! then.

pub mod client;
mod filter;
mod hub;
pub mod line;
mod socket;
mod source;

pub use filter::Filter;
pub use hub::{Hub, spawn};
pub use socket::{DEFAULT, Socket, SocketError, listen, serve};
