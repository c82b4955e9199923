//! Packages of any Debian suite, whichever this machine runs: taken from the mirror that it is configured for, and
//! unpacked instead of installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt for one suite, with lists, sources and cache of its own: the machine's are neither read nor changed.
pub(crate) struct Suite {
    directory: PathBuf,
    options: Vec<String>,
}

impl Suite {
    /// Keeps its files in `directory`.
    pub(crate) fn new(directory: &Path, suite: &str) -> Result<Self> {
        Self::of(directory, suite, architecture())
    }

    /// The same for any of Debian's architectures.
    pub(crate) fn of(directory: &Path, suite: &str, architecture: &str) -> Result<Self> {
        let apt = directory.join("apt");
        fs::create_dir_all(apt.join("lists/partial"))?;
        fs::create_dir_all(apt.join("archives/partial"))?;
        let key = if Path::new(KEYRING).is_file() {
            format!(" signed-by={KEYRING}")
        } else {
            String::new()
        };
        let sources = apt.join("sources.list");
        fs::write(
            &sources,
            format!("deb [arch={architecture}{key}] {} {suite} main\n", mirror()?),
        )?;
        // Nothing counts as installed: packages are unpacked.
        fs::write(apt.join("status"), "")?;
        let at = apt.display();
        Ok(Self {
            options: [
                format!("Dir::Etc::SourceList={at}/sources.list"),
                "Dir::Etc::SourceParts=/dev/null".into(),
                format!("Dir::State::Lists={at}/lists"),
                format!("Dir::State::status={at}/status"),
                format!("Dir::Cache={at}"),
                format!("APT::Architecture={architecture}"),
                format!("APT::Architectures::={architecture}"),
                // A mirror that is a snapshot has Release files of the past.
                "Acquire::Check-Valid-Until=false".into(),
                "Acquire::Check-Date=false".into(),
                "Acquire::Languages=none".into(),
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
                "APT::Sandbox::User=root".into(),
            ]
            .map(|option| format!("-o{option}"))
            .into(),
            directory: apt,
        })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = cmd::command(program);
        command.args(&self.options).args(arguments);
        command
    }

    /// Brings the lists up to date.
    pub(crate) fn update(&self) -> Result<()> {
        cmd::output(&mut self.command("apt-get", &["update", "--quiet", "--error-on=any"]))
            .map(drop)
    }

    /// What a package depends on, as `apt-cache depends` prints it.
    pub(crate) fn depends(&self, package: &str) -> Result<String> {
        cmd::output(&mut self.command("apt-cache", &["depends", package]))
    }

    /// The version of a package, `None` without such a package.
    pub(crate) fn version(&self, package: &str) -> Result<Option<String>> {
        let policy = cmd::output(&mut self.command("apt-cache", &["policy", package]))?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Downloads a package, and returns where it lies.
    pub(crate) fn download(&self, package: &str) -> Result<PathBuf> {
        let directory = self.directory.join("download");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir(&directory)?;
        cmd::say("+", &format!("apt-get download {package}"));
        cmd::output(
            self.command("apt-get", &["download", "--quiet", package]).current_dir(&directory),
        )?;
        let mut files = directory.read_dir()?.flatten().map(|entry| entry.path());
        files.next().context("apt-get downloaded nothing")
    }

    /// Downloads packages with all that they depend on, and returns where they lie.
    pub(crate) fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.directory.join("archives");
        fs::remove_dir_all(&archives)?;
        fs::create_dir_all(archives.join("partial"))?;
        let install = ["install", "--download-only", "--yes", "--quiet", "--no-install-recommends"];
        cmd::say("+", &format!("apt-get {} {}", install[..2].join(" "), packages.join(" ")));
        cmd::output(self.command("apt-get", &install).args(packages))?;
        let files = archives.read_dir()?.flatten().map(|entry| entry.path());
        Ok(files.filter(|file| file.extension().is_some_and(|of| of == "deb")).collect())
    }
}

/// Unpacks a package.
pub(crate) fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    cmd::output(cmd::command("dpkg-deb").arg("--extract").arg(archive).arg(directory)).map(drop)
}

/// The architecture of this machine as Debian calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The address of the Debian mirror in this machine's configuration.
fn mirror() -> Result<String> {
    let targets = cmd::output(cmd::command("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Created-By: Packages",
    ]))?;
    let mirror = main_archive(&targets);
    mirror.map(str::to_owned).context("apt is configured for no Debian mirror")
}

/// The first archive that is Debian's own, and not that of security updates.
fn main_archive(targets: &str) -> Option<&str> {
    let archives = targets.lines().filter_map(|line| line.split_once(' '));
    let main = |(address, release): &(&str, &str)| {
        address.trim_end_matches('/').ends_with("/debian") && !release.ends_with("-security")
    };
    archives.filter(main).map(|(address, _)| address).next()
}

#[cfg(test)]
mod tests {
    use super::main_archive;

    #[test]
    fn the_mirror_is_that_of_the_main_archive() {
        let targets = "http://a.example/debian-security/ bookworm-security\n\
                       http://b.example/ubuntu/ jammy\n\
                       http://a.example/debian/ bookworm\n";
        assert_eq!(main_archive(targets), Some("http://a.example/debian/"));
        assert_eq!(main_archive("http://b.example/ubuntu/ jammy\n"), None);
    }
}
