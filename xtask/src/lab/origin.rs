//! Where a guest's programs come from: this machine, or for another architecture Debian's packages, which are unpacked
//! and not installed. A program is taken without its debug information and with the shared libraries it is linked to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

use super::architecture::Architecture;
use crate::cmd;
use crate::suite::{Suite, unpack};

/// The suite of the packages, that of the kernel.
const SUITE: &str = "trixie";
/// What has busybox, and the programs that the tests start; with what these depend on.
const PACKAGES: &[&str] =
    &["busybox-static", "bpftool", "haproxy", "iproute2", "mount", "nginx", "util-linux"];
/// Where packages have programs.
const PROGRAMS: &[&str] = &["usr/bin", "usr/sbin", "bin", "sbin"];
/// Where packages have libraries, below which there may be a directory for the architecture.
const LIBRARIES: &[&str] = &["usr/lib", "lib"];

/// Where programs come from.
pub(super) struct Origin {
    architecture: &'static Architecture,
    /// What packages were unpacked into; none for this machine's own programs.
    packages: Option<PathBuf>,
}

impl Origin {
    /// Gets the packages if this machine's own programs will not do; they are kept in `cache`.
    pub(super) fn of(
        architecture: &'static Architecture,
        cache: &Path,
        refresh: bool,
    ) -> Result<Self> {
        let packages = match architecture.cross {
            None => None,
            Some(_) => Some(packages(architecture, &cache.join(architecture.name), refresh)?),
        };
        Ok(Self { architecture, packages })
    }

    /// A static busybox, which is a guest's shell and everything else.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        if self.packages.is_some() {
            self.tool("busybox")
        } else {
            cmd::which_static("busybox").context("install busybox-static")
        }
    }

    /// A program that the tests start.
    pub(super) fn tool(&self, name: &str) -> Result<PathBuf> {
        let Some(root) = &self.packages else {
            return cmd::which(name).with_context(|| {
                format!("there is no program {name}: run `cargo xtask setup --tests`")
            });
        };
        let found =
            PROGRAMS.iter().find_map(|directory| inside(root, &root.join(directory).join(name)));
        found.with_context(|| {
            format!(
                "{} has no program {name}: name its package in {}",
                PACKAGES.join(", "),
                file!()
            )
        })
    }

    /// A program without its debug information.
    pub(super) fn stripped(&self, program: &Path) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let stripped = directory.path().join("stripped");
        let strip = self.architecture.strip();
        cmd::output(cmd::command(strip).arg("-o").arg(&stripped).arg(program))?;
        Ok(fs::read(stripped)?)
    }

    /// The shared libraries of a program, the dynamic linker included, by the path that it knows them by; none for a
    /// static one.
    pub(super) fn libraries(&self, program: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
        let Some(root) = &self.packages else {
            return Ok(own_libraries(program)
                .into_iter()
                .map(|path| (path.clone(), path))
                .collect());
        };
        let mut libraries = BTreeMap::new();
        let mut programs = vec![program.to_owned()];
        while let Some(program) = programs.pop() {
            let links = Links::read(&fs::read(&program)?)
                .with_context(|| format!("reading {}", program.display()))?;
            for library in links.libraries {
                let found = library_in(root, &library).with_context(|| {
                    format!("{} needs {library}, which no package has", program.display())
                })?;
                let at = Path::new("/").join(found.strip_prefix(root)?).with_file_name(library);
                if libraries.insert(at, found.clone()).is_none() {
                    programs.push(found);
                }
            }
            if let Some(linker) = links.interpreter {
                let name = linker.file_name().context("a dynamic linker is a file")?;
                let found = library_in(root, &name.to_string_lossy());
                libraries.insert(linker, found.context("no package has the dynamic linker")?);
            }
        }
        Ok(libraries)
    }
}

/// Unpacks the packages unless that was done, and returns where they are.
fn packages(architecture: &Architecture, cache: &Path, refresh: bool) -> Result<PathBuf> {
    let (root, stamp) = (cache.join("root"), cache.join("packages"));
    let wanted = PACKAGES.join("\n");
    if !refresh && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(root);
    }
    let apt = Suite::of(cache, SUITE, architecture.name)?;
    apt.update()?;
    let archives = apt.download_all(PACKAGES)?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for archive in archives {
        unpack(&archive, &root)?;
    }
    // Last, since it vouches for the rest.
    fs::write(stamp, wanted)?;
    Ok(root)
}

/// The file at `path`, unless there is none, or it is a link that leads out of `root`: into this machine's own files.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let (root, file) = (root.canonicalize().ok()?, path.canonicalize().ok()?);
    (file.is_file() && file.starts_with(root)).then(|| path.to_owned())
}

/// A library in unpacked packages.
fn library_in(root: &Path, name: &str) -> Option<PathBuf> {
    LIBRARIES.iter().map(|directory| root.join(directory)).find_map(|directory| {
        let nested = directory.read_dir().ok()?.flatten().map(|entry| entry.path());
        let directories: Vec<_> = [directory].into_iter().chain(nested).collect();
        directories.iter().find_map(|directory| inside(root, &directory.join(name)))
    })
}

/// What a program, or a library, is linked to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Links {
    interpreter: Option<PathBuf>,
    libraries: Vec<String>,
}

impl Links {
    /// Reads it from the headers: the dynamic linker of another architecture cannot be asked.
    fn read(program: &[u8]) -> Result<Self> {
        let header = FileHeader64::<Endianness>::parse(program)?;
        let endian = header.endian()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut links = Self::default();
        for segment in header.program_headers(endian, program)? {
            if let Some(path) = segment.interpreter(endian, program)? {
                links.interpreter = Some(text(path).into());
            }
        }
        let sections = header.sections(endian, program)?;
        if let Some((entries, link)) = sections.dynamic(endian, program)? {
            let strings = sections.strings(endian, program, link)?;
            for entry in entries.iter().filter(|entry| entry.d_tag(endian) == DT_NEEDED) {
                links.libraries.push(text(entry.string(endian, strings)?));
            }
        }
        Ok(links)
    }
}

/// The shared libraries of a program of this machine's.
fn own_libraries(program: &Path) -> Vec<PathBuf> {
    // `ldd` fails for a static program.
    cmd::output(Command::new("ldd").arg(program))
        .map(|list| library_paths(&list))
        .unwrap_or_default()
}

/// The paths in what `ldd` prints.
fn library_paths(list: &str) -> Vec<PathBuf> {
    list.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let list = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(
            library_paths(list),
            [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld.so")]
        );
        assert!(library_paths("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn the_headers_tell_what_our_own_test_program_is_linked_to() {
        let links = Links::read(&fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
        assert!(links.libraries.iter().any(|name| name.starts_with("libc.so")), "{links:?}");
        assert!(links.interpreter.is_some_and(|path| path.is_absolute()));
        assert!(Links::read(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_library_is_looked_for_in_the_packages_only() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("usr/lib/some-linux-gnu");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("liba.so.1.2"), "").unwrap();
        symlink("liba.so.1.2", directory.join("liba.so.1")).unwrap();
        symlink("/proc/self/exe", directory.join("libb.so.1")).unwrap();
        assert_eq!(library_in(root.path(), "liba.so.1"), Some(directory.join("liba.so.1")));
        assert_eq!(library_in(root.path(), "libb.so.1"), None);
        assert_eq!(library_in(root.path(), "libc.so.1"), None);
    }
}
