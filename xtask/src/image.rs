//! `cargo xtask image`: a container image of the daemon, as an OCI archive, made without a container engine.
//!
//! The image is one statically linked program and nothing else. It is linked against the C library
//! of this machine's own target, which needs no further toolchain; the daemon resolves no names, so
//! it misses none of what a static C library cannot do.

mod oci;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::setup::{self, Purpose};
use crate::{artifacts, cmd, cross};

/// What `cargo xtask image` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to write the archive [default: target/image/observer.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only link the program, and say where it is
    #[arg(long)]
    program_only: bool,
}

/// How large the program may be, as `deploy/README.md` tells those who have to store it.
const MOST_MB: u64 = 18;

/// Where the archive is written, and where the tests look for it.
fn default_output() -> PathBuf {
    cmd::workspace().join("target/image/observer.tar")
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Purpose::Build])?;
    let program = link(&["--release"])?;
    if options.program_only {
        println!("{}", program.display());
        return Ok(());
    }
    check(&program)?;
    let usual = default_output();
    build(&[(architecture(), &program)], options.output.as_deref().unwrap_or(&usual))
}

/// The image for the tests, at its usual place; returns where its program is. That is built for debugging: the tests have
/// its dependencies built already, and those of a release would take minutes.
pub(crate) fn ensure_built() -> Result<PathBuf> {
    let program = link(&[])?;
    build(&[(architecture(), &program)], &default_output())?;
    Ok(program)
}

/// This machine's architecture as Go, and hence OCI, and Debian call it.
pub(crate) fn architecture() -> &'static str {
    if cross::ARM64.is_native() { "arm64" } else { "amd64" }
}

/// Writes the archive, of programs by their architectures.
pub(crate) fn build(programs: &[(&'static str, &Path)], output: &Path) -> Result<()> {
    let read = |program: &Path| {
        fs::read(program).with_context(|| format!("reading {}", program.display()))
    };
    let programs = programs.iter().map(|(of, program)| Ok((*of, read(program)?)));
    let image = oci::Image {
        name: concat!("observer:", env!("CARGO_PKG_VERSION")),
        title: "observer",
        version: env!("CARGO_PKG_VERSION"),
        licenses: "Apache-2.0",
        revision: revision(),
        programs: programs.collect::<Result<_>>()?,
    };
    let directory = output.parent().context("the archive needs a directory")?;
    fs::create_dir_all(directory)?;
    // A reader never sees half an archive.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let digest = image.write(&mut file)?;
    file.flush()?;
    let size = file.as_file().metadata()?.len();
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(output)?;
    println!("{}: {}, {size} bytes, {digest}", output.display(), image.name);
    Ok(())
}

/// Builds the daemon with everything linked into it, and returns where it is. The next build of another kind puts its own
/// there.
fn link(profile: &[&str]) -> Result<PathBuf> {
    let mut cargo = cmd::cargo(&["rustc", "--package", "observer", "--bin", "observer"]);
    // For this program alone, which leaves the libraries as they are for every other build. No procedural macro could be
    // linked statically, either.
    let flags = ["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"];
    let built = artifacts::build_with(cargo.args(profile), &flags)?;
    let program = built.find("bin", false, "observer")?;
    ensure!(!asks_for_an_interpreter(&fs::read(program)?), "the program is linked dynamically");
    Ok(program.to_owned())
}

/// Sees to it that a program needs no other file, and is not larger than is told.
pub(crate) fn check(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    ensure!(!asks_for_an_interpreter(&bytes), "the program is linked dynamically");
    let size = bytes.len() as u64;
    ensure!(size < MOST_MB * 1_000_000, "the program has {size} bytes: deploy/README.md says less");
    Ok(())
}

/// Where dynamic linkers are, as it stands in every program that needs one.
fn asks_for_an_interpreter(program: &[u8]) -> bool {
    // The segment PT_INTERP lies at the start, behind the headers.
    let start = &program[..program.len().min(4096)];
    start.windows(4).any(|bytes| bytes == b"/ld-")
}

/// The commit of the checkout, if it is one.
pub(crate) fn revision() -> Option<String> {
    let mut git = cmd::command("git");
    cmd::output(git.args(["rev-parse", "HEAD"]).current_dir(cmd::workspace())).ok()
}

#[cfg(test)]
mod tests {
    use super::{MOST_MB, asks_for_an_interpreter};
    use crate::cmd;

    #[test]
    fn the_documents_tell_how_large_it_is() {
        let text = std::fs::read_to_string(cmd::workspace().join("deploy/README.md")).unwrap();
        assert!(text.contains(&format!("statically linked file of less than {MOST_MB} MB")));
    }

    #[test]
    fn our_own_test_program_is_linked_dynamically() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(asks_for_an_interpreter(&program));
        assert!(!asks_for_an_interpreter(b"\x7fELF and then no such name"));
    }
}
