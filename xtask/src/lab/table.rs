//! The compatibility table: what of observer works on which kernel, as the lab saw it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::verdict::Report;

/// A kernel and what was seen on it.
pub(super) struct Row {
    /// How the lab calls the kernel.
    pub(super) name: String,
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
            "state": if self.report.refused.is_some() { "refused" } else { "supported" },
            "reason": self.report.refused,
            "hooks": hooks.collect::<Vec<_>>(),
        })
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
        let _ = write!(table, " {} |", row.report.kernel);
    }
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(rows.len()));
    for (program, hook) in programs {
        let _ = write!(table, "\n| `{program}` | `{hook}` |");
        for row in rows {
            let _ = write!(table, " {} |", row.cell(program));
        }
    }
    table.push_str("\n\nIn parentheses: instructions that the kernel's verifier processed (its limit is 1,000,000).\n");
    for row in rows {
        if let Some(why) = &row.report.refused {
            let _ = write!(table, "\n{} is refused: {why}\n", row.report.kernel);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row { name: "6.1".to_owned(), report: Report::read(text) }
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
    fn machines_read_the_same() {
        let [refused, supported] = rows().map(|row| row.json());
        assert_eq!(refused["state"], "refused");
        assert_eq!(supported["hooks"][0]["verified_instructions"], 7);
        assert_eq!(supported["hooks"][1]["state"], "unavailable");
        assert_eq!(supported["hooks"][1]["reason"], "none");
    }
}
