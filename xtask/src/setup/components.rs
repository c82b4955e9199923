//! Components of the toolchain, and programs that cargo builds from crates.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::cmd;

/// The version of `cargo <name>`.
pub(super) fn check(name: &str) -> Result<String, String> {
    cmd::output(&mut cmd::cargo(&[name, "--version"]))
        .map_err(|_| format!("the toolchain has no cargo {name}"))
}

/// Adds the component that `cargo <name>` comes with.
pub(super) fn install(name: &str) -> Result<()> {
    ensure!(
        cmd::which("rustup").is_some(),
        "without rustup it has to come from where cargo came from"
    );
    let component = if name == "fmt" { "rustfmt" } else { name };
    cmd::run(
        cmd::command("rustup").args(["component", "add", component]).current_dir(cmd::workspace()),
    )
}

/// Where the standard library for a target is.
pub(super) fn check_target(name: &str) -> Result<String, String> {
    let mut rustc = cmd::command("rustc");
    rustc.args(["--print", "target-libdir", "--target", name]).current_dir(cmd::workspace());
    let directory = cmd::output(&mut rustc).map_err(|error| format!("{error:#}"))?;
    let mut files = Path::new(&directory).read_dir().into_iter().flatten().flatten();
    if files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-")) {
        Ok(directory)
    } else {
        Err(format!("the toolchain has no standard library for {name}"))
    }
}

/// Adds the standard library for a target.
pub(super) fn install_target(name: &str) -> Result<()> {
    ensure!(
        cmd::which("rustup").is_some(),
        "without rustup it has to come from where rustc came from, such as Debian's \
         libstd-rust-dev of that architecture and rustc's version"
    );
    let mut rustup = cmd::command("rustup");
    cmd::run(rustup.args(["target", "add", name]).current_dir(cmd::workspace()))
}

/// What an installed program calls itself.
pub(super) fn version_of(program: &str) -> Result<String, String> {
    cmd::output(cmd::command(program).arg("--version"))
        .map_err(|_| format!("there is no working {program}"))
}

/// Builds a program from crates.io into cargo's own directory of programs.
pub(super) fn install_crate(program: &str, version: &str, arguments: &[&str]) -> Result<()> {
    let mut install = cmd::cargo(&["install", program, "--version", version, "--locked"]);
    cmd::run(install.args(arguments))
}
