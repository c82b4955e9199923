//! `cargo xtask dist`: what people install. For each architecture a statically linked program, in a tarball and in a Debian
//! package with its unit, manual pages and completions; what it is made of, as a bill of materials; one container image of
//! all architectures; and checksums.
//!
//! | module | what it does |
//! |---|---|
//! | [`build`] | the programs, and what they say of themselves |
//! | [`materials`] | the crates in a program, their licences, and the bill of materials |
//! | [`tarball`], [`debian`] | the two forms |
//!
//! The same checkout gives the same bytes: times are those of the commit. Paths of this machine are taken out of the programs,
//! but for those in the type information of the kernel programs, which aya-build compiles with flags of its own.

mod build;
mod debian;
mod materials;
mod tarball;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use flate2::Compression;

use crate::archive::sha256;
use crate::cross::{self, Cross};
use crate::setup::{self, Purpose};
use crate::{cmd, image};
use build::Documents;
use materials::Materials;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `cargo xtask dist` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to write everything [default: target/dist]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Only for this architecture [default: all]
    #[arg(long, value_name = "NAME")]
    architecture: Vec<Architecture>,
    /// Only what the tests look at, of a build for debugging
    #[arg(long, conflicts_with_all = ["output", "architecture"])]
    for_tests: bool,
}

/// What it makes programs for, as Debian calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn cross(self) -> &'static Cross {
        match self {
            Self::Amd64 => &cross::AMD64,
            Self::Arm64 => &cross::ARM64,
        }
    }

    /// That of this machine.
    fn native() -> Self {
        if cross::ARM64.is_native() { Self::Arm64 } else { Self::Amd64 }
    }
}

/// Where the tests look for packages.
fn for_tests() -> PathBuf {
    cmd::workspace().join("target/packages")
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.for_tests {
        setup::ensure(&[Purpose::Build])?;
        return ensure_built(&image::ensure_built()?);
    }
    let all = [Architecture::Amd64, Architecture::Arm64];
    let wanted: Vec<_> = all
        .into_iter()
        .filter(|of| options.architecture.is_empty() || options.architecture.contains(of))
        .collect();
    let mut purposes = vec![Purpose::Build, Purpose::Dist];
    if wanted.iter().any(|of| !of.cross().is_native()) {
        purposes.push(Purpose::Cross);
    }
    setup::ensure(&purposes)?;
    let directory = options.output.clone().unwrap_or(cmd::workspace().join("target/dist"));
    let output = Output::new(&directory)?;
    // What the programs say of themselves is the same for all, and asked of the one that runs here.
    let native = build::release(Architecture::native().cross())?;
    let documents = Documents::of(&native)?;
    let mut programs = Vec::new();
    for architecture in wanted {
        let program = if architecture == Architecture::native() {
            native.clone()
        } else {
            build::release(architecture.cross())?
        };
        image::check(&program)?;
        let package = pack(&output, architecture, &program, &documents, true)?;
        debian::judge(&package)?;
        programs.push((architecture.name(), program));
    }
    let programs: Vec<_> = programs.iter().map(|(of, program)| (*of, program.as_path())).collect();
    image::build(&programs, &directory.join(format!("observer-{VERSION}.oci.tar")))?;
    output.sums()
}

/// Packs what the tests look at, of a program that is built already.
pub(crate) fn ensure_built(program: &Path) -> Result<()> {
    let output = Output::new(&for_tests())?;
    pack(&output, Architecture::native(), program, &Documents::of(program)?, false)?;
    output.sums()
}

/// Writes tarball, package and bill of materials for an architecture; returns where the package is. Without `small` they
/// are made fast.
fn pack(
    output: &Output,
    architecture: Architecture,
    program: &Path,
    documents: &Documents,
    small: bool,
) -> Result<PathBuf> {
    let time = build::time();
    let materials = Materials::of(architecture.cross())?;
    let name = architecture.name();
    let stem = format!("observer-{VERSION}-linux-{name}");
    let bill = materials.bill(time)?;
    output.write(&format!("{stem}.cdx.json"), &bill)?;
    let contents = Contents {
        program: fs::read(program).with_context(|| format!("reading {}", program.display()))?,
        documents,
        notices: materials.notices()?,
        bill,
        time,
    };
    let level = if small { Compression::best() } else { Compression::fast() };
    output.write(&format!("{stem}.tar.gz"), &tarball::write(&stem, &contents, level)?)?;
    debian::build(&output.directory, name, &contents, small)
}

/// What both forms hold.
struct Contents<'a> {
    program: Vec<u8>,
    documents: &'a Documents,
    /// The licences of what the program is made of.
    notices: String,
    bill: Vec<u8>,
    /// Of the commit, in seconds since the epoch.
    time: u64,
}

/// A file of the checkout.
fn of_checkout(path: &str) -> Result<Vec<u8>> {
    fs::read(cmd::workspace().join(path)).with_context(|| format!("reading {path}"))
}

/// The directory that everything is written to.
struct Output {
    directory: PathBuf,
}

/// The file with the checksums of the others.
const SUMS: &str = "SHA256SUMS";

impl Output {
    /// Nothing of an earlier time is left in it.
    fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == SUMS || name.starts_with("observer") && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { directory: directory.to_owned() })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }

    /// Writes the checksums of all files, as `sha256sum --check` reads them, and tells what there is.
    fn sums(&self) -> Result<()> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.insert(entry.file_name().display().to_string(), fs::read(entry.path())?);
            }
        }
        let sums = files.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes)));
        self.write(SUMS, sums.collect::<Vec<_>>().concat().as_bytes())?;
        for (name, bytes) in files {
            println!("{}: {} bytes", self.directory.join(name).display(), bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        let page = ("observer.1".to_owned(), b".TH observer 1\n".to_vec());
        let documents = Documents {
            pages: [page].into(),
            completions: build::SHELLS.iter().map(|(shell, _)| (*shell, Vec::new())).collect(),
        };
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let sums = directories.each_ref().map(|directory| {
            let program = directory.path().join("program");
            fs::write(&program, "#!/bin/true\n").unwrap();
            let packages = directory.path().join("packages");
            let output = Output::new(&packages).unwrap();
            pack(&output, Architecture::native(), &program, &documents, false).unwrap();
            output.sums().unwrap();
            fs::read_to_string(packages.join(SUMS)).unwrap()
        });
        assert_eq!(sums[0].lines().count(), 3, "{}", sums[0]);
        assert_eq!(sums[0], sums[1]);
    }
}
