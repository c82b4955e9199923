//! The architectures that guests have: what QEMU emulates of each, and what Debian and Rust call it.

use std::process::Command;

use crate::cross::{self, Cross};

/// An architecture of guests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    /// As Debian calls it.
    pub(super) name: &'static str,
    /// The target that programs are cross-built for; none if they are the very ones that run on this machine.
    pub(super) cross: Option<&'static Cross>,
    pub(super) emulator: &'static str,
    /// Board, processor, and how QEMU runs it.
    pub(super) machine: &'static [&'static str],
    /// The board's own serial line, where the kernel's messages go.
    pub(super) console: &'static str,
    /// A further serial line as QEMU calls it, and as the guest does: the verdicts go there, away from the kernel's
    /// messages.
    pub(super) line: (&'static str, &'static str),
}

pub(super) static AMD64: Architecture = Architecture {
    name: "amd64",
    cross: None,
    emulator: "qemu-system-x86_64",
    // All that QEMU emulates but `cmpxchg16b`, of which QEMU 7.2 spoils the flags, and the kernel's allocator with them. The
    // processors take turns: when each has a thread of its own, one may run into a breakpoint that the kernel has long
    // taken out again while it changes its own code, as for a tracepoint ("Oops: int3").
    machine: &["-cpu", "max,-cx16", "-accel", "tcg,thread=single"],
    console: "ttyS0",
    line: ("isa-serial", "ttyS1"),
};

pub(super) static ARM64: Architecture = Architecture {
    name: "arm64",
    cross: Some(&cross::ARM64),
    emulator: "qemu-system-aarch64",
    // All that QEMU emulates. Kernels sign return addresses, those of BPF programs too, and QEMU's own cipher for that
    // costs a fifth of the architecture's.
    machine: &["-machine", "virt", "-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi"],
    console: "ttyAMA0",
    // The board has one line only.
    line: ("pci-serial", "ttyS0"),
};

/// Where an image for arm64 has its magic number (the kernel's `Documentation/arch/arm64/booting.rst`).
const MAGIC_AT: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";

impl Architecture {
    /// That of a kernel's image.
    pub(super) fn of_image(image: &[u8]) -> &'static Self {
        let magic = image.get(MAGIC_AT..MAGIC_AT + MAGIC.len());
        if magic == Some(MAGIC) { &ARM64 } else { &AMD64 }
    }

    /// What takes debug information out of a program for it.
    pub(super) fn strip(&self) -> String {
        format!("{}strip", self.cross.map_or("", |cross| cross.prefix))
    }
}

/// Has cargo build what guests run. It is linked statically: then it does not matter that the C library that it is linked
/// with is this machine's, and older or newer than the guest's.
pub(super) fn cross_build(cross: &Cross, cargo: &mut Command) {
    cross.apply(cargo, cross::STATIC);
    // An emulated processor is slow, and there is no other build to share with. Debug assertions stay.
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    // Nothing with debug information gets into a guest.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "none");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tells_its_architecture() {
        let mut image = [0; 64];
        assert_eq!(Architecture::of_image(&image), &AMD64);
        image[MAGIC_AT..60].copy_from_slice(MAGIC);
        assert_eq!(Architecture::of_image(&image), &ARM64);
        assert_eq!(Architecture::of_image(&image[..58]), &AMD64);
    }
}
