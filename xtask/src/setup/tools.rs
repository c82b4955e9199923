//! Programs that only this checkout uses, in `target/tools`: nothing of the machine's own is changed for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::GoProgram;
use super::apt::Apt;
use crate::cmd;
use crate::suite::{Suite, unpack};

/// Python's own, whichever others come first in the path.
const PYTHON: &str = "/usr/bin/python3";
/// The oldest suite that has all that we take from a suite.
const SUITE: &str = "trixie";

/// Where they are; the tests look there first.
fn directory() -> PathBuf {
    cmd::workspace().join("target/tools")
}

/// A program on this machine, or unpacked by us.
pub(super) fn check_program(program: &str) -> Result<String, String> {
    let ours = directory().join("bin").join(program);
    let found = if ours.is_file() { Some(ours) } else { cmd::which(program) };
    found.map(|path| path.display().to_string()).ok_or(format!("there is no program {program}"))
}

/// Installs a package of this machine's distribution if it has it, else unpacks that of a newer suite.
pub(super) fn install_program(program: &str, package: &'static str, apt: &mut Apt) -> Result<()> {
    if apt.version(package)?.is_some() {
        return apt.install_any(&[package]);
    }
    let cache = directory().join("suite");
    let suite = Suite::new(&cache, SUITE)?;
    suite.update()?;
    let unpacked = tempfile::tempdir_in(&cache)?;
    unpack(&suite.download(package)?, unpacked.path())?;
    let bin = directory().join("bin");
    fs::create_dir_all(&bin)?;
    fs::rename(unpacked.path().join("usr/bin").join(program), bin.join(program))
        .with_context(|| format!("the package {package} has no program {program}"))
}

impl GoProgram {
    /// The module that locks it.
    fn module(&self) -> PathBuf {
        cmd::workspace().join(self.module)
    }

    /// Where it is, built by us.
    fn built(&self) -> PathBuf {
        directory().join("bin").join(self.program)
    }

    /// Beside it: the lock file that it was built from.
    fn lock(&self) -> PathBuf {
        directory().join(format!("{}.sum", self.program))
    }
}

/// Whether the program was built of what is locked now.
pub(super) fn check_go(program: &GoProgram) -> Result<String, String> {
    let path = program.built();
    let locked = fs::read(program.module().join("go.sum"));
    match (fs::read(program.lock()), locked) {
        (Ok(built), Ok(locked)) if built == locked && path.is_file() => {
            Ok(path.display().to_string())
        }
        (Ok(_), _) => Err("it is of another version".to_owned()),
        (Err(_), _) => Err("it is not there".to_owned()),
    }
}

/// Builds it, if this machine's Go can.
pub(super) fn install_go(program: &GoProgram) -> Result<()> {
    ensure!(cmd::which("go").is_some(), "there is no Go");
    fs::create_dir_all(directory().join("bin"))?;
    let mut go = cmd::command("go");
    // No other Go is fetched.
    go.current_dir(program.module()).env("GOTOOLCHAIN", "local");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-ldflags=-s -w"]);
    go.args(["-tags", program.tags, "-o"]).arg(program.built());
    cmd::run(go.arg(program.package))?;
    // Last, since it vouches for the program.
    copy(&program.module().join("go.sum"), &program.lock())
}

/// The locked packages of Python.
fn requirements() -> PathBuf {
    cmd::workspace().join("xtask/python/requirements.txt")
}

/// Whether the environment has exactly the locked packages.
pub(super) fn check_python() -> Result<String, String> {
    let environment = directory().join("python");
    let installed = fs::read(environment.join("requirements.txt"));
    let locked = fs::read(requirements());
    match (installed, locked) {
        (Ok(installed), Ok(locked)) if installed == locked => Ok(environment.display().to_string()),
        (Ok(_), _) => Err("it is of another version".to_owned()),
        (Err(_), _) => Err("it is not there".to_owned()),
    }
}

/// What makes such environments, unless it is there.
pub(super) fn python_packages(apt: &mut Apt) -> Result<Vec<&'static str>> {
    if cmd::succeeds(cmd::command(PYTHON).args(["-c", "import ensurepip, venv"])) {
        return Ok(Vec::new());
    }
    apt.first_of(&["python3-venv"])
}

/// Makes the environment anew, with packages of the locked versions and contents.
pub(super) fn install_python(apt: &mut Apt) -> Result<()> {
    let lacking = python_packages(apt)?;
    if !lacking.is_empty() {
        apt.install(&lacking)?;
    }
    let environment = directory().join("python");
    cmd::run(cmd::command(PYTHON).args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = cmd::command(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
    cmd::run(pip.args(["--require-hashes", "--requirement"]).arg(requirements()))?;
    // Last, since it vouches for the rest.
    copy(&requirements(), &environment.join("requirements.txt"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
}
