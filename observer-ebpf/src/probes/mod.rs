//! The kernel programs, one file per hook family.
//!
//! `segment.rs` sees every segment and is the fast path; the parsers that it tail-calls when bytes have to be read are
//! in `parse.rs`, and those for segments that came too early in `reorder.rs`.

mod adopt;
mod callbacks;
mod census;
mod error;
mod job;
mod lifecycle;
mod packet;
mod parse;
mod reorder;
mod reset;
mod segment;
mod websocket;
