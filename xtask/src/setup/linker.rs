//! bpf-linker, for the LLVM of the compiler whose bitcode it links.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

use super::apt::Apt;
use super::compiler;
use crate::cmd;
use crate::toolchain::{self, TOOLCHAIN_VARIABLE, Toolchain};

const VERSION: &str = "0.13.0";

/// Of the program that fetches prebuilt programs: one that our compiler builds.
const BINSTALL_VERSION: &str = "1.24.0";

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
    let (mut llvm, nightly) = wanted_llvm()?;
    let mut prefix = llvm_prefix(llvm, apt)?;
    if prefix.is_none() && nightly {
        // Nightly is often ahead of every packaged LLVM. The distribution's compiler, which comes
        // before it once it is there, was built with a packaged one.
        cmd::say("!", &format!("there is no LLVM {llvm} for nightly; trying another compiler"));
        match compiler::install_packages(apt) {
            Ok(()) => {
                (llvm, _) = wanted_llvm()?;
                prefix = llvm_prefix(llvm, apt)?;
            }
            Err(reason) => cmd::say("!", &format!("not the distribution's: {reason:#}")),
        }
    }
    match prefix {
        Some(prefix) => build(llvm, &prefix),
        None => fetch().with_context(|| {
            format!(
                "there is neither an LLVM {llvm} here (https://apt.llvm.org has llvm-{llvm}-dev \
                 for Debian and Ubuntu) nor a prebuilt bpf-linker to be had"
            )
        }),
    }
}

/// The LLVM of the compiler that would be used, and whether that is nightly for want of another.
fn wanted_llvm() -> Result<(u32, bool)> {
    let toolchain = Toolchain::find().context("there is no compiler for BPF")?;
    let llvm = toolchain.llvm().context("the compiler does not name its LLVM")?;
    let asked_for = env::var_os(TOOLCHAIN_VARIABLE).is_some();
    Ok((llvm, toolchain.name.as_deref() == Some("nightly") && !asked_for))
}

/// Builds it against an installed LLVM.
fn build(llvm: u32, prefix: &Path) -> Result<()> {
    cmd::say("*", &format!("with LLVM_PREFIX={}", prefix.display()));
    let mut install = cmd::cargo(&["install", "bpf-linker", "--version", VERSION, "--locked"]);
    // One that does not work is replaced by force.
    install.args(["--force", "--no-default-features", "--features", &format!("llvm-{llvm}")]);
    // Without the prefix the build takes whichever LLVM the first llvm-config is of.
    cmd::run(install.env("LLVM_PREFIX", prefix))
}

/// Fetches the one that bpf-linker's authors publish, which contains an LLVM of its own.
fn fetch() -> Result<()> {
    if cmd::which("cargo-binstall").is_none() {
        let version = ["--version", BINSTALL_VERSION, "--locked"];
        cmd::run(cmd::cargo(&["install", "cargo-binstall"]).args(version))?;
    }
    let mut binstall = cmd::cargo(&["binstall", "bpf-linker", "--version", VERSION]);
    // Building it is what we could not.
    cmd::run(binstall.args(["--no-confirm", "--force", "--disable-strategies", "compile"]))
}

/// Where that release of LLVM is: where the user says, or where Debian has it, after installing it
/// if apt has it, or where llvm-config says.
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
    Ok(has_llvm(&prefix).then_some(prefix).or_else(|| configured_prefix(llvm)))
}

/// What llvm-config says, if it is of that release.
fn configured_prefix(llvm: u32) -> Option<PathBuf> {
    let ask = |question| cmd::output(cmd::command("llvm-config").arg(question)).ok();
    let release = ask("--version")?.split('.').next()?.parse::<u32>().ok()?;
    (release == llvm).then_some(())?;
    ask("--prefix").map(PathBuf::from)
}

/// Whether there is a libLLVM to link with.
fn has_llvm(prefix: &Path) -> bool {
    prefix.join("lib/libLLVM.so").exists()
}
