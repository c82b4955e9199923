//! The kernel programs of observer.
//!
//! `probes/` holds one file per hook family; `maps.rs` every map with its sizing; `count.rs` the books (cells and the
//! moves between them); `record.rs` the details for whoever listens; `atomic.rs` the BPF atomic instructions;
//! `floor.rs` the switch by which the bench measures the hooks alone. The protocol parsers are `observer-common`'s.
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
mod atomic;
mod floor;
mod maps;
mod probes;
mod record;
mod storage;

/// The verifier refuses a reachable endless loop: a panic that could happen makes the program fail to load.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_ktime_get_ns` is reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
