//! The compiler for the BPF target: the distribution's, which has a prebuilt `core`, or a nightly
//! that builds its own.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::Apt;
use crate::cmd;
use crate::toolchain::{self, Core, LINKED_TOOLCHAIN, TOOLCHAIN_VARIABLE, Toolchain};

/// Names under which Debian and Ubuntu have a compiler, its cargo and `core` for BPF. Stable
/// releases get a current one for the sake of the web browsers.
const PACKAGES: &[[&str; 3]] = &[
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
    ["rustc", "cargo", "libstd-rust-dev-bpf"],
];

/// clippy of those compilers.
const CLIPPY_PACKAGES: &[&str] = &["rust-web-clippy", "rust-clippy"];

/// Where the packages' compiler is; rustup takes any such directory for a toolchain.
const PREFIX: &str = "/usr";

pub(super) fn check() -> Result<String, String> {
    let toolchain = Toolchain::find()
        .ok_or_else(|| format!("no toolchain can build for {}", toolchain::target()))?;
    let core = match toolchain.core {
        Core::Prebuilt => "with a prebuilt core",
        Core::FromSource => "with rust-src",
    };
    let llvm = toolchain.llvm().ok_or("the compiler does not name its LLVM")?;
    Ok(format!("{}, {core}, LLVM {llvm}", toolchain.label()))
}

pub(super) fn install(apt: &mut Apt) -> Result<()> {
    if let Ok(name) = std::env::var(TOOLCHAIN_VARIABLE) {
        bail!("{TOOLCHAIN_VARIABLE} names {name:?}, which cannot build for BPF: unset it");
    }
    let Err(reason) = install_packages(apt) else { return Ok(()) };
    cmd::say("!", &format!("not the distribution's compiler: {reason:#}"));
    install_nightly().with_context(|| {
        format!(
            "neither the distribution's compiler ({reason:#}) nor a nightly toolchain with \
             rust-src is to be had; with either, or with another toolchain named in \
             {TOOLCHAIN_VARIABLE}, the kernel programs build"
        )
    })
}

/// The packages of the distribution's compiler, if that is lacking and would do.
pub(super) fn packages(apt: &mut Apt) -> Vec<&'static str> {
    if std::env::var_os(TOOLCHAIN_VARIABLE).is_some() || has_core(Path::new(PREFIX)) {
        return Vec::new();
    }
    choose_packages(apt).map(<[_]>::to_vec).unwrap_or_default()
}

/// Installs the distribution's compiler, and makes it a toolchain of rustup's if there is one.
pub(super) fn install_packages(apt: &mut Apt) -> Result<()> {
    if !has_core(Path::new(PREFIX)) {
        let packages = choose_packages(apt)?;
        apt.install(packages)?;
    }
    if cmd::which("rustup").is_some() {
        let mut link = cmd::command("rustup");
        cmd::run(link.args(["toolchain", "link", LINKED_TOOLCHAIN, PREFIX]))?;
    }
    Ok(())
}

/// The packages whose compiler is new enough for the workspace.
fn choose_packages(apt: &mut Apt) -> Result<&'static [&'static str]> {
    for packages in PACKAGES {
        let versions: Option<Vec<_>> =
            packages.iter().map(|package| apt.version(package)).collect::<Result<_>>()?;
        if versions.is_some_and(|versions| versions.iter().all(|version| new_enough(version))) {
            return Ok(packages);
        }
    }
    bail!("apt has none of version {} with core for BPF", env!("CARGO_PKG_RUST_VERSION"))
}

fn has_core(prefix: &Path) -> bool {
    prefix.join("bin/rustc").exists()
        && prefix.join("lib/rustlib").join(toolchain::target()).join("lib").exists()
}

fn install_nightly() -> Result<()> {
    ensure!(cmd::which("rustup").is_some(), "a nightly toolchain needs rustup (https://rustup.rs)");
    let mut rustup = cmd::command("rustup");
    if cmd::succeeds(cmd::command("rustup").args(["run", "nightly", "rustc", "--version"])) {
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        rustup.args(["toolchain", "install", "nightly"]);
        rustup.args(["--profile", "minimal", "--component", "rust-src"]);
    }
    cmd::run(&mut rustup)
}

pub(super) fn check_clippy() -> Result<String, String> {
    let toolchain = Toolchain::find().ok_or("there is no compiler for BPF")?;
    cmd::output(toolchain.command("cargo").args(["clippy", "--version"]))
        .map(|version| format!("{version} of {}", toolchain.label()))
        .map_err(|_| format!("{} has none", toolchain.label()))
}

/// The package of clippy for the distribution's compiler, if that is, or will be, the one that builds.
pub(super) fn clippy_packages(apt: &mut Apt) -> Result<Vec<&'static str>> {
    match Toolchain::find().and_then(|toolchain| toolchain.name) {
        Some(name) if name != LINKED_TOOLCHAIN => Ok(Vec::new()),
        _ => apt.first_of(CLIPPY_PACKAGES),
    }
}

pub(super) fn install_clippy(apt: &mut Apt) -> Result<()> {
    let toolchain = Toolchain::find().context("there is no compiler for BPF")?;
    match toolchain.name.as_deref() {
        Some(LINKED_TOOLCHAIN) | None => apt.install_any(CLIPPY_PACKAGES),
        Some(name) => cmd::run(cmd::command("rustup").args([
            "component",
            "add",
            "clippy",
            "--toolchain",
            name,
        ])),
    }
}

/// Whether a package of this version has the compiler that the workspace asks for.
fn new_enough(version: &str) -> bool {
    // "1.96.0+dfsg1-1~deb12u2", possibly after an epoch and a colon.
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    release(version) >= release(env!("CARGO_PKG_RUST_VERSION"))
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::new_enough;

    #[test]
    fn versions_of_packages_compare_by_release() {
        assert!(new_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(new_enough("1:2.0"));
        assert!(!new_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(!new_enough("1.9.9"));
        assert!(!new_enough("nonsense"));
    }
}
