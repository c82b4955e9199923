//! What the kernel programs and the daemon share.
//!
//! Two kinds of things live here, and nothing else:
//! - **wire types** ([`wire`], [`label`]): the exact memory layout of what crosses the boundary between kernel and user space,
//!   and the [`counters`] in it, each declared once;
//! - **protocol parsers** ([`protocol`], with [`stream`], [`source`], [`framing`] and [`recorder`] under them): pure functions over bytes, used unchanged by the kernel programs and by host
//!   tests, so that what is tested and fuzzed is what runs in the kernel.
//!
//! [`abi`] is the version of both.
//!
//! The parsers are written for the verifier: they index fixed-size arrays with masks, never panic, never allocate, and
//! keep every loop bounded by a constant.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod counters;
pub mod framing;
pub mod label;
pub mod meaning;
pub mod protocol;
pub mod recorder;
pub mod source;
pub mod stream;
pub mod wire;

/// Bytes that the parsers of heads look at in one call: most heads fit.
pub const CHUNK: usize = 1024;
