//! bpf-linker, built against the LLVM of the compiler whose bitcode it links.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

use super::apt::Apt;
use crate::cmd;
use crate::toolchain::{self, Toolchain};

const VERSION: &str = "0.13.0";

/// The LLVM releases that this version has a feature `llvm-N` for.
const SUPPORTED: &[u32] = &[21, 22, 23];

/// A function whose bitcode an older LLVM would not read: current attributes and debug records.
const SAMPLE: &str = "#![no_std]\n\
    #[unsafe(no_mangle)]\n\
    pub fn sample(to: &mut [u8], from: &[u8]) -> u64 {\n\
        for (to, from) in to.iter_mut().zip(from) { *to = *from; }\n\
        from.len() as u64\n\
    }\n";

pub(super) fn check() -> Result<String, String> {
    let toolchain = Toolchain::find().ok_or("there is no compiler for BPF")?;
    let linker = cmd::which("bpf-linker").ok_or("there is no program bpf-linker")?;
    let version = cmd::output(cmd::command(&linker).arg("--version"))
        .map_err(|error| format!("it does not run: {error:#}"))?;
    link_sample(&linker, &toolchain)
        .map_err(|error| format!("{version} does not link for {}: {error:#}", toolchain.label()))?;
    Ok(format!("{version}, links what {} compiles", toolchain.label()))
}

/// Links a bit of that compiler's bitcode. It is compiled for the host, whose `core` every
/// toolchain has; what differs between releases of LLVM is the encoding, not the target.
fn link_sample(linker: &Path, toolchain: &Toolchain) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [source, bitcode, object] =
        ["sample.rs", "sample.bc", "sample.o"].map(|name| directory.path().join(name));
    fs::write(&source, SAMPLE)?;
    let mut compile = toolchain.command("rustc");
    compile.args(["--edition=2024", "--crate-type=lib", "-O", "-g", "--emit=llvm-bc"]);
    cmd::output(compile.arg("-o").arg(&bitcode).arg(&source))?;
    let mut link = cmd::command(linker);
    link.args(["--target", toolchain::target(), "--btf", "--export", "sample", "--output"]);
    cmd::output(link.arg(&object).arg(&bitcode)).map(drop)
}

pub(super) fn install(apt: &mut Apt) -> Result<()> {
    let toolchain = Toolchain::find().context("there is no compiler for BPF")?;
    let llvm = toolchain.llvm().context("the compiler does not name its LLVM")?;
    let version = format!("--version={VERSION}");
    // What is there does not work, or we would not be here: --force replaces it.
    let mut install = cmd::cargo(&["install", "bpf-linker", &version, "--locked", "--force"]);
    if let Some(prefix) = llvm_prefix(llvm, apt)? {
        install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        cmd::say("*", &format!("with LLVM_PREFIX={}", prefix.display()));
        // Without it the build looks for an llvm-config and takes whichever LLVM that is of.
        install.env("LLVM_PREFIX", prefix);
    } else if cmd::which("cargo-binstall").is_some() {
        install = cmd::cargo(&["binstall", "--no-confirm", "--force", "bpf-linker", &version]);
    }
    cmd::run(&mut install).with_context(|| {
        format!(
            "bpf-linker needs LLVM {llvm}: install llvm-{llvm}-dev (https://apt.llvm.org has it \
             for Debian and Ubuntu), or cargo-binstall, which fetches a bpf-linker that contains \
             it; then run this again"
        )
    })
}

/// Where that release of LLVM is: where the user says, or where Debian has it, after installing it if apt has it.
fn llvm_prefix(llvm: u32, apt: &mut Apt) -> Result<Option<PathBuf>> {
    if !SUPPORTED.contains(&llvm) {
        return Ok(None);
    }
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(Some(prefix.into()));
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let package = format!("llvm-{llvm}-dev");
    if !has_llvm(&prefix) && apt.version(&package)?.is_some() {
        apt.install(&[&package])?;
    }
    Ok(has_llvm(&prefix).then_some(prefix))
}

/// Whether there is a libLLVM to link with.
fn has_llvm(prefix: &Path) -> bool {
    prefix.join("lib/libLLVM.so").exists()
}
