//! The kernel's run-time statistics of BPF programs: how often each ran and for how long.
//!
//! A program that is reached by a tail call is part of the run of the one that called it. The time
//! contains that of reading the clock twice.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

use crate::cmd;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The switch of the statistics, which cost time themselves; put back when dropped.
pub(super) struct Statistics {
    before: String,
}

impl Statistics {
    /// Switches them off until told otherwise.
    pub(super) fn take_over() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("reading {SWITCH}"))?;
        Self::switch(false)?;
        Ok(Self { before })
    }

    /// Whoever took them over may switch them.
    pub(super) fn switch(on: bool) -> Result<()> {
        fs::write(SWITCH, if on { "1" } else { "0" }).with_context(|| format!("writing {SWITCH}"))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, &self.before) {
            cmd::say("!", &format!("cannot put {SWITCH} back to {}: {error}", self.before.trim()));
        }
    }
}

/// What a program has done since it was loaded, while statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) runs: u64,
    pub(super) nanoseconds: u64,
}

/// What a program is called.
pub(super) struct Name {
    pub(super) program: String,
    /// As bpftool calls its type.
    pub(super) kind: String,
}

/// The figures of each program that the process `id` holds, by the program's identifier.
pub(super) fn figures(id: u32) -> Result<BTreeMap<u32, Figures>> {
    let directory = format!("/proc/{id}/fdinfo");
    let entries = fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
    // A file may be closed between the listing and its turn.
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Ok(texts.filter_map(|text| program(&text)).collect())
}

/// What was added to `before`.
pub(super) fn since(
    before: &BTreeMap<u32, Figures>,
    after: &BTreeMap<u32, Figures>,
) -> BTreeMap<u32, Figures> {
    let added = after.iter().map(|(id, after)| {
        let before = before.get(id).copied().unwrap_or_default();
        let runs = after.runs - before.runs;
        (*id, Figures { runs, nanoseconds: after.nanoseconds - before.nanoseconds })
    });
    added.collect()
}

/// The names of all programs that are loaded.
pub(super) fn names() -> Result<BTreeMap<u32, Name>> {
    let list = cmd::output(cmd::command("bpftool").args(["--json", "prog", "show"]))?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let named = list.as_array().into_iter().flatten().filter_map(|program| {
        let text = |key: &str| program[key].as_str().map(str::to_owned);
        let id = program["id"].as_u64()?.try_into().ok()?;
        Some((id, Name { program: text("name")?, kind: text("type")? }))
    });
    Ok(named.collect())
}

/// Identifier and figures in the `fdinfo` of a program; `None` for that of another file. A link
/// also names its program, but has no figures.
fn program(fdinfo: &str) -> Option<(u32, Figures)> {
    let field = |name: &str| {
        let mut fields = fdinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim())
    };
    let figures = Figures {
        runs: field("run_cnt")?.parse().ok()?,
        nanoseconds: field("run_time_ns")?.parse().ok()?,
    };
    Some((field("prog_id")?.parse().ok()?, figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_have_figures() {
        let text = "pos:\t0\nprog_type:\t8\nprog_id:\t42\nrun_time_ns:\t300\nrun_cnt:\t2\n";
        assert_eq!(program(text), Some((42, Figures { runs: 2, nanoseconds: 300 })));
        assert_eq!(program("link_type:\tcgroup\nprog_id:\t42\n"), None);
    }

    #[test]
    fn a_program_that_is_new_began_at_nothing() {
        let figures = |runs| Figures { runs, nanoseconds: runs * 100 };
        let before = BTreeMap::from([(1, figures(3))]);
        let after = BTreeMap::from([(1, figures(5)), (2, figures(7))]);
        assert_eq!(since(&before, &after), BTreeMap::from([(1, figures(2)), (2, figures(7))]));
    }
}
