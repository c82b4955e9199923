//! Finds what builds the kernel programs: a compiler with a `core` library for the BPF target,
//! and `bpf-linker`.
//!
//! Shared, by `#[path]`, between the build script of `observer`, which uses what is there, and
//! `cargo xtask setup`, which installs what is not. Nothing here changes the machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the rustup toolchain to use, before all others.
pub(crate) const TOOLCHAIN_VARIABLE: &str = "OBSERVER_BPF_TOOLCHAIN";

/// The rustup toolchain that `cargo xtask setup` links to the distribution's compiler.
pub(crate) const LINKED_TOOLCHAIN: &str = "observer-bpf";

/// Set while the kernel programs are built: their code is the same whatever the daemon's own profile says. What aya's
/// crates define is inlined before `bpf-linker` sees it.
pub(crate) const LTO: (&str, &str) = ("CARGO_PROFILE_RELEASE_LTO", "thin");

/// Where the toolchain's `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It is installed beside the compiler's other targets.
    Prebuilt,
    /// cargo builds it from the component `rust-src`.
    FromSource,
}

/// A compiler for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// rustup's name for it; `None` for the `rustc` and `cargo` on `PATH` of a machine without rustup.
    pub(crate) name: Option<String>,
    /// Where its `core` comes from.
    pub(crate) core: Core,
}

impl Toolchain {
    /// The toolchain to build with, or `None` if this machine has none.
    ///
    /// The one that [`TOOLCHAIN_VARIABLE`] names is the only candidate if it is set; otherwise
    /// the first that fits of [`LINKED_TOOLCHAIN`] and nightly, or, without rustup, the
    /// compiler on `PATH`.
    pub(crate) fn find() -> Option<Self> {
        candidates().into_iter().find_map(|name| {
            let sysroot = output(tool(name.as_deref(), "rustc").args(["--print", "sysroot"]))?;
            let core = core_below(Path::new(&sysroot))?;
            Some(Self { name, core })
        })
    }

    /// A command that runs `program` (rustc, cargo, …) of this toolchain.
    pub(crate) fn command(&self, program: &str) -> Command {
        tool(self.name.as_deref(), program)
    }

    /// How messages call it.
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("the compiler on PATH")
    }

    /// What `RUSTC_BOOTSTRAP` must hold while this toolchain builds the kernel programs.
    ///
    /// aya-ebpf and our kernel programs use inline BPF assembly, which is unstable. A stable
    /// compiler allows it to the crates that are named; naming them, rather than saying "1", also
    /// keeps aya-build from building `core` itself.
    pub(crate) fn bootstrap(&self) -> &'static str {
        match self.core {
            Core::Prebuilt => "aya_ebpf,observer_ebpf",
            Core::FromSource => "1",
        }
    }

    /// The LLVM release this compiler writes bitcode of, such as 22.
    pub(crate) fn llvm(&self) -> Option<u32> {
        let version = output(self.command("rustc").arg("-vV"))?;
        let release = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        release.split('.').next()?.parse().ok()
    }
}

/// The target of the kernel programs: BPF in the byte order of this machine.
pub(crate) const fn target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Where `program` is: on `PATH`, or else in cargo's own directory of installed programs, which
/// not every shell has on its `PATH`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The directory that `cargo install` writes programs to.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    Some(home.join("bin"))
}

fn candidates() -> Vec<Option<String>> {
    if let Ok(name) = env::var(TOOLCHAIN_VARIABLE) {
        vec![Some(name)]
    } else if which("rustup").is_some() {
        vec![Some(LINKED_TOOLCHAIN.to_owned()), Some("nightly".to_owned())]
    } else {
        vec![None]
    }
}

fn tool(toolchain: Option<&str>, program: &str) -> Command {
    let Some(toolchain) = toolchain else { return Command::new(program) };
    let mut command = Command::new(which("rustup").unwrap_or_else(|| "rustup".into()));
    command.args(["run", toolchain, program]);
    // Looking for a toolchain must not download it.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn core_below(sysroot: &Path) -> Option<Core> {
    let library = sysroot.join("lib/rustlib").join(target()).join("lib");
    let mut files = library.read_dir().into_iter().flatten().flatten();
    if files.any(|file| file.file_name().to_string_lossy().starts_with("libcore-")) {
        Some(Core::Prebuilt)
    } else if sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        Some(Core::FromSource)
    } else {
        None
    }
}

/// What `command` prints, trimmed; `None` if it cannot run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
