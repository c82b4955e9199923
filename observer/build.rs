//! Builds the kernel programs (package `observer-ebpf`) into `OUT_DIR/observer-ebpf`, where the
//! daemon embeds them, and records what this build is made of.
//!
//! The compiler and the linker for BPF are only looked for here; `cargo xtask setup` installs
//! them. Which ones are taken, and in which order, is told in `build/toolchain.rs`.

#[path = "build/strip.rs"]
mod strip;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

use toolchain::{TOOLCHAIN_VARIABLE, Toolchain, which};

const KERNEL_PACKAGE: &str = "observer-ebpf";

/// Set once this script runs with the environment that the kernel build needs.
const PREPARED: &str = "OBSERVER_BUILD_PREPARED";

fn main() {
    // One line that cargo shows as its own error, rather than a failed script's whole output.
    if let Err(message) = build() {
        println!("cargo::error={message}");
    }
}

fn build() -> Result<(), String> {
    let toolchain = Toolchain::find().ok_or_else(no_compiler)?;
    let linker = which("bpf-linker").ok_or_else(|| no_linker(&toolchain))?;
    if env::var_os(PREPARED).is_none() {
        return restart(&toolchain, &linker)
            .map_err(|error| format!("cannot restart the build script: {error}"));
    }

    build_information();
    for path in ["build.rs", "build", "../observer-common/src", "../observer-common/Cargo.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed={TOOLCHAIN_VARIABLE}");

    let package = aya_build::Package {
        name: KERNEL_PACKAGE,
        root_dir: "../observer-ebpf",
        ..Default::default()
    };
    let compiler = match &toolchain.name {
        Some(name) => aya_build::Toolchain::Custom(name),
        // Without rustup aya-build takes the compiler on PATH, whatever is said here.
        None => aya_build::Toolchain::Nightly,
    };
    // What the compiler says is shown as warnings.
    aya_build::build_ebpf([package], compiler)
        .map_err(|error| format!("{KERNEL_PACKAGE} does not build: {error:#}"))?;
    strip_object().map_err(|error| format!("{KERNEL_PACKAGE} cannot be stripped: {error}"))
}

/// Strips the object that is embedded.
fn strip_object() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(&env::var("OUT_DIR")?).join(KERNEL_PACKAGE);
    let stripped = strip::strip(&fs::read(&path)?)?;
    Ok(fs::write(&path, stripped)?)
}

/// Starts this script anew, in its own place, with the environment that aya-build hands on to the
/// compiler: changing that of a running process would be unsafe code. Returns only if it fails.
fn restart(toolchain: &Toolchain, linker: &Path) -> io::Result<()> {
    // rustc finds the linker by its name.
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(linker.parent().map(Path::to_owned));
    let path = env::join_paths(directories).map_err(io::Error::other)?;
    let error = Command::new(env::current_exe()?)
        .env(PREPARED, "1")
        .env("RUSTC_BOOTSTRAP", toolchain.bootstrap())
        .envs([toolchain::LTO])
        .env("PATH", path)
        // aya-build turns every line of the inner cargo into a warning of this one's.
        .env("CARGO_TERM_QUIET", "true")
        .exec();
    Err(error)
}

/// Why no compiler was found, and what to do about it.
fn no_compiler() -> String {
    match env::var(TOOLCHAIN_VARIABLE) {
        Ok(name) => format!(
            "the toolchain {name:?}, which {TOOLCHAIN_VARIABLE} names, is not there or has \
             neither a core library for {} nor the component rust-src: unset the variable and \
             run `cargo xtask setup`",
            toolchain::target()
        ),
        Err(_) => format!(
            "no Rust compiler here can build for {}, which the kernel programs need: run `cargo \
             xtask setup`, which installs one, or name a rustup toolchain in {TOOLCHAIN_VARIABLE}",
            toolchain::target()
        ),
    }
}

/// Why there is nothing to link with, and what to do about it.
fn no_linker(toolchain: &Toolchain) -> String {
    let llvm = toolchain.llvm().map_or_else(String::new, |release| format!(" {release}"));
    format!(
        "bpf-linker is neither on PATH nor among cargo's programs: run `cargo xtask setup`, which \
         installs the one for LLVM{llvm} of {}",
        toolchain.label()
    )
}

/// Sets `OBSERVER_GIT_REVISION` and `OBSERVER_RUSTC_VERSION` for `env!`; "unknown" where the
/// answer is not to be had. A build outside a checkout may give the revision in the environment.
fn build_information() {
    println!("cargo:rerun-if-env-changed=OBSERVER_GIT_REVISION");
    // The log of HEAD grows with every commit and checkout. A path that does not exist would
    // make cargo run this script each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let revision = env::var("OBSERVER_GIT_REVISION")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(unknown);
    println!("cargo:rustc-env=OBSERVER_GIT_REVISION={revision}");

    // "rustc 1.95.0 (59807616e 2026-04-14)"
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = toolchain::output(Command::new(rustc).arg("--version"))
        .and_then(|version| Some(version.split_whitespace().nth(1)?.to_owned()))
        .unwrap_or_else(unknown);
    println!("cargo:rustc-env=OBSERVER_RUSTC_VERSION={version}");
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// What git prints, if this is a checkout of this project (and not merely below some other one).
fn git(arguments: &[&str]) -> Option<String> {
    Path::new("../.git").exists().then_some(())?;
    toolchain::output(Command::new("git").args(arguments))
}
