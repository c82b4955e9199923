//! What `observer-ebpf/src/memory` is, with the host's instructions.

pub(crate) mod atomic;
pub(crate) mod registers;
#[path = "../../../observer-ebpf/src/memory/shared.rs"]
pub(crate) mod shared;
