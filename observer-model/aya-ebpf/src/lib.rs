//! What the kernel programs use of aya-ebpf, on the host: the same names and types over plain memory. Maps and sockets belong to
//! a [`host::World`]; a tail call ends the program that makes it; and each access to what other processors may change at the
//! same time is a point at which a scheduler may switch to another one ([`host::point`]).

#![expect(missing_docs, reason = "the names and their meanings are aya's and the kernel's")]
#![expect(clippy::missing_safety_doc, reason = "the contracts are aya's and the kernel's")]
#![expect(
    clippy::pub_underscore_fields,
    clippy::struct_field_names,
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "the signatures are aya's and the kernel's"
)]

pub use aya_ebpf_macros as macros;

pub mod bindings;
pub mod btf_maps;
pub mod helpers;
pub mod host;
pub mod programs;
