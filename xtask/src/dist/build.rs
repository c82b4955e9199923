//! The programs, and what they say of themselves.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cross::{self, Cross};
use crate::{artifacts, cmd};

/// Builds the daemon for release, linked statically, without a path of this machine in it; returns where it is.
pub(super) fn release(cross: &Cross) -> Result<PathBuf> {
    let mut cargo =
        cmd::cargo(&["build", "--release", "--package", "observer", "--bin", "observer"]);
    let mut flags = vec![cross::STATIC.to_owned()];
    for (path, name) in [(cmd::workspace().to_owned(), "observer"), (cargo_home()?, "cargo")] {
        flags.push(format!("--remap-path-prefix={}=/{name}", path.display()));
    }
    cross.apply(cargo.arg("--locked"), &flags.join(" "));
    let built = artifacts::build(&mut cargo)?;
    Ok(built.find("bin", false, "observer")?.to_owned())
}

/// Where cargo keeps the sources of crates.
fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(home).context("neither CARGO_HOME nor HOME is set")
}

/// When this commit was made, in seconds since the epoch; what `SOURCE_DATE_EPOCH` says, if that is set.
pub(super) fn time() -> u64 {
    let set = env::var("SOURCE_DATE_EPOCH").ok();
    let mut git = cmd::command("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(cmd::workspace());
    let time = set.or_else(|| cmd::output(&mut git).ok());
    time.and_then(|time| time.parse().ok()).unwrap_or(0)
}

/// Each shell that completes the command line, and what its script is called there.
pub(super) const SHELLS: [(&str, &str); 4] = [
    ("bash", "observer"),
    ("zsh", "_observer"),
    ("fish", "observer.fish"),
    ("nushell", "observer.nu"),
];

/// What is made from the definition of the command line.
pub(super) struct Documents {
    /// Manual pages by their names, as `observer-run.1`.
    pub(super) pages: BTreeMap<String, Vec<u8>>,
    /// Completions by shell.
    pub(super) completions: BTreeMap<&'static str, Vec<u8>>,
}

impl Documents {
    /// Asks a program that runs on this machine.
    pub(super) fn of(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        cmd::output(cmd::command(program).arg("man").arg(directory.path()))?;
        let mut pages = BTreeMap::new();
        for entry in fs::read_dir(directory.path())? {
            let entry = entry?;
            pages.insert(entry.file_name().display().to_string(), fs::read(entry.path())?);
        }
        let script = |shell: &'static str| {
            let script = cmd::output(cmd::command(program).args(["completions", shell]))?;
            Ok((shell, (script + "\n").into_bytes()))
        };
        let completions = SHELLS.iter().map(|(shell, _)| script(shell)).collect::<Result<_>>()?;
        Ok(Self { pages, completions })
    }
}
