//! A guest's whole file system: a `newc` cpio archive (the kernel's `Documentation/driver-api/early-userspace/`),
//! uncompressed, since an emulated processor unpacks slowly.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::origin::Origin;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// An archive being written.
pub(super) struct Initramfs {
    file: BufWriter<File>,
    /// What is in it, by absolute path.
    entries: BTreeSet<PathBuf>,
}

impl Initramfs {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file: BufWriter::new(file), entries: BTreeSet::new() })
    }

    /// Adds a program at the absolute path `at`.
    pub(super) fn program(&mut self, at: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(at, PROGRAM, content)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, at: &Path, to: &Path) -> io::Result<()> {
        self.entry(at, LINK, to.as_os_str().as_encoded_bytes())
    }

    /// Adds a program at the absolute path `at`, without its debug information and with the shared libraries it is
    /// linked to.
    pub(super) fn linked_program(
        &mut self,
        at: &Path,
        program: &Path,
        origin: &Origin,
    ) -> Result<()> {
        self.program(at, &origin.stripped(program)?)?;
        for (at, library) in origin.libraries(program)? {
            self.program(&at, &fs::read(library)?)?;
        }
        Ok(())
    }

    /// Adds a file as it is.
    pub(super) fn file(&mut self, at: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(at, FILE, content)
    }

    /// Writes the end mark. Archives that are written one after the other are unpacked one over the other.
    pub(super) fn finish(mut self) -> Result<()> {
        self.write("TRAILER!!!", 0, &[])?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(())
    }

    /// Adds an entry with its parents, once.
    fn entry(&mut self, at: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        if !self.entries.insert(at.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = at.parent().filter(|parent| parent.parent().is_some()) {
            self.entry(parent, DIRECTORY, &[])?;
        }
        let name = at.to_string_lossy();
        self.write(name.trim_start_matches('/'), mode, content)
    }

    fn write(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        // Inode, mode, uid, gid, links, time, size, device (2), device of a device file (2), length of the name, check.
        let number = self.entries.len() as u32;
        let fields =
            [number, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut header = String::from("070701");
        header.extend(fields.map(|field| format!("{field:08x}")));
        header.push_str(name);
        header.push('\0');
        for part in [header.as_bytes(), content] {
            self.file.write_all(part)?;
            self.file.write_all(&[0; 3][..part.len().wrapping_neg() % 4])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_parents_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive");
        let mut archive = Initramfs::create(&path).unwrap();
        archive.program(Path::new("/a/b"), b"12345").unwrap();
        archive.program(Path::new("/a/b"), b"a second time").unwrap();
        archive.link(Path::new("/a/c"), Path::new("b")).unwrap();
        archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let at: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        let names: Vec<_> =
            at.iter().map(|at| text[at + 110..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/c", "TRAILER!!!"]);
        assert!(at.iter().all(|at| at % 4 == 0));
        assert!(text.contains("12345\0\0\0"));
    }
}
