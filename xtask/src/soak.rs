//! `cargo xtask soak`: load and faults for as long as asked, with every count compared after each round.
//!
//! It is the test `observer/tests/soak`, of which `cargo xtask test` runs one round of each kind with programs for
//! debugging, built for release and given more time and more connections. The results go to `target/soak`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::setup::{self, Purpose};
use crate::spread::Spread;
use crate::{artifacts, cmd, documents};

/// What the soak is told on its command line.
#[derive(Args)]
pub(crate) struct Options {
    /// Time to spend in rounds, such as 90s, 2m or 1h; waiting for other system tests does not count
    #[arg(long = "for", value_name = "TIME", default_value = "2m", value_parser = time)]
    length: Duration,
    /// Decides all choices; the one of a failed run repeats them [default: the time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Connections held at a time in a round of load
    #[arg(long, value_name = "COUNT", default_value_t = HELD)]
    held: u64,
    /// Put the table into docs/exactness.md
    #[arg(long)]
    write_docs: bool,
}

/// Connections held at a time in a round of load, unless one says otherwise.
const HELD: u64 = 100_000;

impl Options {
    /// As many connections as usual, and any choices.
    pub(crate) fn lasting(length: Duration) -> Self {
        Self { length, seed: None, held: HELD, write_docs: false }
    }
}

/// What the test writes.
#[derive(Deserialize, Serialize)]
struct Soak {
    seed: u64,
    /// In rounds.
    seconds: f64,
    unobserved_connections_per_second: f64,
    rounds: Vec<Round>,
}

#[derive(Deserialize, Serialize)]
struct Round {
    kind: String,
    seconds: f64,
    connections: u64,
    storm_seconds: f64,
    held: u64,
    resident_kib: u64,
    messages: u64,
    flood_seconds: f64,
    series_compared: u64,
    stray_resets: u64,
    untold_aborts: u64,
}

/// All that is kept.
#[derive(Serialize)]
struct Results {
    machine: Machine,
    /// Whether every count was right in every round.
    equal: bool,
    #[serde(flatten)]
    soak: Soak,
}

/// Builds the test and runs it as root; an error if a count was wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Test])?;
    let test = build()?;
    let directory = cmd::target_directory()?.join("soak");
    fs::create_dir_all(&directory)?;
    let written = directory.join("rounds.json");
    if written.exists() {
        fs::remove_file(&written)?;
    }
    let machine = Machine::look()?;
    let mut soak = cmd::as_root("env")?;
    let mut set = |name: &str, value: &OsStr| {
        let mut assignment = std::ffi::OsString::from(format!("OBSERVER_SOAK_{name}="));
        assignment.push(value);
        soak.arg(assignment);
    };
    set("SECONDS", options.length.as_secs().to_string().as_ref());
    set("HELD", options.held.to_string().as_ref());
    set("RESULTS", written.as_ref());
    if let Some(seed) = options.seed {
        set("SEED", seed.to_string().as_ref());
    }
    soak.arg(test).arg("--nocapture");
    soak.current_dir(cmd::workspace().join("observer"));
    cmd::show(&soak);
    let equal = soak.status().context("starting the soak")?.success();
    if let Ok(rounds) = fs::read_to_string(&written) {
        let results = Results { machine, equal, soak: serde_json::from_str(&rounds)? };
        let markdown = results.markdown();
        println!("\n{markdown}");
        if options.write_docs {
            documents::write(&cmd::workspace().join("docs/exactness.md"), "soak", &markdown)?;
        }
        fs::write(directory.join("results.md"), markdown)?;
        fs::write(directory.join("results.json"), serde_json::to_string_pretty(&results)?)?;
        cmd::say("*", &format!("written to {}", directory.join("results.{md,json}").display()));
    }
    ensure!(equal, "a count was wrong: see above; the round's seed repeats it");
    Ok(())
}

/// Builds the test, the daemon and the examples for release; the test's program.
fn build() -> Result<PathBuf> {
    // `cargo test --examples` would build the examples' own tests instead.
    cmd::run(&mut cmd::cargo(&["build", "--release", "--package", "observer", "--examples"]))?;
    let arguments = ["test", "--release", "--package", "observer", "--no-run", "--test", "soak"];
    let built = artifacts::build(&mut cmd::cargo(&arguments))?;
    built.find("test", true, "soak").map(Path::to_owned)
}

/// A number of seconds, minutes or hours.
pub(crate) fn time(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => bail!("`{unit}` is none of s, m and h"),
    };
    Ok(Duration::from_secs(number.parse::<u64>()? * seconds))
}

impl Results {
    /// Writing to a String does not fail, so its results are dropped.
    fn markdown(&self) -> String {
        let Self { machine, equal, soak } = self;
        let mut text = String::new();
        let kinds = ["load", "faults", "small table", "restart", "pinned"];
        let of = |kind| soak.rounds.iter().filter(move |round| round.kind == kind);
        let counts: Vec<_> =
            kinds.iter().map(|kind| format!("{} of {kind}", of(*kind).count())).collect();
        let _ = writeln!(
            text,
            "{machine}; seed {}; {:.0} s in {} rounds: {}.\n",
            soak.seed,
            soak.seconds,
            soak.rounds.len(),
            counts.join(", ")
        );
        let _ = writeln!(text, "| what | reached |\n|---|---|");
        let mut line = |what: &str, reached: String| {
            let _ = writeln!(text, "| {what} | {reached} |");
        };
        let sum = |of: fn(&Round) -> u64| soak.rounds.iter().map(of).sum::<u64>();
        line("series compared", sum(|round| round.series_compared).to_string());
        line("differences", if *equal { "0" } else { "**see the log**" }.to_owned());
        line(
            "ends by a reset that no program asked for and the kernel counts",
            sum(|round| round.stray_resets).to_string(),
        );
        line(
            "aborts told as resets, since the kernel skipped the event with the cause",
            sum(|round| round.untold_aborts).to_string(),
        );
        line("short connections", sum(|round| round.connections).to_string());
        line(
            "short connections a second, without the observer",
            format!("{:.0}", soak.unobserved_connections_per_second),
        );
        let rate = |kind: &'static str, count: fn(&Round) -> u64, seconds: fn(&Round) -> f64| {
            let rates = of(kind).map(|round| count(round) as f64 / seconds(round));
            Spread::of(rates.filter(|rate| rate.is_finite()).collect())
        };
        let figures = [
            (
                "short connections a second, beside those held",
                rate("load", |round| round.connections, |round| round.storm_seconds),
            ),
            (
                "short connections a second, among faults",
                rate("faults", |round| round.connections, |round| round.storm_seconds),
            ),
            ("connections held", rate("load", |round| round.held, |_| 1.0)),
            (
                "WebSocket messages a second through them",
                rate("load", |round| round.messages, |round| round.flood_seconds),
            ),
            (
                "resident memory of the daemon then, MiB",
                rate("load", |round| round.resident_kib, |_| 1024.0),
            ),
        ];
        for (what, figure) in figures {
            if let Some(figure) = figure {
                line(what, format!("{figure:.0}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("90").unwrap(), Duration::from_secs(90));
        assert_eq!(time("2m").unwrap(), Duration::from_mins(2));
        assert_eq!(time("1h").unwrap(), Duration::from_hours(1));
        assert!(time("1d").is_err() && time("m").is_err());
    }
}
