//! `cargo xtask lint`: formatting, clippy with warnings as errors, and the dependencies' licences
//! and sources.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;
use crate::setup::{self, Purpose};
use crate::toolchain::{self, Core, Toolchain};

pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Lint])?;
    cmd::run(&mut cmd::cargo(&["fmt", "--all", "--check"]))?;
    cmd::run(&mut cmd::cargo(&["clippy", "--all-targets", "--", "--deny", "warnings"]))?;
    kernel_clippy()?;
    // Offline, cargo-deny reads the manifests of all dependencies from cargo's cache.
    cmd::run(&mut cmd::cargo(&["fetch"]))?;
    let mut deny = cmd::cargo(&["deny", "--offline", "check", "--hide-inclusion-graph"]);
    cmd::run(deny.args(["bans", "licenses", "sources"]))
}

/// clippy of the kernel programs, which only the BPF compiler can read.
fn kernel_clippy() -> Result<()> {
    let toolchain = Toolchain::find().context("there is no compiler for BPF")?;
    if !cmd::succeeds(toolchain.command("cargo").args(["clippy", "--version"])) {
        cmd::say("!", &format!("no clippy of the kernel programs: {} has none", toolchain.label()));
        return Ok(());
    }
    cmd::run(kernel_cargo(&toolchain, "clippy")?.args(["--", "--deny", "warnings"]))
}

/// A cargo command on the kernel programs, with what aya-build would give it.
fn kernel_cargo(toolchain: &Toolchain, subcommand: &str) -> Result<Command> {
    let mut cargo = toolchain.command("cargo");
    cargo.current_dir(cmd::workspace()).env("RUSTC_BOOTSTRAP", toolchain.bootstrap());
    // As for a build: the lab builds them in the same directory, with the same macros.
    cargo.envs([toolchain::LTO]);
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo.args([subcommand, "--package", "observer-ebpf", "--release"]);
    cargo.args(["--target", toolchain::target()]);
    // Another compiler's results would replace those of the host in the shared directory.
    cargo.arg("--target-dir").arg(cmd::target_directory()?.join("kernel"));
    if toolchain.core == Core::FromSource {
        cargo.args(["-Z", "build-std=core"]);
    }
    Ok(cargo)
}
