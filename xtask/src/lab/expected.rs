//! Judges a report: everything must have passed but what `lab/expected.txt` lists.

use anyhow::{Result, anyhow};

use super::HOST;
use super::verdict::{Hook, Outcome, Report};

/// Instructions that the verifier may process for a program. Its own limit is a million: the next kernel's verifier may
/// need twice as many for the same program, as some have, and the program still loads.
const LIMIT: u64 = 400_000;

/// A line of `lab/expected.txt`.
struct Line {
    /// Or all of an architecture's, or `*`.
    kernel: String,
    test: String,
}

/// What may be skipped, and where.
pub(super) struct Expected(Vec<Line>);

impl Expected {
    pub(super) fn parse(list: &str) -> Result<Self> {
        let lines =
            list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let parse = |line: &str| {
            let mut words = line.splitn(3, char::is_whitespace).map(str::to_owned);
            match (words.next(), words.next(), words.next()) {
                (Some(kernel), Some(test), Some(_reason)) => Ok(Line { kernel, test }),
                _ => Err(anyhow!("not KERNEL TEST REASON: {line}")),
            }
        };
        lines.map(parse).collect::<Result<_>>().map(Self)
    }

    fn skips(&self, kernel: &[&str], test: &str) -> bool {
        let applies = |name: &str| name == "*" || kernel.contains(&name);
        self.0.iter().any(|line| applies(&line.kernel) && line.test == test)
    }

    /// Machines differ: what one's own kernel refuses another's may take.
    fn must_skip(&self, kernel: &[&str], test: &str) -> bool {
        self.skips(kernel, test) && !kernel.contains(&HOST)
    }

    /// What is wrong with a report of a kernel that goes by these names, a line each; empty if nothing is.
    pub(super) fn complaints(&self, kernel: &[&str], report: &Report) -> Vec<String> {
        let verdicts =
            report.verdicts.iter().map(|verdict| (verdict.test.clone(), verdict.outcome));
        let hooks = report.hooks.iter().map(|hook| {
            let outcome = if hook.missing.is_some() { Outcome::Skipped } else { Outcome::Passed };
            (format!("program:{}", hook.program), outcome)
        });
        let complain = |(test, outcome): (String, Outcome)| {
            let why = match outcome {
                Outcome::Failed => "failed",
                Outcome::Skipped if !self.skips(kernel, &test) => {
                    "was skipped, which is not expected"
                }
                Outcome::Passed if self.must_skip(kernel, &test) => {
                    "is expected to be skipped, but passed"
                }
                Outcome::Skipped | Outcome::Passed => return None,
            };
            Some(format!("{test} {why}"))
        };
        let mut complaints: Vec<_> = verdicts.chain(hooks).filter_map(complain).collect();
        complaints.extend(report.hooks.iter().filter_map(too_long));
        if !report.complete {
            complaints.push("the last step did not come to its end".to_owned());
        }
        complaints
    }
}

/// What to say of a program that the verifier has too much work with.
fn too_long(hook: &Hook) -> Option<String> {
    let count = hook.instructions.filter(|count| *count > LIMIT)?;
    Some(format!(
        "program:{} takes the verifier {count} instructions, and {LIMIT} is the most that leaves room for other \
         kernels: docs/verifier.md tells what makes it less",
        hook.program
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(code: u8) -> Report {
        Report::read(&format!("LAB begin a\nLAB end a {code}\nLAB done\n"))
    }

    #[test]
    fn only_expected_skips_pass() {
        let none = Expected::parse("").unwrap();
        let some = Expected::parse("# comment\n6.1 a it has none\n").unwrap();
        assert!(none.complaints(&["6.1"], &report(0)).is_empty());
        assert_eq!(
            none.complaints(&["6.1"], &report(77)),
            ["a was skipped, which is not expected"]
        );
        assert_eq!(none.complaints(&["6.1"], &report(1)), ["a failed"]);
        assert!(some.complaints(&["6.1"], &report(77)).is_empty());
        assert_eq!(some.complaints(&["6.12"], &report(77)).len(), 1);
        assert_eq!(
            some.complaints(&["6.1"], &report(0)),
            ["a is expected to be skipped, but passed"]
        );
        assert_eq!(some.complaints(&["6.1"], &report(1)), ["a failed"]);
        let of_host = Expected::parse("host a it has none\n").unwrap();
        assert!(of_host.complaints(&[HOST], &report(77)).is_empty());
        assert!(of_host.complaints(&[HOST], &report(0)).is_empty(), "another machine may have it");
        assert_eq!(of_host.complaints(&["6.1"], &report(77)).len(), 1);
        let of_amd64 = Expected::parse("amd64 a it has none\n").unwrap();
        assert!(of_amd64.complaints(&["6.1", "amd64"], &report(77)).is_empty());
        assert_eq!(of_amd64.complaints(&["arm64", "arm64"], &report(77)).len(), 1);
    }

    #[test]
    fn a_missing_program_is_a_skip() {
        let text = "LAB begin check\nmiss  p (reset): not there; without it: x\nLAB end check 0\nLAB done\n";
        let report = Report::read(text);
        assert_eq!(Expected::parse("").unwrap().complaints(&["6.1"], &report).len(), 1);
        assert!(
            Expected::parse("* program:p young").unwrap().complaints(&["6.1"], &report).is_empty()
        );
    }

    #[test]
    fn a_program_must_leave_the_verifier_room() {
        let of = |count| {
            let report = Report::read(&format!(
                "LAB begin check\nok    p (reset): x\nLAB end check 0\nLAB instructions p {count}\nLAB done\n"
            ));
            Expected::parse("").unwrap().complaints(&["6.1"], &report)
        };
        assert!(of(LIMIT).is_empty());
        let complaints = of(LIMIT + 1);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("program:p takes the verifier 400001"), "{complaints:?}");
    }

    #[test]
    fn a_report_must_be_complete() {
        assert_eq!(Expected::parse("").unwrap().complaints(&["6.1"], &Report::default()).len(), 1);
    }

    #[test]
    fn a_line_needs_a_reason() {
        assert!(Expected::parse("6.1 a").is_err());
    }
}
