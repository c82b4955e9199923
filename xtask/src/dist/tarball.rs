//! The tarball: for machines without Debian's packages.

use anyhow::Result;
use flate2::Compression;

use super::{Contents, build::SHELLS, of_checkout};
use crate::archive::{append, gzip};

/// The tarball, with everything in the directory `stem`.
pub(super) fn write(stem: &str, contents: &Contents<'_>, level: Compression) -> Result<Vec<u8>> {
    let mut files = vec![
        ("observer".to_owned(), 0o755, contents.program.clone()),
        ("THIRD-PARTY".to_owned(), 0o644, contents.notices.clone().into_bytes()),
        ("observer.cdx.json".to_owned(), 0o644, contents.bill.clone()),
    ];
    for (path, mode) in [
        ("LICENSE", 0o644),
        ("README.md", 0o644),
        ("CHANGELOG.md", 0o644),
        ("deploy/observer.service", 0o644),
        ("deploy/kubectl-observer", 0o755),
    ] {
        let name = path.rsplit('/').next().unwrap_or(path);
        files.push((name.to_owned(), mode, of_checkout(path)?));
    }
    for (name, page) in &contents.documents.pages {
        files.push((format!("man/man1/{name}"), 0o644, page.clone()));
    }
    for (shell, name) in SHELLS {
        let script = contents.documents.completions[shell].clone();
        files.push((format!("completions/{shell}/{name}"), 0o644, script));
    }
    files.sort();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        append(&mut archive, &format!("{stem}/{path}"), mode, contents.time, &bytes)?;
    }
    gzip(&archive.into_inner()?, level)
}
