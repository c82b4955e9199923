//! The compatibility table: what of observer works on which kernel, as the lab saw it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::HOST;
use super::architecture::Architecture;
use super::verdict::{Outcome, Report};
use crate::{cmd, documents};

/// A kernel and what was seen on it.
pub(super) struct Row {
    /// How the lab calls the kernel.
    pub(super) name: String,
    /// The version of its package, where there is one: Debian's releases stay the same over many.
    pub(super) version: String,
    pub(super) architecture: &'static Architecture,
    pub(super) report: Report,
}

/// Writes `compatibility.md` and `compatibility.json`.
pub(super) fn write(rows: &[Row], directory: &Path) -> Result<()> {
    fs::write(directory.join("compatibility.md"), markdown(rows))?;
    let json = json!({ "kernels": rows.iter().map(Row::json).collect::<Vec<_>>() });
    fs::write(directory.join("compatibility.json"), format!("{json:#}\n"))?;
    Ok(())
}

impl Row {
    fn json(&self) -> Value {
        let hooks = self.report.hooks.iter().map(|hook| {
            json!({
                "program": hook.program,
                "hook": hook.name,
                "state": if hook.missing.is_some() { "unavailable" } else { "active" },
                "reason": hook.missing,
                "verified_instructions": hook.instructions,
            })
        });
        json!({
            "name": self.name,
            "release": self.report.kernel,
            "architecture": self.architecture.name,
            "state": if self.report.refused.is_some() { "refused" } else { "supported" },
            "reason": self.report.refused,
            "hooks": hooks.collect::<Vec<_>>(),
        })
    }

    /// The kernel's version without what its distributor calls it; the one that was not booted is told apart, and
    /// another architecture than this machine's.
    fn title(&self) -> String {
        let packaged = self.version.starts_with(|first: char| first.is_ascii_digit());
        let version = if packaged { &self.version } else { &self.report.kernel };
        let version = version.split(['-', '+']).next().unwrap_or(version);
        if self.name == HOST {
            format!("{version} (not in QEMU)")
        } else if self.architecture.cross.is_some() {
            format!("{version} ({})", self.architecture.name)
        } else {
            version.to_owned()
        }
    }

    /// The cell of a program.
    fn cell(&self, program: &str) -> String {
        if self.report.refused.is_some() {
            return "refused".to_owned();
        }
        match self.report.hooks.iter().find(|hook| hook.program == program) {
            None => String::new(),
            Some(hook) if hook.missing.is_some() => "unavailable".to_owned(),
            Some(hook) => {
                hook.instructions.map_or("active".to_owned(), |count| format!("active ({count})"))
            }
        }
    }
}

/// Puts the table into the documents.
pub(super) fn write_docs(rows: &[Row]) -> Result<()> {
    documents::write(&cmd::workspace().join("docs/compatibility.md"), "lab", &markdown(rows))
}

/// Steps that show the guests' worlds, and what it means when they pass.
const WORLDS: &[(&str, &str, &str)] = &[
    ("lockdown", "`lockdown=confidentiality`", "runs"),
    ("hybrid", "cgroup v1 and v2 side by side", "runs"),
    ("no-v2", "cgroup v1 only", "refused, and says why"),
    ("no-btf", "type information hidden", "refused, and says why"),
];

/// Programs down, kernels across.
fn markdown(rows: &[Row]) -> String {
    let mut programs: Vec<(&str, &str)> = Vec::new();
    for hook in rows.iter().flat_map(|row| &row.report.hooks) {
        if !programs.iter().any(|(program, _)| *program == hook.program) {
            programs.push((&hook.program, &hook.name));
        }
    }
    let mut table = String::from("| program | hook |");
    for row in rows {
        // Writing to a string does not fail.
        let _ = write!(table, " {} |", row.title());
    }
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(rows.len()));
    for (program, hook) in programs {
        let _ = write!(table, "\n| `{program}` | `{hook}` |");
        for row in rows {
            let _ = write!(table, " {} |", row.cell(program));
        }
    }
    for (step, what, passed) in WORLDS {
        let _ = write!(table, "\n| {what} | |");
        for row in rows {
            let of = row.report.verdicts.iter().find(|verdict| verdict.test == *step);
            let _ = write!(
                table,
                " {} |",
                match of.map(|verdict| verdict.outcome) {
                    Some(Outcome::Passed) => passed,
                    Some(_) => "**wrong**",
                    None => "",
                }
            );
        }
    }
    table.push_str("\n\nIn parentheses: instructions that the kernel's verifier processed (its limit is 1,000,000, the lab's 400,000).\n");
    for row in rows {
        if let Some(why) = &row.report.refused {
            let _ = write!(table, "\n{} is refused: {why}\n", row.title());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::architecture::{AMD64, ARM64};
    use super::*;

    fn row(text: &str) -> Row {
        let report = Report::read(text);
        Row { name: "6.1".to_owned(), version: String::new(), architecture: &AMD64, report }
    }

    fn rows() -> [Row; 2] {
        [
            row(
                "LAB kernel 5.10.0\nLAB begin refused\nFAIL  kernel programs: too old\nLAB end refused 0\n",
            ),
            row(
                "LAB kernel 6.1.0\nLAB begin check\nok    a (x): y\nmiss  b (z): none; without it: w\nLAB end check 0\n\
                 LAB begin statistics\nLAB instructions a 7\nLAB end statistics 0\n",
            ),
        ]
    }

    #[test]
    fn every_program_is_a_line_and_every_kernel_a_column() {
        let text = markdown(&rows());
        assert!(
            text.starts_with("| program | hook | 5.10.0 | 6.1.0 |\n|---|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("\n| `a` | `x` | refused | active (7) |\n"), "{text}");
        assert!(text.contains("\n| `b` | `z` | refused | unavailable |\n"), "{text}");
        assert!(text.contains("\n5.10.0 is refused: too old\n"), "{text}");
    }

    #[test]
    fn a_column_says_its_architecture_if_it_is_another_one() {
        let [_, mut row] = rows();
        assert_eq!(row.title(), "6.1.0");
        row.architecture = &ARM64;
        assert_eq!(row.title(), "6.1.0 (arm64)");
        assert_eq!(row.json()["architecture"], "arm64");
    }

    #[test]
    fn machines_read_the_same() {
        let [refused, supported] = rows().map(|row| row.json());
        assert_eq!(refused["state"], "refused");
        assert_eq!(supported["hooks"][0]["verified_instructions"], 7);
        assert_eq!(supported["hooks"][1]["state"], "unavailable");
        assert_eq!(supported["hooks"][1]["reason"], "none");
    }
}
