//! The results: targets beside figures, as Markdown for people and JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::Part;
use super::compare::Comparison;
use super::detail::{DetailRow, target};
use super::held::Held;
use super::loads::Load;
use super::pods::{PodsRow, Scrapes};
use super::watcher::Kind;
use crate::machine::Machine;
use crate::spread::Spread;

/// A program that ran less often than this under a load is not what the load is about.
const ENOUGH_RUNS: u64 = 1_000;

/// Programs that ran less often are left out of the table; the JSON has them.
const SHOWN_RUNS: u64 = 100;

/// All that was measured.
#[derive(Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) quick: bool,
    pub(super) targets: Vec<Target>,
    pub(super) comparisons: Vec<Comparison>,
    pub(super) bpf_times: Vec<BpfTime>,
    pub(super) programs: Vec<ProgramRow>,
    pub(super) start_up_ms: Option<Spread>,
    pub(super) pods: Vec<PodsRow>,
    pub(super) held: Option<Held>,
    pub(super) detail: Vec<DetailRow>,
    /// What did not run here, and why.
    pub(super) skipped: Vec<String>,
}

/// A kernel program under a load.
#[derive(Serialize)]
pub(super) struct ProgramRow {
    pub(super) load: Load,
    pub(super) watcher: Kind,
    pub(super) program: String,
    /// As bpftool calls its type.
    pub(super) kind: String,
    pub(super) runs: u64,
    pub(super) mean_ns: f64,
}

/// The time in all programs of a watcher, by the operations of the load.
#[derive(Serialize)]
pub(super) struct BpfTime {
    pub(super) load: Load,
    pub(super) watcher: Kind,
    pub(super) operations: f64,
    pub(super) ns_per_operation: f64,
}

/// What a figure should be.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Target {
    part: Part,
    what: &'static str,
    limit: f64,
    /// Whether the figure has to be at least the limit rather than at most.
    at_least: bool,
    figure: f64,
    /// The same of programs that return at once.
    floor: Option<f64>,
    unit: &'static str,
    met: bool,
}

impl Target {
    fn at_most(what: &'static str, limit: f64, unit: &'static str, figure: f64) -> Self {
        let (part, met) = (Part::Kernel, figure <= limit);
        Self { part, what, limit, at_least: false, figure, floor: None, unit, met }
    }

    fn at_least(what: &'static str, limit: f64, figure: f64) -> Self {
        let (part, met) = (Part::Kernel, figure >= limit);
        Self { part, what, limit, at_least: true, figure, floor: None, unit: "", met }
    }

    fn of_daemon(self) -> Self {
        Self { part: Part::Daemon, ..self }
    }

    fn above(self, floor: Option<f64>) -> Self {
        Self { floor, ..self }
    }
}

impl Results {
    /// Nothing was measured yet.
    pub(super) fn of(machine: Machine, quick: bool) -> Self {
        Self {
            machine,
            quick,
            targets: Vec::new(),
            comparisons: Vec::new(),
            bpf_times: Vec::new(),
            programs: Vec::new(),
            start_up_ms: None,
            pods: Vec::new(),
            held: None,
            detail: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Holds the figures of the observer against the targets. A figure that is missing has no line.
    pub(super) fn judge(&mut self) {
        let mut targets = Vec::new();
        let segment = |row: &ProgramRow| {
            row.kind == "cgroup_skb" && matches!(row.load, Load::KeepAlive | Load::WebSocket)
        };
        let event = |row: &ProgramRow| row.kind != "cgroup_skb" && row.load == Load::Short;
        targets.extend(self.slowest(Kind::Observer, segment).map(|mean| {
            Target::at_most("slowest segment program, mean (keep-alive, echo)", 200.0, "ns", mean)
                .above(self.slowest(Kind::Empty, segment))
        }));
        targets.extend(self.slowest(Kind::Observer, event).map(|mean| {
            Target::at_most("slowest state program, mean (short connections)", 400.0, "ns", mean)
                .above(self.slowest(Kind::Empty, event))
        }));
        let ratio = |watcher, load| {
            let of = |one: &&Comparison| one.watcher == watcher && one.load == load;
            self.comparisons.iter().find(of).map(|one| one.ratio.median)
        };
        let ratios = Load::ALL.into_iter().filter_map(|load| {
            ratio(Kind::Observer, load).map(|figure| (figure, ratio(Kind::Empty, load)))
        });
        targets.extend(ratios.min_by(|one, other| one.0.total_cmp(&other.0)).map(
            |(figure, floor)| {
                Target::at_least("throughput ratio, worst load", 0.93, figure).above(floor)
            },
        ));
        targets.extend(ratio(Kind::Observer, Load::Bulk).map(|figure| {
            let floor = ratio(Kind::Empty, Load::Bulk);
            Target::at_least("throughput ratio, bulk", 0.98, figure).above(floor)
        }));
        let echo = |watcher| {
            let of = |time: &&BpfTime| time.watcher == watcher && time.load == Load::WebSocket;
            self.bpf_times.iter().find(of).map(|time| time.ns_per_operation / 1e3)
        };
        targets.extend(echo(Kind::Observer).map(|figure| {
            Target::at_most("BPF time per WebSocket round trip, both ends", 1.5, "µs", figure)
                .above(echo(Kind::Empty))
        }));
        if let Some(row) = self.pods.iter().max_by_key(|row| row.pods) {
            let memory = row.resident_kib as f64 / 1024.0;
            let slowest =
                row.scrapes.iter().map(|scrapes| scrapes.ms.median).max_by(f64::total_cmp);
            let grown = row.peak_kib.saturating_sub(row.resident_kib) as f64 / 1024.0;
            targets.extend([
                Target::at_most(
                    "scrape of 500 pods, slowest format",
                    50.0,
                    "ms",
                    slowest.unwrap_or(f64::NAN),
                )
                .of_daemon(),
                Target::at_most(
                    "memory that scrapes of 500 pods take beside that",
                    5.0,
                    "MiB",
                    grown,
                )
                .of_daemon(),
                Target::at_most("daemon's resident memory, 500 pods", 30.0, "MiB", memory)
                    .of_daemon(),
            ]);
        }
        targets.extend(self.held.map(|held| {
            let memory = held.resident_kib as f64 / 1024.0;
            Target::at_most(
                "daemon's resident memory, 100,000 connections open",
                30.0,
                "MiB",
                memory,
            )
            .of_daemon()
        }));
        self.targets = targets;
    }

    /// The largest mean of a watcher's programs that are `of` interest.
    fn slowest(&self, watcher: Kind, of: impl Fn(&ProgramRow) -> bool) -> Option<f64> {
        let rows = self
            .programs
            .iter()
            .filter(|row| row.watcher == watcher && row.runs >= ENOUGH_RUNS && of(row));
        rows.map(|row| row.mean_ns).max_by(f64::total_cmp)
    }

    /// The tables of a part. Writing to a String does not fail, so its results are dropped.
    pub(super) fn markdown(&self, part: Part) -> String {
        let mut text = String::new();
        let _ = write!(text, "{}", self.machine);
        if part == Part::Kernel {
            let rounds = self.comparisons.first().map_or(0, |one| one.pairs.len());
            let _ = write!(text, "; {rounds} interleaved rounds");
        }
        let quick = if self.quick { " (quick)" } else { "" };
        let _ = writeln!(text, "{quick}. Spreads are median (smallest–largest).");
        match part {
            Part::Kernel => {
                self.targets_table(part, &mut text);
                let _ = writeln!(
                    text,
                    "\nEmpty programs return at once: that column is the floor, what the same hooks cost by themselves."
                );
                self.comparisons_table(&mut text);
                self.times_table(&mut text);
                self.programs_table(&mut text);
                for skipped in &self.skipped {
                    let _ = writeln!(text, "\nNot measured: {skipped}");
                }
            }
            Part::Daemon => {
                self.targets_table(part, &mut text);
                self.pods_table(&mut text);
            }
            Part::Series => self.detail_table(&mut text),
        }
        text
    }

    fn targets_table(&self, part: Part, text: &mut String) {
        head(text, "Targets", &["what", "target", "measured", "", "with empty programs"]);
        let targets = self.targets.iter().filter(|target| target.part == part);
        for Target { what, limit, at_least, figure, floor, unit, met, .. } in targets {
            let (sign, mark) = (if *at_least { "≥" } else { "≤" }, if *met { "✓" } else { "✗" });
            // Ratios are close to one another, times are not.
            let digits = if *at_least { 3 } else { 1 };
            let floor = floor.map_or(String::new(), |floor| format!("{floor:.digits$} {unit}"));
            let _ = writeln!(
                text,
                "| {what} | {sign} {limit} {unit} | {figure:.digits$} {unit} | {mark} | {floor} |"
            );
        }
    }

    fn detail_table(&self, text: &mut String) {
        let heads =
            ["pod", "level", "series in text", "target", "with native histograms", "target", "KiB"];
        head(text, "Series of a pod", &heads);
        let limit = |limit: Option<usize>, figure: usize| {
            limit.map_or(String::new(), |limit| {
                format!("≤ {limit} {}", if figure <= limit { "✓" } else { "✗" })
            })
        };
        for row in &self.detail {
            let DetailRow { what, level, series, native, bytes, .. } = row;
            let (in_text, with_native) = target(row);
            let _ = writeln!(
                text,
                "| {what} | {level} | {series} | {} | {native} | {} | {:.1} |",
                limit(in_text, *series),
                limit(with_native, *native),
                *bytes as f64 / 1024.0,
            );
        }
    }

    fn comparisons_table(&self, text: &mut String) {
        let heads = [
            "load",
            "watcher",
            "without, /s",
            "with, /s",
            "ratio",
            "ratio per CPU",
            "own CPU",
            "p99, µs",
        ];
        head(text, "Throughput with and without", &heads);
        for one in &self.comparisons {
            let Comparison { load, watcher, without, with, ratio, processor_ratio, .. } = one;
            let own = one.watcher_percent.median;
            let digits = if *load == Load::Bulk { 2 } else { 0 };
            let p99 = one.p99_us.map_or(String::new(), |[without, with]| {
                format!("{:.0} → {:.0}", without.median, with.median)
            });
            let _ = writeln!(
                text,
                "| {} ({}) | {} | {:.digits$} | {:.digits$} | {ratio:.3} | {processor_ratio:.3} | \
                 {own:.1} % | {p99} |",
                load.name(),
                load.operation(),
                watcher.name(),
                without.median,
                with.median,
            );
        }
        let _ = writeln!(
            text,
            "\nRatios are with the watcher by without it. Per CPU: operations per processor time of \
             client and server, which other processes disturb less; the watcher's own process is \
             not in it, but under own CPU, in percent of a processor. p99: the slowest of a hundred \
             operations, without and with the watcher."
        );
    }

    fn times_table(&self, text: &mut String) {
        head(text, "BPF time per operation", &["load", "watcher", "operations", "BPF time"]);
        for BpfTime { load, watcher, operations, ns_per_operation } in &self.bpf_times {
            let _ = writeln!(
                text,
                "| {} | {} | {operations:.1} | {:.2} µs per {} |",
                load.name(),
                watcher.name(),
                ns_per_operation / 1e3,
                load.operation(),
            );
        }
    }

    fn programs_table(&self, text: &mut String) {
        let heads = ["load", "watcher", "program", "type", "runs", "ns per run"];
        head(text, "Kernel programs", &heads);
        let shown = self.programs.iter().filter(|row| row.runs >= SHOWN_RUNS);
        for ProgramRow { load, watcher, program, kind, runs, mean_ns } in shown {
            let _ = writeln!(
                text,
                "| {} | {} | `{program}` | {kind} | {runs} | {mean_ns:.0} |",
                load.name(),
                watcher.name(),
            );
        }
        let _ = writeln!(
            text,
            "\nRun-time statistics of the kernel (`kernel.bpf_stats_enabled`); the time contains \
             reading the clock twice, and the parsers that a program calls. Programs with fewer \
             than {SHOWN_RUNS} runs are in the JSON only. Of several runs under a load the one with the \
             median of BPF time is shown."
        );
    }

    fn pods_table(&self, text: &mut String) {
        let heads =
            ["pods", "series", "format", "KiB", "ms", "resident, MiB", "while scraped, MiB"];
        head(text, "The daemon", &heads);
        for row in &self.pods {
            let mib = |kib: u64| kib as f64 / 1024.0;
            for Scrapes { format, bytes, ms } in &row.scrapes {
                let _ = writeln!(
                    text,
                    "| {} | {} | {format} | {} | {ms:.1} | {:.1} | {:.1} |",
                    row.pods,
                    row.series,
                    bytes / 1024,
                    mib(row.resident_kib),
                    mib(row.peak_kib),
                );
            }
        }
        let _ = writeln!(
            text,
            "\nEach pod is a cgroup whose clients spoke HTTP/1.1 to one server and WebSocket to \
             another. While scraped: the most that the daemon's resident memory was."
        );
        if let Some(start_up) = self.start_up_ms {
            let _ = writeln!(text, "From start to ready: {start_up:.0} ms.");
        }
        if let Some(held) = self.held {
            let _ = writeln!(
                text,
                "\nWith {} connections open, both ends here, the kernel gives back {:.0} bytes for each \
                 socket when the programs go.",
                held.connections, held.kernel_bytes_per_socket
            );
            if let Some(reconciliation_ms) = held.reconciliation_ms {
                let _ = writeln!(
                    text,
                    "A reconciliation of these sockets takes {reconciliation_ms:.0} ms, after which there is none for a hundred times \
                     as long."
                );
            }
        }
    }
}

/// A heading and the head of a table.
fn head(text: &mut String, title: &str, columns: &[&str]) {
    let _ = writeln!(text, "\n## {title}\n\n| {} |", columns.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_missed() {
        assert!(Target::at_most("a", 200.0, "ns", 200.0).met);
        assert!(!Target::at_most("a", 200.0, "ns", 200.1).met);
        assert!(Target::at_least("b", 0.93, 0.93).met);
        assert!(!Target::at_least("b", 0.93, 0.92).met);
    }

    #[test]
    fn the_slowest_program_that_ran_enough_is_held_against_the_target() {
        let row = |watcher, program: &str, runs, mean_ns| ProgramRow {
            load: Load::KeepAlive,
            watcher,
            program: program.to_owned(),
            kind: "cgroup_skb".to_owned(),
            runs,
            mean_ns,
        };
        let machine = Machine {
            processor: "x".into(),
            cores: 2,
            kernel: "6".into(),
            load_before: String::new(),
        };
        let mut results = Results {
            programs: vec![
                row(Kind::Observer, "a", 5_000, 150.0),
                row(Kind::Observer, "b", 5_000, 210.0),
                row(Kind::Observer, "c", 3, 900.0),
                row(Kind::Empty, "b", 5_000, 40.0),
            ],
            skipped: vec!["tcplife: not installed".into()],
            ..Results::of(machine, true)
        };
        results.judge();
        assert_eq!(results.targets.len(), 1);
        let markdown = results.markdown(Part::Kernel);
        assert!(markdown.contains("| ≤ 200 ns | 210.0 ns | ✗ | 40.0 ns |"), "{markdown}");
        assert!(markdown.contains("Not measured: tcplife: not installed"));
    }
}
