//! Segments that no real socket would send, at moments that no real network would choose.
//!
//! - [`tun`]: packets in and out of a namespace, by a file;
//! - [`raw`]: a TCP of our own behind such a device, against a real socket;
//! - [`cable`]: two such devices joined by a thread, which loses, swaps, holds or cuts as told;
//! - [`faults`]: which packets those are;
//! - [`packet`]: the headers.

pub(crate) mod cable;
pub(crate) mod faults;
pub(crate) mod packet;
pub(crate) mod raw;
pub(crate) mod tun;
