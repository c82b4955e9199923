//! The kernel programs of observer.
//!
//! ```text
//! hooks/ ─▶ stream/ ─▶ socket/ ─▶ accounting/ ─▶ memory/, maps.rs
//! ```
//!
//! - `hooks/`: one file per hook family, arguments in, one call out;
//! - `stream/`: the way of a segment's payload: claim, order, kept segments, parsers;
//! - `socket/`: a socket's state, who it is, how it opens and closes;
//! - `accounting/`: slots, the way of connections through the cells, counters, records, losses;
//! - `memory/`: memory that other processors write at the same time, and the instructions for it;
//! - `maps.rs`: every map with its sizing; `floor.rs`: the switch by which the bench measures the hooks alone;
//!   `detour.rs`: the one that makes another build of them.
//!
//! The protocol parsers are `observer-common`'s.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    unstable_features,
    reason = "inline assembly for BPF, which has no stable atomics with a result"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros pass each program its context by value"
)]

mod accounting;
mod clock;
mod detour;
mod floor;
mod hooks;
mod maps;
mod memory;
mod socket;
mod stream;

/// The verifier refuses a reachable endless loop: a panic that could happen makes the program fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_ktime_get_ns` is reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
