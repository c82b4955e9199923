//! The Debian package, built by Debian's own `dpkg-deb`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;

use super::{Contents, VERSION, build::SHELLS, of_checkout};
use crate::archive::gzip;
use crate::cmd;

/// The revision of the package.
const REVISION: u32 = 1;

/// Who answers for the package, unless `DEBFULLNAME` and `DEBEMAIL` say.
const MAINTAINER: (&str, &str) = ("The maintainers of observer", "observer@packages.invalid");

/// Where the unit of the checkout expects the program, and where it is in the package.
const PROGRAM: (&str, &str) = ("/usr/local/bin/observer", "/usr/bin/observer");

/// A file of the package, by its path.
type File = (String, u32, Vec<u8>);

/// Builds the package in a directory; returns where it is.
pub(super) fn build(
    directory: &Path,
    architecture: &str,
    contents: &Contents<'_>,
    small: bool,
) -> Result<PathBuf> {
    let root = tempfile::tempdir()?;
    let files = files(contents)?;
    let size: usize = files.iter().map(|(_, _, bytes)| bytes.len().div_ceil(1024)).sum();
    for (path, mode, bytes) in files.into_iter().chain(control(architecture, size)?) {
        let path = root.path().join(path);
        let parent = path.parent().context("a file is in a directory")?;
        fs::create_dir_all(parent)?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    // Whatever umask we run with.
    cmd::output(
        cmd::command("find")
            .arg(root.path())
            .args(["-type", "d", "-exec", "chmod", "755", "{}", "+"]),
    )?;
    let package = directory.join(format!("observer_{VERSION}-{REVISION}_{architecture}.deb"));
    let mut dpkg = cmd::command("dpkg-deb");
    dpkg.args(["--root-owner-group", if small { "-Zxz" } else { "-Zgzip" }]);
    if !small {
        dpkg.arg("-z1");
    }
    // Times after it are taken for it.
    dpkg.env("SOURCE_DATE_EPOCH", contents.time.to_string());
    cmd::output(dpkg.arg("--build").arg(root.path()).arg(&package))?;
    Ok(package)
}

/// Has Debian's own judge look at a package.
pub(super) fn judge(package: &Path) -> Result<()> {
    let mut lintian = cmd::command("lintian");
    lintian.args(["--allow-root", "--fail-on", "error", "--tag-display-limit", "0"]);
    cmd::run(lintian.arg(package))
}

/// What is installed.
fn files(contents: &Contents<'_>) -> Result<Vec<File>> {
    let doc = "usr/share/doc/observer";
    let unit = String::from_utf8(of_checkout("deploy/observer.service")?)?;
    // How to install it is told at its top, up to the first empty line, and done by the package.
    let unit = unit.split_once("\n\n").map_or(unit.as_str(), |(_, unit)| unit);
    let unit = unit.replace(PROGRAM.0, PROGRAM.1);
    let zipped = |bytes: &[u8]| gzip(bytes, Compression::best());
    let plain = |path: &str, bytes: Vec<u8>| (path.to_owned(), 0o644, bytes);
    let mut files = vec![
        (PROGRAM.1[1..].to_owned(), 0o755, contents.program.clone()),
        plain("usr/lib/systemd/system/observer.service", unit.into_bytes()),
        plain("etc/default/observer", of_checkout("deploy/debian/default")?),
        plain("usr/share/lintian/overrides/observer", of_checkout("deploy/debian/overrides")?),
        plain(&format!("{doc}/copyright"), of_checkout("deploy/debian/copyright")?),
        plain(&format!("{doc}/THIRD-PARTY.gz"), zipped(contents.notices.as_bytes())?),
        plain(&format!("{doc}/observer.cdx.json.gz"), zipped(&contents.bill)?),
        plain(&format!("{doc}/changelog.gz"), zipped(&of_checkout("CHANGELOG.md")?)?),
        plain(&format!("{doc}/changelog.Debian.gz"), zipped(changelog(contents.time)?.as_bytes())?),
    ];
    for (name, page) in &contents.documents.pages {
        files.push(plain(&format!("usr/share/man/man1/{name}.gz"), zipped(page)?));
    }
    for (shell, name) in SHELLS {
        let directory = match shell {
            "bash" => "bash-completion/completions",
            "zsh" => "zsh/vendor-completions",
            "fish" => "fish/vendor_completions.d",
            _ => "nushell/vendor/autoload",
        };
        let script = contents.documents.completions[shell].clone();
        files.push(plain(&format!("usr/share/{directory}/{name}"), script));
    }
    Ok(files)
}

/// What the package manager reads.
fn control(architecture: &str, kibibytes: usize) -> Result<Vec<File>> {
    let (name, mail) = maintainer();
    let control = format!(
        "Package: observer\n\
         Version: {VERSION}-{REVISION}\n\
         Architecture: {architecture}\n\
         Maintainer: {name} <{mail}>\n\
         Installed-Size: {kibibytes}\n\
         Pre-Depends: init-system-helpers (>= 1.54~)\n\
         Section: net\n\
         Priority: optional\n\
         Description: counts of TCP, WebSocket and gRPC connections as Prometheus metrics\n \
         observer counts the connections of this machine in the kernel, by eBPF: those\n \
         that are open, how they end, and after how much silence, for each container,\n \
         pod and systemd unit. It serves the counts to Prometheus, on a page, and to\n \
         the commands observer top, ps, tail and doctor.\n"
    );
    let mut files = vec![
        ("DEBIAN/control".to_owned(), 0o644, control.into_bytes()),
        ("DEBIAN/conffiles".to_owned(), 0o644, b"/etc/default/observer\n".to_vec()),
    ];
    for script in ["postinst", "prerm", "postrm"] {
        let bytes = of_checkout(&format!("deploy/debian/{script}"))?;
        files.push((format!("DEBIAN/{script}"), 0o755, bytes));
    }
    Ok(files)
}

/// Name and mail address.
fn maintainer() -> (String, String) {
    let of = |variable, usual: &str| std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    (of("DEBFULLNAME", MAINTAINER.0), of("DEBEMAIL", MAINTAINER.1))
}

/// The package's own changelog: it has been built.
fn changelog(time: u64) -> Result<String> {
    let mut date = cmd::command("date");
    date.env("LC_ALL", "C").args(["--utc", "--rfc-email", "--date", &format!("@{time}")]);
    let (name, mail) = maintainer();
    Ok(format!(
        "observer ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  \
         * Build of this version; changelog.gz says what is new in it.\n\n \
         -- {name} <{mail}>  {}\n",
        cmd::output(&mut date)?
    ))
}
