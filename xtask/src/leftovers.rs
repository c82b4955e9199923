//! What a run of the tests left on the machine: compared with what was there before, so that
//! nothing depends on how the tests name their things.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{cgroup, cmd};

/// The kernel frees programs, and their processes' cgroups, a moment after the last use.
const PATIENCE: Duration = Duration::from_mins(1);

/// Cgroups below these come and go with the machine's own services and logins.
const NOT_OURS: &[&str] = &["system.slice", "user.slice", "init.scope"];

/// What tests can leave behind, each thing as the line that would report it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at processes started from `programs`, cgroups, network namespaces, BPF programs and
    /// pinned objects.
    pub(crate) fn take(programs: &Path) -> Result<Self> {
        let mut things = BTreeSet::new();
        things.extend(processes(programs));
        things.extend(cgroups()?);
        things.extend(entries("/run/netns", "network namespace"));
        things.extend(bpf_programs()?);
        let pins = cmd::output(cmd::as_root("find")?.args(["/sys/fs/bpf", "-name", "*observer*"]));
        things.extend(pins.iter().flat_map(|pins| pins.lines()).map(|pin| format!("pin {pin}")));
        Ok(Self(things))
    }

    /// What is new since then and stays for longer than the kernel takes to clean up.
    pub(crate) fn left_since(&self, programs: &Path) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut earlier = Self::take(programs)?;
        loop {
            // What is in one listing only was about to go, or belongs to the listing: bpftool
            // loads a program each time.
            let now = Self::take(programs)?;
            let stayed = now.0.intersection(&earlier.0);
            let left: Vec<_> = stayed.filter(|thing| !self.0.contains(*thing)).cloned().collect();
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            earlier = now;
            sleep(Duration::from_millis(200));
        }
    }
}

/// Processes whose program lies in `directory`, other than ourselves.
fn processes(directory: &Path) -> Vec<String> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        (number != std::process::id()).then_some(number)
    });
    let described = numbers.filter_map(|number| {
        // Everyone may read a command line; the link to the program is the owner's.
        let line = fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = Path::new(line.split(' ').next()?).starts_with(directory);
        ours.then(|| format!("process {number}: {line}"))
    });
    described.collect()
}

fn cgroups() -> Result<Vec<String>> {
    let roots = cgroup::roots()?;
    let ours = roots.iter().flat_map(|root| {
        let ours = move |path: &PathBuf| {
            let path = path.strip_prefix(root).unwrap_or(path);
            !NOT_OURS.iter().any(|theirs| path.starts_with(theirs))
        };
        cgroup::below(root).into_iter().filter(ours)
    });
    Ok(ours.map(|path| format!("cgroup {}", path.display())).collect())
}

fn entries(directory: &str, kind: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| format!("{kind} {}", entry.file_name().display())).collect()
}

/// The loaded BPF programs by identifier and name.
fn bpf_programs() -> Result<Vec<String>> {
    let list = cmd::output(cmd::as_root("bpftool")?.args(["--json", "prog", "show"]))?;
    Ok(named_programs(&serde_json::from_str(&list)?))
}

/// Those with a name that is not systemd's: container runtimes load programs without names, and
/// systemd ones that begin with "sd_", whenever they please.
fn named_programs(list: &serde_json::Value) -> Vec<String> {
    let programs = list.as_array().into_iter().flatten().filter_map(|program| {
        let name = program["name"].as_str().filter(|name| !name.starts_with("sd_"))?;
        Some(format!("BPF program {} {name}", program["id"]))
    });
    programs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_system_are_not_ours() {
        let list = serde_json::json!([
            {"id": 1, "type": "cgroup_device"},
            {"id": 2, "type": "cgroup_skb", "name": "sd_fw_egress"},
            {"id": 7, "type": "cgroup_skb", "name": "ingress"},
        ]);
        assert_eq!(named_programs(&list), ["BPF program 7 ingress"]);
    }

    #[test]
    fn a_process_is_known_by_where_its_program_lies() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let number = format!("process {}:", child.id());
        let deadline = Instant::now() + PATIENCE;
        // The command line appears a moment after the process.
        let found = || processes(Path::new("/bin")).iter().any(|line| line.starts_with(&number));
        while !found() && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        let in_time = found();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(in_time);
    }
}
