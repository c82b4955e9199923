//! How programs are built for an architecture that may be another one than this machine's.

use std::process::Command;

/// Flags of the compiler for what needs no library of the machine that it runs on.
pub(crate) const STATIC: &str = "-C target-feature=+crt-static";

/// An architecture to build for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cross {
    /// Of Rust.
    pub(crate) target: &'static str,
    /// What the names of its C compiler and binutils start with, where they are not this machine's own.
    pub(crate) prefix: &'static str,
}

pub(crate) static AMD64: Cross =
    Cross { target: "x86_64-unknown-linux-gnu", prefix: "x86_64-linux-gnu-" };

pub(crate) static ARM64: Cross =
    Cross { target: "aarch64-unknown-linux-gnu", prefix: "aarch64-linux-gnu-" };

impl Cross {
    /// Whether programs for it run on this machine.
    pub(crate) fn is_native(&self) -> bool {
        self.target.split('-').next() == Some(std::env::consts::ARCH)
    }

    /// Has cargo build for it, and the compiler take these flags.
    pub(crate) fn apply(&self, cargo: &mut Command, flags: &str) {
        let variable = self.target.replace('-', "_");
        let of_cargo = format!("CARGO_TARGET_{}", variable.to_uppercase());
        cargo.args(["--target", self.target]);
        // For this target only: build scripts and procedural macros cannot be linked statically.
        cargo.env(format!("{of_cargo}_RUSTFLAGS"), flags);
        if self.is_native() {
            return;
        }
        let compiler = format!("{}gcc", self.prefix);
        cargo.env(format!("{of_cargo}_LINKER"), &compiler);
        // For the crates with C in them.
        cargo.env(format!("CC_{variable}"), compiler);
        cargo.env(format!("AR_{variable}"), format!("{}ar", self.prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd;

    fn told(cross: &Cross, name: &str) -> Option<String> {
        let mut cargo = cmd::cargo(&["build"]);
        cross.apply(&mut cargo, STATIC);
        let value = cargo.get_envs().find(|(told, _)| *told == name)?.1?;
        value.to_str().map(str::to_owned)
    }

    #[test]
    fn a_cross_build_is_told_linker_and_compiler() {
        let [native, other] = if AMD64.is_native() { [&AMD64, &ARM64] } else { [&ARM64, &AMD64] };
        for (cross, expected) in [(native, None), (other, Some(format!("{}gcc", other.prefix)))] {
            let variable = cross.target.replace('-', "_");
            let linker = format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase());
            assert_eq!(told(cross, &linker), expected);
            assert_eq!(told(cross, &format!("CC_{variable}")), expected);
        }
    }
}
