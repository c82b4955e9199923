//! The programs that the lab runs: the very ones that `cargo xtask test` runs on this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::architecture::Architecture;
use super::initramfs::Initramfs;
use super::origin::Origin;
use crate::cmd;

/// Test programs of `observer/tests` that need nothing but the kernel and [`TOOLS`].
const TESTS: &[&str] = &[
    "adoption",
    "endings",
    "failures",
    "ground_truth",
    "handshakes",
    "overflow",
    "pinned",
    "proxy",
    "restart",
    "soak",
    "tail",
    "unseen",
];
/// Examples of `observer` that they start, which cargo puts beside the daemon.
const EXAMPLES: &[&str] = &["workload", "peer", "storm"];
/// Programs that they start, of this machine or from packages ([`Origin`]); busybox has some of these too, but with
/// fewer options.
const TOOLS: &[&str] =
    &["ip", "bpftool", "mount", "umount", "unshare", "setpriv", "nginx", "haproxy"];

/// What cargo built.
pub(super) struct Programs {
    pub(super) observer: PathBuf,
    /// Where the test programs look for the examples: cargo names them with a hash.
    examples: Vec<PathBuf>,
    tests: Vec<(String, PathBuf)>,
    /// The object with the kernel programs that the daemon embeds.
    pub(super) object: PathBuf,
}

/// A line of cargo's `--message-format=json`, as far as we read it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
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

impl Programs {
    /// Builds them for guests of an architecture.
    pub(super) fn build(architecture: &Architecture) -> Result<Self> {
        // As `cargo xtask test` does: for one package alone cargo may build everything once more, with other features.
        let arguments = ["test", "--no-run", "--message-format=json-render-diagnostics"];
        let mut cargo = cmd::cargo(&arguments);
        if let Some(cross) = &architecture.cross {
            // No more than what guests get.
            cross.apply(cargo.args(["--package", "observer"]));
        }
        cmd::show(&cargo);
        let output = cargo.stderr(Stdio::inherit()).output().context("starting cargo")?;
        if !output.status.success() {
            bail!("the tests do not build");
        }
        Self::from_messages(&String::from_utf8(output.stdout)?)
    }

    fn from_messages(messages: &str) -> Result<Self> {
        let mut built = Vec::new();
        let mut object = None;
        for line in messages.lines() {
            let message: Message = serde_json::from_str(line)?;
            // Of all build scripts only the daemon's leaves this.
            let left = message.out_dir.map(|directory| directory.join("observer-ebpf"));
            object = left.filter(|path| path.is_file()).or(object);
            let (Some(target), Some(profile), Some(path)) =
                (message.target, message.profile, message.executable)
            else {
                continue;
            };
            let kind = target.kind.into_iter().next().unwrap_or_default();
            built.push((kind, profile.test, target.name, path));
        }
        let find = |kind: &str, test: bool, name: &str| {
            let mut of = built.iter().filter(|built| {
                (built.0.as_str(), built.1, built.2.as_str()) == (kind, test, name)
            });
            of.next()
                .map(|(.., path)| path.clone())
                .with_context(|| format!("cargo built no {kind} {name}"))
        };
        let observer = find("bin", false, "observer")?;
        let beside = observer.with_file_name("examples");
        Ok(Self {
            examples: EXAMPLES.iter().map(|name| beside.join(name)).collect(),
            observer,
            object: object.context("the build of observer leaves no kernel programs")?,
            tests: TESTS
                .iter()
                .map(|name| Ok(((*name).to_owned(), find("test", true, name)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// Links the tests into a directory, for a run on this machine.
    pub(super) fn link_tests(&self, directory: &Path) -> Result<()> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir_all(directory)?;
        for (name, path) in &self.tests {
            symlink(path, directory.join(name))?;
        }
        Ok(())
    }

    /// Puts everything into an archive. Tests know the daemon by the path that it has here, so it has it there too.
    pub(super) fn pack(&self, archive: &mut Initramfs, origin: &Origin) -> Result<()> {
        for program in self.examples.iter().chain([&self.observer]) {
            archive.linked_program(program, program, origin)?;
        }
        archive.link(Path::new("/usr/bin/observer"), &self.observer)?;
        for (name, path) in &self.tests {
            archive.linked_program(&Path::new("/lab/tests").join(name), path, origin)?;
        }
        for tool in TOOLS {
            archive.linked_program(
                &Path::new("/usr/bin").join(tool),
                &origin.tool(tool)?,
                origin,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, name: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},
               "profile":{{"test":{test}}},"executable":"/t/debug/{name}-{test}"}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let directory = tempfile::tempdir().unwrap();
        let object = directory.path().join("observer-ebpf");
        fs::write(&object, "").unwrap();
        let other = format!(
            r#"{{"reason":"build-script-executed","out_dir":{:?}}}"#,
            directory.path().display().to_string()
        );
        let mut lines =
            vec![message("bin", "observer", true), message("bin", "observer", false), other];
        assert!(Programs::from_messages(&lines.join("\n")).is_err());
        lines.extend(TESTS.iter().map(|name| message("test", name, true)));
        let programs = Programs::from_messages(&lines.join("\n")).unwrap();
        assert_eq!(programs.observer, Path::new("/t/debug/observer-false"));
        assert_eq!(programs.examples[0], Path::new("/t/debug/examples/workload"));
        assert_eq!(programs.tests.len(), TESTS.len());
        assert_eq!(programs.object, object);
    }
}
