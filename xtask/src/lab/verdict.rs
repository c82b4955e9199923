//! What a guest (or the host) reported: the lines that `lab/steps` prints, and those of `observer check` between them.

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Skipped,
    Failed,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) test: String,
    pub(super) outcome: Outcome,
    /// What it printed.
    pub(super) said: String,
}

/// One hook of observer's, as `observer check` told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) program: String,
    pub(super) name: String,
    /// Why it is missing.
    pub(super) missing: Option<String>,
    /// Instructions that the verifier processed, where the kernel tells.
    pub(super) instructions: Option<u64>,
}

/// A whole report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The release of the kernel.
    pub(super) kernel: String,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) hooks: Vec<Hook>,
    /// Why observer does not run here at all.
    pub(super) refused: Option<String>,
    /// Whether the last step came to its end.
    pub(super) complete: bool,
}

/// The code by which a test says that it was skipped.
const SKIPPED: &str = "77";
/// Steps that run `observer check`.
const CHECKS: [&str; 2] = ["check", "hybrid"];
/// What begins each line of the protocol.
const MARK: &str = "LAB ";

impl Report {
    pub(super) fn read(log: &str) -> Self {
        let mut report = Self::default();
        let mut running: Option<Verdict> = None;
        let mut instructions = Vec::new();
        for line in log.lines().map(str::trim_end) {
            let Some(words) = line.strip_prefix(MARK) else {
                if let Some(verdict) = &mut running {
                    report.heed(&verdict.test, line);
                    verdict.said.push_str(line);
                    verdict.said.push('\n');
                }
                continue;
            };
            match *words.split(' ').collect::<Vec<_>>() {
                ["kernel", release] => report.kernel = String::from(release),
                ["begin", test] => {
                    report.verdicts.extend(running.take());
                    running = Some(Verdict {
                        test: test.to_owned(),
                        outcome: Outcome::Failed,
                        said: String::new(),
                    });
                }
                ["end", test, code] => {
                    if let Some(mut verdict) = running.take_if(|verdict| verdict.test == test) {
                        verdict.outcome = match code {
                            "0" => Outcome::Passed,
                            SKIPPED => Outcome::Skipped,
                            _ => Outcome::Failed,
                        };
                        report.verdicts.push(verdict);
                    }
                }
                ["instructions", program, count] => {
                    instructions.push((program.to_owned(), count.parse().ok()));
                }
                ["done"] => report.complete = true,
                _ => {}
            }
        }
        // One that began and did not end has failed.
        report.verdicts.extend(running);
        for hook in &mut report.hooks {
            // Two may have the same name in the kernel.
            let of = instructions.iter().filter(|(program, _)| names_same(program, &hook.program));
            hook.instructions = of.filter_map(|(_, count)| *count).max();
        }
        report
    }

    /// Takes what the table needs out of what `observer check` printed.
    fn heed(&mut self, test: &str, line: &str) {
        let checks = CHECKS.contains(&test);
        if checks
            && let Some(hook) = hook(line)
            && !self.hooks.contains(&hook)
        {
            self.hooks.push(hook);
        }
        if let Some(why) = line.strip_prefix("FAIL  kernel programs: ")
            && (checks || test == "refused")
        {
            self.refused = Some(why.to_owned());
        }
    }
}

/// `ok    PROGRAM (HOOK): what it tells` or `miss  PROGRAM (HOOK): why; without it: …`.
fn hook(line: &str) -> Option<Hook> {
    let (state, rest) = line.split_once(' ')?;
    let (program, rest) = rest.trim_start().split_once(" (")?;
    // A hook's name may have parentheses of its own.
    let (name, tells) = rest.split_once("): ")?;
    let missing = match state {
        "ok" => None,
        "miss" => Some(tells.split("; without it").next().unwrap_or(tells).to_owned()),
        _ => return None,
    };
    let words = |text: &str| text.contains(' ');
    (!words(program)).then(|| Hook {
        program: program.to_owned(),
        name: name.to_owned(),
        missing,
        instructions: None,
    })
}

/// The kernel keeps fifteen bytes of a program's name.
fn names_same(kernels: &str, ours: &str) -> bool {
    ours == kernels || (kernels.len() == 15 && ours.starts_with(kernels))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "LAB kernel 6.1.0-50-cloud-amd64\r\n\
        LAB begin check\r\n\
        ok    kernel: 6.1.0-50-cloud-amd64\r\n\
        ok    cgroup v2: /sys/fs/cgroup (unified)\r\n\
        ok    parse_http1 (cgroup_skb (parser)): protocols\r\n\
        ok    a_program_of_many_letters (inet_sock_set_state): births\r\n\
        miss  reset (tcp_send_reset): no such hook; without it: reasons\r\n\
        \r\n\
        LAB end check 0\r\n\
        LAB begin hybrid\r\n\
        ok    parse_http1 (cgroup_skb (parser)): protocols\r\n\
        LAB end hybrid 0\r\n\
        LAB begin statistics\r\n\
        LAB instructions parse_http1 311632\r\n\
        LAB instructions parse_http1 7\r\n\
        LAB instructions a_program_of_ma 5\r\n\
        LAB end statistics 0\r\n\
        LAB begin later\r\n\
        LAB end later 77\r\n\
        LAB begin broken\r\nwhy\r\nLAB end broken 101\r\n";

    fn outcomes(report: &Report) -> Vec<(&str, Outcome)> {
        report.verdicts.iter().map(|verdict| (verdict.test.as_str(), verdict.outcome)).collect()
    }

    #[test]
    fn each_test_has_one_verdict() {
        let report = Report::read(&format!("{REPORT}LAB done\r\n"));
        assert!(report.complete);
        assert_eq!(report.kernel, "6.1.0-50-cloud-amd64");
        let expected = [
            ("check", Outcome::Passed),
            ("hybrid", Outcome::Passed),
            ("statistics", Outcome::Passed),
            ("later", Outcome::Skipped),
            ("broken", Outcome::Failed),
        ];
        assert_eq!(outcomes(&report), expected);
        assert_eq!(report.verdicts[4].said, "why\n");
    }

    #[test]
    fn what_did_not_end_has_failed() {
        let report = Report::read(&format!("{REPORT}LAB begin last\r\nsome"));
        assert!(!report.complete);
        assert_eq!(outcomes(&report).last(), Some(&("last", Outcome::Failed)));
    }

    #[test]
    fn hooks_are_read_from_the_check() {
        let hooks = Report::read(REPORT).hooks;
        let of = |program: &str, name: &str, missing: Option<&str>, instructions| Hook {
            program: program.into(),
            name: name.into(),
            missing: missing.map(str::to_owned),
            instructions,
        };
        assert_eq!(
            hooks,
            [
                of("parse_http1", "cgroup_skb (parser)", None, Some(311_632)),
                of("a_program_of_many_letters", "inet_sock_set_state", None, Some(5)),
                of("reset", "tcp_send_reset", Some("no such hook"), None),
            ]
        );
    }

    #[test]
    fn a_refusal_is_kept_in_its_own_words() {
        let report =
            Report::read("LAB begin refused\nFAIL  kernel programs: too old\nLAB end refused 0\n");
        assert_eq!(report.refused.as_deref(), Some("too old"));
    }
}
