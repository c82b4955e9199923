//! Components of the toolchain, and programs that cargo builds from crates.

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
