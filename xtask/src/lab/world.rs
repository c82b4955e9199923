//! What all guests of an architecture have: programs and the part of their file systems that they share.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::STEPS;
use super::architecture::Architecture;
use super::initramfs::Initramfs;
use super::kernels::Kernel;
use super::origin::Origin;
use super::programs::Programs;

const INIT: &str = include_str!("../../lab/init");

/// What guests of an architecture have.
pub(super) struct World {
    pub(super) architecture: &'static Architecture,
    pub(super) programs: Programs,
    /// The shared part of the file systems.
    shared: PathBuf,
}

impl World {
    /// Builds the programs and packs them, below `directory`; those of the tests only if they are needed.
    pub(super) fn build(
        architecture: &'static Architecture,
        directory: &Path,
        refresh: bool,
        with_tests: bool,
    ) -> Result<Self> {
        let origin = Origin::of(architecture, &directory.join("packages"), refresh)?;
        let programs = Programs::build(architecture)?;
        let shared = directory.join(format!("{}.cpio", architecture.name));
        let mut archive = Initramfs::create(&shared)?;
        archive.linked_program(Path::new("/bin/busybox"), &origin.busybox()?, &origin)?;
        archive.link(Path::new("/bin/sh"), Path::new("busybox"))?;
        archive.program(Path::new("/init"), INIT.as_bytes())?;
        archive.program(Path::new("/lab/steps"), STEPS.as_bytes())?;
        programs.pack(&mut archive, &origin, with_tests)?;
        archive.finish()?;
        Ok(Self { architecture, programs, shared })
    }

    /// Writes a guest's file system: what all have, and the kernel's modules.
    pub(super) fn initramfs(&self, kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(format!("{}.initramfs", kernel.name));
        let own = directory.join("modules.cpio");
        let mut archive = Initramfs::create(&own)?;
        for module in &kernel.modules {
            let name = module.file_name().context("a module is a file")?;
            archive.file(&Path::new("/lab/modules").join(name), &fs::read(module)?)?;
        }
        archive.finish()?;
        fs::write(&path, [fs::read(&self.shared)?, fs::read(own)?].concat())?;
        Ok(path)
    }
}
