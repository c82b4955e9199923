//! One object for every architecture: what runs in the kernel is compared with what would be built for another one.
//!
//! Both are little-endian. What aya's bindings know of an architecture are its registers, which no program of observer's
//! reads; debug information tells what was built where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _};

use crate::cmd;
use crate::strip;
use crate::toolchain::{self, Toolchain};

/// Another architecture as aya-build calls it.
const OTHER: &str = "aarch64";

/// Compares the kernel programs that the daemon embeds here with those that it embeds where it is built for the other
/// architecture; without such a daemon, they are built as for one.
pub(super) fn check(embedded: &Path, other: Option<&Path>) -> Result<()> {
    let other = match other {
        Some(other) => other.to_owned(),
        None => build(&cmd::target_directory()?.join("kernel"))?,
    };
    let [ours, theirs] = [embedded, other.as_path()].map(sections);
    let (ours, theirs) = (ours?, theirs?);
    ensure!(!ours.is_empty(), "{} has no sections", embedded.display());
    for (one, other) in ours.iter().zip(&theirs) {
        ensure!(one == other, "the section {} is another one for {OTHER}", one.0);
    }
    ensure!(ours.len() == theirs.len(), "the object has other sections for {OTHER}");
    println!("\nthe kernel programs are the same for {OTHER}: {} sections", ours.len());
    Ok(())
}

/// What the daemon's build script does by aya-build, in the directory where the lints have built the macros.
fn build(directory: &Path) -> Result<PathBuf> {
    let compiler = Toolchain::find().context("there is no compiler for BPF")?;
    let target = toolchain::target();
    let mut cargo = compiler.command("cargo");
    let flags =
        [&format!("--cfg=bpf_target_arch=\"{OTHER}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"];
    cargo.args(["build", "--quiet", "--package", "observer-ebpf", "--bins", "--release"]);
    cargo.args(["--target", target]).arg("--target-dir").arg(directory);
    if compiler.bootstrap() == "1" {
        cargo.args(["-Z", "build-std=core"]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("RUSTC_BOOTSTRAP", compiler.bootstrap()).envs([toolchain::LTO]);
    // Ours, if cargo has started us.
    for variable in ["RUSTC", "RUSTUP_TOOLCHAIN", "CARGO"] {
        cargo.env_remove(variable);
    }
    cmd::run(cargo.current_dir(cmd::workspace()))?;
    let object = directory.join(target).join("release/observer-ebpf");
    // What is embedded has lost its debug information, and with it symbols that others were numbered behind.
    let stripped = object.with_extension("stripped");
    let elf = fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
    fs::write(&stripped, strip::strip(&elf)?)?;
    Ok(stripped)
}

/// All that the kernel gets to see but type information, by name.
fn sections(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let told = |name: &str| {
        [".debug", ".BTF", ".rel.debug", ".rel.BTF"].iter().any(|of| name.starts_with(of))
    };
    let mut sections = Vec::new();
    for section in file.sections() {
        let name = section.name()?;
        if !told(name) {
            sections.push((name.to_owned(), section.data()?.to_owned()));
        }
    }
    Ok(sections)
}
