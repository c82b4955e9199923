//! The programs made of tests, and how each is run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{artifacts, cmd, setup};

/// Whether a program has tests that are ignored on machines that cannot have what they need, and this one has it.
fn has_what_it_needs(program: &str) -> bool {
    match program {
        "observer/chart" => setup::has_helm(),
        "observer/created" => setup::has_newer_prometheus(),
        _ => false,
    }
}

/// A program made of tests.
pub(crate) struct Program {
    /// Package and target, as in "observer/lib" or "observer/proxy".
    pub(crate) name: String,
    /// Whether it loads programs into the kernel. Then it runs as root, one test at a time, because each of them counts
    /// what the whole machine does.
    pub(crate) needs_root: bool,
    executable: PathBuf,
    /// The directory of its package, where cargo would run it.
    directory: PathBuf,
}

/// Builds all tests, and the programs and examples that they start; by name.
pub(crate) fn build() -> Result<Vec<Program>> {
    let built = artifacts::build(&mut cmd::cargo(&["test", "--no-run"]))?;
    let mut programs: Vec<_> = built.programs.into_iter().filter_map(Program::of).collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

impl Program {
    fn of(built: artifacts::Program) -> Option<Self> {
        built.is_test.then_some(())?;
        let package = built.package.file_name()?.to_string_lossy().into_owned();
        // A library and a program of the same package usually share their name.
        let name = if built.kind == "test" { &built.name } else { &built.kind };
        let needs_root = package == "observer" && built.kind == "test";
        let name = format!("{package}/{name}");
        Some(Self { name, needs_root, executable: built.path, directory: built.package })
    }

    /// The command that runs all of it, with these variables in its environment.
    pub(crate) fn command(&self, variables: &[(&str, &str)]) -> Result<Command> {
        let mut command = if self.needs_root { cmd::as_root("env")? } else { cmd::command("env") };
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(&self.executable);
        if self.needs_root {
            command.arg("--test-threads=1");
        }
        if has_what_it_needs(&self.name) {
            command.arg("--include-ignored");
        }
        // What cargo would set; sudo does not pass it on, and no test of the kernel needs it.
        command.env("CARGO_MANIFEST_DIR", &self.directory).current_dir(&self.directory);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tests_of_the_kernel_need_root() {
        let of = |kind: &str, is_test: bool| {
            Program::of(artifacts::Program {
                package: "/w/observer".into(),
                kind: kind.to_owned(),
                name: "a".to_owned(),
                is_test,
                path: "/t/a-1".into(),
            })
        };
        assert!(of("test", true).unwrap().needs_root);
        assert_eq!(of("test", true).unwrap().name, "observer/a");
        assert!(!of("lib", true).unwrap().needs_root);
        assert_eq!(of("lib", true).unwrap().name, "observer/lib");
        assert!(of("example", false).is_none());
    }
}
