//! What the kernel programs and the daemon share.
//!
//! Two kinds of things live here, and nothing else:
//! - **wire types** ([`cell`], [`conn`], [`record`], [`loss`], [`protocol`]): the exact memory layout of what crosses
//!   the boundary between kernel and user space, fixed width, with named padding, asserted at compile time;
//! - **protocol parsers** ([`flow`] and the automata below it): pure functions over bytes, used unchanged by the kernel
//!   programs and by host tests, so that what is tested and fuzzed is what runs in the kernel.
//!
//! The parsers are written for the verifier: they index fixed-size arrays with masks, never panic, never allocate, and
//! keep every loop bounded by a constant.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod cell;
pub mod conn;
pub mod flow;
pub mod http1;
pub mod http2;
pub mod loss;
pub mod protocol;
pub mod record;
pub mod websocket;

/// Version of everything in this crate that crosses the kernel boundary or outlives a daemon in bpffs.
///
/// Bump it whenever the layout or the meaning of a map value changes; a daemon replaces pinned maps of another version.
pub const ABI_VERSION: u32 = 3;

/// Bytes that the parsers look at in one call: one segment of a common MTU fits, and 32 chained calls cover the largest
/// GRO segment of 64 KiB.
pub const CHUNK: usize = 2048;
