//! The programs that the lab runs: the very ones that `cargo xtask test` runs on this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::architecture::{Architecture, cross_build};
use super::initramfs::Initramfs;
use super::origin::Origin;
use crate::artifacts::{self, Built};
use crate::cmd;

/// Test programs of `observer/tests` that need nothing but the kernel and [`TOOLS`].
const TESTS: &[&str] = &[
    "adoption",
    "endings",
    "failures",
    "ground_truth",
    "handshakes",
    "overflow",
    "pinned",
    "proxy",
    "restart",
    "soak",
    "tail",
    "unseen",
    "users",
];
/// Examples of `observer` that they start, which cargo puts beside the daemon.
const EXAMPLES: &[&str] = &["workload", "peer", "storm", "frames"];
/// Programs that they start, of this machine or from packages ([`Origin`]); busybox has some of these too, but with
/// fewer options.
const TOOLS: &[&str] =
    &["ip", "bpftool", "mount", "umount", "unshare", "setpriv", "nginx", "haproxy"];

/// What cargo built.
pub(super) struct Programs {
    pub(super) observer: PathBuf,
    /// Where the test programs look for the examples: cargo names them with a hash.
    examples: Vec<PathBuf>,
    tests: Vec<(String, PathBuf)>,
    /// The object with the kernel programs that the daemon embeds.
    pub(super) object: PathBuf,
}

impl Programs {
    /// Builds them for guests of an architecture.
    pub(super) fn build(architecture: &Architecture) -> Result<Self> {
        // As `cargo xtask test` does: for one package alone cargo may build everything once more, with other features.
        let mut cargo = cmd::cargo(&["test", "--no-run"]);
        if let Some(cross) = architecture.cross {
            // No more than what guests get.
            cross_build(cross, cargo.args(["--package", "observer"]));
        }
        Self::among(&artifacts::build(&mut cargo)?)
    }

    fn among(built: &Built) -> Result<Self> {
        // Of all build scripts only the daemon's leaves this.
        let mut left = built.scripts.iter().map(|directory| directory.join("observer-ebpf"));
        let object = left.find(|path| path.is_file());
        let observer = built.find("bin", false, "observer")?;
        let beside = observer.with_file_name("examples");
        let test =
            |name: &&str| Ok(((*name).to_owned(), built.find("test", true, name)?.to_owned()));
        Ok(Self {
            examples: EXAMPLES.iter().map(|name| beside.join(name)).collect(),
            observer: observer.to_owned(),
            object: object.context("the build of observer leaves no kernel programs")?,
            tests: TESTS.iter().map(test).collect::<Result<_>>()?,
        })
    }

    /// Links the tests into a directory, for a run on this machine.
    pub(super) fn link_tests(&self, directory: &Path) -> Result<()> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir_all(directory)?;
        for (name, path) in &self.tests {
            symlink(path, directory.join(name))?;
        }
        Ok(())
    }

    /// Puts what guests need into an archive. Tests know the daemon by the path that it has here, so it has it there too.
    pub(super) fn pack(
        &self,
        archive: &mut Initramfs,
        origin: &Origin,
        with_tests: bool,
    ) -> Result<()> {
        archive.linked_program(&self.observer, &self.observer, origin)?;
        archive.link(Path::new("/usr/bin/observer"), &self.observer)?;
        if with_tests {
            for example in &self.examples {
                archive.linked_program(example, example, origin)?;
            }
            for (name, path) in &self.tests {
                archive.linked_program(&Path::new("/lab/tests").join(name), path, origin)?;
            }
        }
        for tool in TOOLS {
            let at = Path::new("/usr/bin").join(tool);
            archive.linked_program(&at, &origin.tool(tool)?, origin)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Program;

    fn program(kind: &str, name: &str) -> Program {
        Program {
            package: "/w/observer".into(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            is_test: kind == "test",
            path: Path::new("/t/debug").join(name),
        }
    }

    #[test]
    fn all_that_guests_need_is_built() {
        let directory = tempfile::tempdir().unwrap();
        let object = directory.path().join("observer-ebpf");
        fs::write(&object, "").unwrap();
        let mut built = Built {
            programs: vec![program("bin", "observer")],
            scripts: vec!["/nothing".into(), directory.path().to_owned()],
        };
        assert!(Programs::among(&built).is_err(), "the tests are lacking");
        built.programs.extend(TESTS.iter().map(|name| program("test", name)));
        let programs = Programs::among(&built).unwrap();
        assert_eq!(programs.observer, Path::new("/t/debug/observer"));
        assert_eq!(programs.examples[0], Path::new("/t/debug/examples/workload"));
        assert_eq!(programs.tests.len(), TESTS.len());
        assert_eq!(programs.object, object);
    }
}
