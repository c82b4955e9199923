//! Running other programs: each is shown before it runs, and a failure is an error.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::toolchain;

/// The directory of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The directory that cargo builds into.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata =
        output(cargo(&["metadata", "--format-version=1", "--no-deps"]).current_dir(workspace()))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory.context("cargo metadata names no target directory")?.into())
}

/// A command that finds its program, and the programs that one starts, also where only root's
/// or cargo's `PATH` leads.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

/// cargo, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = command("cargo");
    command.args(arguments).current_dir(workspace());
    command
}

/// A command that runs as root: directly if we are, through sudo otherwise.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(command(program));
    }
    ensure!(
        which("sudo").is_some(),
        "{} needs root: run this as root, or install sudo",
        program.as_ref().display()
    );
    let mut sudo = command("sudo");
    // sudo starts with an environment of its own.
    sudo.arg("env").arg(assignment("PATH", &search_path()));
    let ours = ["OBSERVER_", "RUST_", "NODE_NAME", "CARGO_TARGET_DIR"];
    for (name, value) in env::vars_os() {
        if ours.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            sudo.arg(assignment(&name, &value));
        }
    }
    sudo.arg(program);
    Ok(sudo)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is that [`command`] would find.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|path| path.join(program)).find(|path| path.is_file())
}

/// The same for a program that needs no shared libraries.
pub(crate) fn which_static(program: &str) -> Result<PathBuf> {
    let path = which(program).with_context(|| format!("there is no program {program}"))?;
    // `ldd` fails for a static program.
    let dynamic = succeeds(Command::new("ldd").arg(&path));
    ensure!(!dynamic, "{} needs shared libraries", path.display());
    Ok(path)
}

/// Runs a command with our own input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    show(command);
    let status = command.status().with_context(|| format!("starting {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// What a command prints, trimmed; what it says on stderr is part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}: {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Whether a command runs and succeeds; it is not heard.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Says what is about to run.
pub(crate) fn show(command: &Command) {
    say("+", &line(command));
}

/// A line about our own doings, apart from what the programs print.
pub(crate) fn say(mark: &str, text: &str) {
    if stderr().is_terminal() {
        eprintln!("\x1b[1m{mark}\x1b[0m {text}");
    } else {
        eprintln!("{mark} {text}");
    }
}

/// A command as one would type it, without the environment that sudo is given.
fn line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let mut shown: Vec<_> = words.collect();
    if shown.first().is_some_and(|program| program == "sudo") {
        shown.retain(|word| word != "env" && !word.starts_with("PATH="));
    }
    shown.join(" ")
}

fn assignment(name: impl AsRef<OsStr>, value: &OsStr) -> OsString {
    let mut assignment = name.as_ref().to_owned();
    assignment.push("=");
    assignment.push(value);
    assignment
}

fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].into_iter().map(PathBuf::from);
    let mut directories: Vec<_> = env::split_paths(&path).collect();
    for directory in toolchain::cargo_bin().into_iter().chain(system) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    // A directory with a colon in its name cannot have come out of a PATH.
    env::join_paths(directories).unwrap_or(path)
}
