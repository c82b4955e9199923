//! What cargo builds, as its messages tell.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cmd;

/// What a build has made.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) programs: Vec<Program>,
    /// Where build scripts have left something.
    pub(crate) scripts: Vec<PathBuf>,
}

/// A program that can be run.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The directory of its package.
    pub(crate) package: PathBuf,
    /// Of its target: "bin", "test", "example", …
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Whether it is made of tests.
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
}

/// A line of cargo's `--message-format=json`, as far as we read it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    /// Of a build script that has run.
    out_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Has cargo build; the command says what. What goes wrong is shown as it happens.
pub(crate) fn build(cargo: &mut Command) -> Result<Built> {
    build_with(cargo, &[])
}

/// The same with arguments that stand last.
pub(crate) fn build_with(cargo: &mut Command, last: &[&str]) -> Result<Built> {
    cargo.arg("--message-format=json-render-diagnostics").args(last);
    cmd::show(cargo);
    let output = cargo.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("the programs do not build");
    }
    Built::read(&String::from_utf8(output.stdout)?)
}

impl Built {
    fn read(messages: &str) -> Result<Self> {
        let mut built = Self::default();
        for line in messages.lines() {
            let message: Message = serde_json::from_str(line)?;
            built.scripts.extend(message.out_dir.clone());
            built.programs.extend(message.program());
        }
        // cargo reports them as they are finished.
        built.programs.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(built)
    }

    /// The program of that kind and name.
    pub(crate) fn find(&self, kind: &str, is_test: bool, name: &str) -> Result<&Path> {
        let is_it = |program: &&Program| {
            (program.kind.as_str(), program.is_test, program.name.as_str()) == (kind, is_test, name)
        };
        let found = self.programs.iter().find(is_it).map(|program| program.path.as_path());
        found.with_context(|| format!("cargo built no {kind} {name}"))
    }
}

impl Message {
    fn program(self) -> Option<Program> {
        let target = self.target?;
        Some(Program {
            package: self.manifest_path?.parent()?.to_owned(),
            kind: target.kind.into_iter().next()?,
            name: target.name,
            is_test: self.profile?.test,
            path: self.executable?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, name: &str, test: bool) -> String {
        format!(r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"#)
            + &format!(
                r#""profile":{{"test":{test}}},"executable":"/t/{name}-{test}","manifest_path":"/w/p/Cargo.toml"}}"#
            )
    }

    #[test]
    fn programs_are_found_among_the_messages() {
        let lines = [
            message("bin", "observer", true),
            message("bin", "observer", false),
            r#"{"reason":"build-script-executed","out_dir":"/o"}"#.to_owned(),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let built = Built::read(&lines.join("\n")).unwrap();
        assert_eq!(built.scripts, [Path::new("/o")]);
        assert_eq!(built.find("bin", false, "observer").unwrap(), Path::new("/t/observer-false"));
        assert_eq!(built.programs[0].package, Path::new("/w/p"));
        assert!(built.find("test", true, "observer").is_err());
    }
}
