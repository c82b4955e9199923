//! The kernels to boot: resolved from the Debian mirror that this machine is configured for, with an apt configuration
//! of the lab's own, and cached; or any package or image that the caller names.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::architecture::{AMD64, ARM64, Architecture};
use crate::cmd;
use crate::suite::{Suite, unpack};

/// The package that depends on a suite's newest kernel for virtual machines, before the architecture.
const NEWEST: &str = "linux-image-cloud-";
/// How a package with a kernel is called before its release.
const IMAGE: &str = "linux-image-";
/// The file that an image is kept in.
const IMAGE_FILE: &str = "vmlinuz";
/// How long a resolved kernel is taken for the newest one.
const FRESH: Duration = Duration::from_hours(24);
/// Modules that the tests need, below a kernel's `kernel` directory.
const MODULES: &[&str] = &[
    "drivers/net/veth.ko",
    "drivers/net/tun.ko",
    // A node loads these two when they are asked for; a guest in the order of their names.
    "net/ipv4/inet_diag.ko",
    "net/ipv4/tcp_diag.ko",
];
/// How a module may be compressed, and what unpacks it.
const COMPRESSIONS: &[(&str, &str)] = &[("", "cat"), (".xz", "xzcat"), (".zst", "zstdcat")];

/// A kernel that Debian has.
struct Source {
    name: &'static str,
    suite: &'static str,
    /// What its release starts with: the table must mean what it says.
    series: &'static str,
    architecture: &'static Architecture,
    refused: bool,
    nolock: bool,
}

const SOURCES: &[Source] = &[
    Source { refused: true, ..source("5.10", "bullseye", "5.10.") },
    source("6.1", "bookworm", "6.1."),
    source("6.12", "trixie", "6.12."),
    Source { nolock: true, ..source("sid", "sid", "") },
    Source { architecture: &ARM64, ..source("arm64", "trixie", "6.12.") },
];

const fn source(name: &'static str, suite: &'static str, series: &'static str) -> Source {
    Source { name, suite, series, architecture: &AMD64, refused: false, nolock: false }
}

/// A kernel on this machine.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// How the table calls it.
    pub(super) name: String,
    /// The package's version, or the file it came from.
    pub(super) version: String,
    pub(super) architecture: &'static Architecture,
    /// What QEMU boots.
    pub(super) image: PathBuf,
    /// Modules to load, by file.
    pub(super) modules: Vec<PathBuf>,
    /// Whether observer must refuse it.
    pub(super) refused: bool,
    /// Whether it allocates the state of sockets by `kmalloc_nolock`, or may do so (7.x). Without `cmpxchg16b`, which
    /// amd64's guests lack, that gives memory of slabs that are being debugged only, and gives up when another processor
    /// holds a slab's lock.
    pub(super) nolock: bool,
}

impl Kernel {
    /// What `lab/expected.txt` may call it.
    pub(super) fn names(&self) -> [&str; 2] {
        [&self.name, self.architecture.name]
    }
}

/// All kernels that the lab knows; those of another architecture need a cross build, and are left out without `foreign`.
pub(super) fn all(foreign: bool, cache: &Path, refresh: bool) -> Result<Vec<Kernel>> {
    let wanted = |source: &&Source| foreign || source.architecture.cross.is_none();
    SOURCES.iter().filter(wanted).map(|source| source.kernel(cache, refresh)).collect()
}

/// The kernels that are named. A name that the lab does not know is a package (`.deb`) or an image.
pub(super) fn resolve(names: &[String], cache: &Path, refresh: bool) -> Result<Vec<Kernel>> {
    let one = |name: &String| match SOURCES.iter().find(|source| source.name == name) {
        Some(source) => source.kernel(cache, refresh),
        None => from_file(Path::new(name), cache),
    };
    names.iter().map(one).collect()
}

fn from_file(path: &Path, cache: &Path) -> Result<Kernel> {
    let known: Vec<_> = SOURCES.iter().map(|source| source.name).collect();
    ensure!(path.is_file(), "{} is neither a file nor one of {}", path.display(), known.join(", "));
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let version = path.display().to_string();
    if path.extension().is_none_or(|extension| extension != "deb") {
        return Ok(Kernel {
            name,
            version,
            architecture: Architecture::of_image(&fs::read(path)?),
            image: path.to_owned(),
            modules: Vec::new(),
            refused: false,
            nolock: true,
        });
    }
    let directory = cache.join("files").join(&name);
    fs::create_dir_all(&directory)?;
    let unpacked = tempfile::tempdir_in(&directory)?;
    unpack(path, unpacked.path())?;
    keep(unpacked.path(), &directory)?;
    let architecture = Architecture::of_image(&fs::read(directory.join(IMAGE_FILE))?);
    Ok(kept(&directory, name, version, architecture))
}

impl Source {
    /// The cached kernel if it is fresh, else the newest; the cached one also if the mirror has none.
    fn kernel(&self, cache: &Path, refresh: bool) -> Result<Kernel> {
        let directory = cache.join(self.name);
        let cached = self.cached(&directory);
        if let Some((kernel, age)) = &cached
            && *age < FRESH
            && !refresh
        {
            return Ok(kernel.clone());
        }
        match (self.newest(&directory, cached.as_ref().map(|(kernel, _)| kernel)), cached) {
            (Ok(kernel), _) => Ok(kernel),
            (Err(error), Some((kernel, _))) => {
                cmd::say("!", &format!("{error:#}; going on with {} of earlier", kernel.version));
                Ok(kernel)
            }
            (Err(error), None) => {
                Err(error.context(format!("getting the kernel of Debian {}", self.suite)))
            }
        }
    }

    fn describe(&self, directory: &Path, version: String) -> Kernel {
        let kernel = kept(directory, self.name.to_owned(), version, self.architecture);
        Kernel { refused: self.refused, nolock: self.nolock, ..kernel }
    }

    fn cached(&self, directory: &Path) -> Option<(Kernel, Duration)> {
        let stamp = directory.join("version");
        let version = fs::read_to_string(&stamp).ok()?;
        // Unpacked for another list of modules, it may lack some.
        if fs::read_to_string(directory.join("modules")).ok()? != MODULES.join("\n") {
            return None;
        }
        let resolved = fs::metadata(&stamp).and_then(|file| file.modified()).ok()?;
        let age = SystemTime::now().duration_since(resolved).unwrap_or_default();
        let kernel = self.describe(directory, version);
        kernel.image.is_file().then_some((kernel, age))
    }

    fn newest(&self, directory: &Path, cached: Option<&Kernel>) -> Result<Kernel> {
        let apt = Suite::of(directory, self.suite, self.architecture.name)?;
        apt.update()?;
        let (packages, version) = newest_kernel(&apt, self.architecture.name)?;
        ensure!(
            version.starts_with(self.series),
            "Debian {} has {version} now, not {}*: the table in this file is out of date",
            self.suite,
            self.series
        );
        if cached.is_none_or(|cached| cached.version != version) {
            let unpacked = tempfile::tempdir_in(directory)?;
            for package in packages {
                unpack(&apt.download(&package)?, unpacked.path())?;
            }
            keep(unpacked.path(), directory)?;
        }
        fs::write(directory.join("modules"), MODULES.join("\n"))?;
        // Last, since it vouches for the image.
        fs::write(directory.join("version"), &version)?;
        Ok(self.describe(directory, version))
    }
}

/// Keeps the image and the modules of unpacked packages in `directory`.
fn keep(unpacked: &Path, directory: &Path) -> Result<()> {
    let image = find_image(unpacked).context("the packages hold no kernel image")?;
    fs::rename(image, directory.join(IMAGE_FILE))?;
    for module in MODULES {
        let Some((packed, program)) = find_module(unpacked, module) else { continue };
        let into = File::create(directory.join(Path::new(module).file_name().context("a file")?))?;
        let status = cmd::command(program).arg(&packed).stdout(into).status()?;
        ensure!(status.success(), "{program} {}: {status}", packed.display());
    }
    Ok(())
}

/// The kernel that [`keep`] kept.
fn kept(
    directory: &Path,
    name: String,
    version: String,
    architecture: &'static Architecture,
) -> Kernel {
    let modules =
        MODULES.iter().filter_map(|module| Some(directory.join(Path::new(module).file_name()?)));
    let modules = modules.filter(|module| module.is_file()).collect();
    let image = directory.join(IMAGE_FILE);
    Kernel { name, version, architecture, image, modules, refused: false, nolock: true }
}

/// Directories of modules: `/lib` is a link to `/usr/lib` by now, but not in older packages.
fn module_trees(unpacked: &Path) -> impl Iterator<Item = PathBuf> {
    let trees = ["usr/lib/modules", "lib/modules"].map(|at| unpacked.join(at).read_dir());
    trees.into_iter().flatten().flatten().flatten().map(|entry| entry.path())
}

fn find_image(unpacked: &Path) -> Option<PathBuf> {
    let boot =
        unpacked.join("boot").read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_image = |path: &PathBuf| {
        path.is_file()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    // Newer packages have the image beside the modules.
    boot.chain(module_trees(unpacked).map(|tree| tree.join("vmlinuz"))).find(is_image)
}

/// Where a module is and what unpacks it; `None` if the kernel has it built in.
fn find_module(unpacked: &Path, module: &str) -> Option<(PathBuf, &'static str)> {
    let candidates = module_trees(unpacked).flat_map(|tree| {
        COMPRESSIONS
            .iter()
            .map(move |(suffix, program)| (tree.join(format!("kernel/{module}{suffix}")), *program))
    });
    candidates.into_iter().find(|(path, _)| path.is_file())
}

/// The packages of the newest kernel's image and modules, and their version.
fn newest_kernel(apt: &Suite, architecture: &str) -> Result<(Vec<String>, String)> {
    let newest = format!("{NEWEST}{architecture}");
    let depends = apt.depends(&newest)?;
    let image = newest_image(&depends).with_context(|| format!("{newest} depends on no kernel"))?;
    let release = image.trim_start_matches(IMAGE);
    // Newer kernels come in two packages, and the third one only depends on them.
    let mut packages: Vec<_> =
        ["linux-binary-", "linux-modules-"].map(|part| format!("{part}{release}")).into();
    if apt.version(&packages[0])?.is_none() {
        packages = vec![image.to_owned()];
    }
    let version =
        apt.version(&packages[0])?.with_context(|| format!("there is no package {image}"))?;
    Ok((packages, version))
}

/// The kernel in what `apt-cache depends` prints.
fn newest_image(depends: &str) -> Option<&str> {
    let packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.map(str::trim).find(|package| package.starts_with(IMAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_image_is_what_the_metapackage_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-base-cloud-amd64\n  \
                       Depends: linux-image-7.2.13+deb14-cloud-amd64\n";
        assert_eq!(newest_image(depends), Some("linux-image-7.2.13+deb14-cloud-amd64"));
        assert_eq!(newest_image("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn a_kernel_that_is_neither_known_nor_a_file_is_an_error() {
        let cache = tempfile::tempdir().unwrap();
        let error = resolve(&["4.4".to_owned()], cache.path(), false).unwrap_err();
        assert!(error.to_string().contains("6.12"), "{error}");
    }
}
