//! The kernel programs on the host. The code is that of `observer-ebpf`, file by file; what stands in for the kernel is below
//! `aya_ebpf`, and for BPF's instructions in `memory`. [`world`] has sockets and packets, [`processors`] runs two processors
//! at once, step by step.

#![expect(missing_docs, reason = "tests of the workspace use it")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macros pass each program its context by value"
)]
#![expect(dead_code, reason = "only what the receive path needs of the kernel programs is driven")]

#[path = "../../observer-ebpf/src/accounting/mod.rs"]
mod accounting;
#[path = "../../observer-ebpf/src/clock.rs"]
mod clock;
#[path = "../../observer-ebpf/src/detour.rs"]
mod detour;
#[path = "../../observer-ebpf/src/floor.rs"]
mod floor;
#[path = "../../observer-ebpf/src/hooks"]
mod hooks {
    pub(crate) mod callbacks;
    pub(crate) mod segment;
}
#[path = "../../observer-ebpf/src/maps.rs"]
mod maps;
mod memory;
#[path = "../../observer-ebpf/src/socket/mod.rs"]
mod socket;
#[path = "../../observer-ebpf/src/stream/mod.rs"]
mod stream;

pub mod fault;
pub mod processors;
pub mod world;
