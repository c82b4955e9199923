//! Throughput with and without a watcher, interleaved: what drifts on the machine drifts for both.
//!
//! In each round every load runs once without a watcher and once with each, one right after the
//! other, and every round begins with another one. Each ratio is of two runs of the same round.
//! The statistics of the kernel are off.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Bench;
use super::loads::{Load, Run, Servers, ticks_of};
use super::watcher::{Kind, Watcher};
use crate::cmd;
use crate::spread::Spread;

/// What one load lost to one watcher.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) load: Load,
    pub(super) watcher: Kind,
    /// Operations a second without it.
    pub(super) without: Spread,
    /// Operations a second with it.
    pub(super) with: Spread,
    /// With it by without it, round by round.
    pub(super) ratio: Spread,
    /// The same of operations per processor time of client and server: less exposed to what else
    /// the machine does. The watcher's own process is not in it.
    pub(super) processor_ratio: Spread,
    /// What the watcher's process itself used meanwhile, in percent of a processor.
    pub(super) watcher_percent: Spread,
    /// The slowest of a hundred operations, microseconds, without and with it, where the load tells.
    pub(super) p99_us: Option<[Spread; 2]>,
    /// Operations a second without and with it, round by round.
    pub(super) pairs: Vec<[f64; 2]>,
}

/// Compares every load with every watcher; also the start-up time of the observer in milliseconds.
pub(super) fn run(
    bench: &Bench<'_>,
    servers: &mut Servers,
    kinds: &[Kind],
) -> Result<(Vec<Comparison>, Spread)> {
    let mut comparisons = Vec::new();
    let mut start_ups = Vec::new();
    for load in Load::ALL {
        // Without any, then with each; a row per round.
        let variants: Vec<_> = [None].into_iter().chain(kinds.iter().copied().map(Some)).collect();
        let mut rounds = Vec::new();
        for round in 0..bench.plan.rounds {
            cmd::say(
                "*",
                &format!("{}: round {} of {}", load.name(), round + 1, bench.plan.rounds),
            );
            let mut runs = vec![None; variants.len()];
            for turn in 0..variants.len() {
                bench.interrupted.check()?;
                let turn = (round + turn) % variants.len();
                let watcher = variants[turn].map(|kind| Watcher::start(kind, bench)).transpose()?;
                let before = watcher.as_ref().map_or(Ok(0), |watcher| ticks_of(watcher.id()))?;
                let mut run = servers.run(load, bench)?;
                if let Some(watcher) = watcher {
                    run.watcher_ticks = ticks_of(watcher.id())? - before;
                    if variants[turn] == Some(Kind::Observer) {
                        start_ups.push(watcher.start_up().as_secs_f64() * 1e3);
                    }
                    watcher.stop()?;
                }
                runs[turn] = Some(run);
            }
            rounds.push(runs.into_iter().collect::<Option<Vec<Run>>>().context("all ran")?);
        }
        for (column, &watcher) in (1..).zip(kinds) {
            let pairs: Vec<_> = rounds.iter().map(|runs| (runs[0], runs[column])).collect();
            comparisons.push(Comparison::of(load, watcher, &pairs)?);
        }
    }
    Ok((comparisons, Spread::of(start_ups).context("the observer never ran")?))
}

impl Comparison {
    /// Of pairs without and with the watcher.
    fn of(load: Load, watcher: Kind, pairs: &[(Run, Run)]) -> Result<Self> {
        let spread = |figure: fn(&(Run, Run)) -> f64| {
            Spread::of(pairs.iter().map(figure).collect()).context("nothing was measured")
        };
        Ok(Self {
            load,
            watcher,
            without: spread(|(without, _)| without.throughput())?,
            with: spread(|(_, with)| with.throughput())?,
            ratio: spread(|(without, with)| with.throughput() / without.throughput())?,
            processor_ratio: spread(|(without, with)| with.efficiency() / without.efficiency())?,
            watcher_percent: spread(|(_, with)| with.watcher_percent())?,
            p99_us: {
                let p99 = |which: fn(&(Run, Run)) -> &Run| {
                    Spread::of(pairs.iter().filter_map(|pair| which(pair).p99_us).collect())
                };
                p99(|pair| &pair.0).zip(p99(|pair| &pair.1)).map(<[Spread; 2]>::from)
            },
            pairs: pairs
                .iter()
                .map(|(without, with)| [without.throughput(), with.throughput()])
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ratios_are_of_runs_of_the_same_round() {
        let run = |operations, ticks| Run {
            operations,
            elapsed: Duration::from_secs(2),
            ticks,
            watcher_ticks: 4,
            p99_us: Some(ticks as f64),
        };
        let pairs = [
            (run(100.0, 10), run(90.0, 10)),
            // A slow moment hits both.
            (run(50.0, 5), run(45.0, 5)),
            (run(100.0, 10), run(80.0, 10)),
        ];
        let found = Comparison::of(Load::Bulk, Kind::Observer, &pairs).unwrap();
        assert_eq!(found.without, Spread { median: 50.0, min: 25.0, max: 50.0 });
        assert_eq!(found.ratio, Spread { median: 0.9, min: 0.8, max: 0.9 });
        assert_eq!(found.processor_ratio, found.ratio);
        assert_eq!(found.watcher_percent, Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!(found.p99_us.map(|both| both.map(|one| one.median)), Some([10.0, 10.0]));
        assert_eq!(found.pairs.len(), 3);
    }
}
