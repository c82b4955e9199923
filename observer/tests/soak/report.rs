//! What was reached.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::accounts::Otherwise;

/// What a round came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    /// Short connections, and the time of their storms.
    pub(crate) connections: u64,
    pub(crate) storm_seconds: f64,
    /// Connections held at a time, and the daemon's memory then.
    pub(crate) held: u64,
    pub(crate) resident_kib: u64,
    /// WebSocket messages, counted once on each way, and the time of their flood.
    pub(crate) messages: u64,
    pub(crate) flood_seconds: f64,
    /// Series that were compared.
    pub(crate) compared: usize,
    pub(crate) otherwise: Otherwise,
}

/// All rounds; a round that did not add up has ended the test.
pub(crate) struct Report {
    seed: u64,
    held: u64,
    /// Short connections a second without a daemon.
    pub(crate) unobserved: f64,
    rounds: Vec<(&'static str, Duration, Reached)>,
}

impl Report {
    pub(crate) fn new(seed: u64, held: u64) -> Self {
        Self { seed, held, unobserved: 0.0, rounds: Vec::new() }
    }

    pub(crate) fn add(&mut self, kind: &'static str, took: Duration, reached: Reached) {
        println!("  {} s, {reached:?}", took.as_secs());
        self.rounds.push((kind, took, reached));
    }

    fn json(&self) -> Value {
        let rounds = self.rounds.iter().map(|(kind, took, reached)| {
            json!({
                "kind": kind,
                "seconds": took.as_secs_f64(),
                "connections": reached.connections,
                "storm_seconds": reached.storm_seconds,
                "held": reached.held,
                "resident_kib": reached.resident_kib,
                "messages": reached.messages,
                "flood_seconds": reached.flood_seconds,
                "series_compared": reached.compared,
                "stray_resets": reached.otherwise.strays(),
                "untold_aborts": reached.otherwise.untold,
            })
        });
        json!({
            "seed": self.seed,
            "seconds": self.rounds.iter().map(|(_, took, _)| took.as_secs_f64()).sum::<f64>(),
            "to_hold": self.held,
            "unobserved_connections_per_second": self.unobserved,
            "differences": 0,
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, format!("{:#}\n", self.json()))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    pub(crate) fn summary(&self) -> String {
        let sum =
            |of: fn(&Reached) -> u64| self.rounds.iter().map(|(.., one)| of(one)).sum::<u64>();
        format!(
            "{} rounds added up: {} short connections, {} messages, {} series compared, {} stray resets",
            self.rounds.len(),
            sum(|one| one.connections),
            sum(|one| one.messages),
            sum(|one| one.compared as u64),
            sum(|one| one.otherwise.strays()),
        )
    }
}
