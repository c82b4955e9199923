//! `build` and `run`: the daemon of this checkout, on this host.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Error, Result};

use crate::setup::{self, Purpose};
use crate::{cmd, demo};

/// Builds the daemon for release.
pub(crate) fn build() -> Result<()> {
    setup::ensure(&[Purpose::Build])?;
    cmd::run(&mut cmd::cargo(&["build", "--release", "--package", "observer"]))
}

/// Builds the daemon and becomes it, as root.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    build()?;
    let mut observer = cmd::as_root(cmd::target_directory()?.join("release/observer"))?;
    observer.arg("run").args(args);
    cmd::show(&observer);
    Err(Error::new(observer.exec()).context("starting observer"))
}

/// Builds the daemon and the workload of the demo, and shows both, as root.
pub(crate) fn demo(seconds: Option<u64>, args: Vec<OsString>) -> Result<()> {
    build()?;
    show(|programs| demo::Options { programs, seconds, pictures: None, args })
}

/// Takes the documents' pictures of the demo, as root.
pub(crate) fn pictures() -> Result<()> {
    setup::ensure(&[Purpose::Pictures])?;
    build()?;
    let directory = cmd::workspace().join("docs/pictures");
    show(|programs| demo::Options {
        programs,
        seconds: None,
        pictures: Some(directory),
        args: Vec::new(),
    })
}

fn show(options: impl FnOnce(PathBuf) -> demo::Options) -> Result<()> {
    cmd::run(&mut cmd::cargo(&[
        "build",
        "--release",
        "--package",
        "observer",
        "--example",
        "workload",
    ]))?;
    let options = options(cmd::target_directory()?.join("release"));
    if cmd::is_root() {
        return demo::run(&options);
    }
    let mut again = cmd::as_root(env::current_exe()?)?;
    again.arg("demo").args(options.to_arguments());
    cmd::show(&again);
    Err(Error::new(again.exec()).context("starting the demo"))
}
