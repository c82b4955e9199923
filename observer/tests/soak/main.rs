//! Load and faults for as long as one likes: after each round every count equals the workload's own books.
//!
//! A round takes the lock, starts a daemon and a pair of network namespaces, and is of one of these kinds:
//!
//! - *load*: as many connections held as asked for, a flood of WebSocket messages through them, and as many short
//!   connections a second as the machine gives;
//! - *sizes*: messages of 0 bytes to 3 MB, handed to the kernel in every way; bytes by direction are compared as well;
//! - *faults*: all at once under a storm of short connections: programs killed with connections open, namespaces that
//!   vanish, cgroups that are removed before their connections end;
//! - *small table*: more cgroups than cells;
//! - *restart*: the daemon killed under load, and another one started, which adopts what is open;
//! - *pinned*: the same with `--pin`: nothing is missing of what happened in between.
//!
//! | module | what it has |
//! |---|---|
//! | [`accounts`] | what must be shown of each pod, and what is |
//! | [`bulk`] | messages of all sizes |
//! | [`held`] | groups of long connections, and the ways they end |
//! | [`storm`] | short connections at full speed |
//! | [`rounds`] | the kinds of rounds |
//! | [`report`] | what was reached |
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `OBSERVER_SOAK_SECONDS` | 120 | time to spend in rounds; the round under way is finished |
//! | `OBSERVER_SOAK_SEED` | the time | decides all choices |
//! | `OBSERVER_SOAK_HELD` | 2000 | connections held in a round of load |
//! | `OBSERVER_SOAK_RESULTS` | none | a file for the results, in JSON, written after each round |

mod accounts;
mod bulk;
mod held;
mod report;
mod rounds;
mod storm;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;

use std::{
    env,
    str::FromStr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use fastrand::Rng;

use report::Report;
use rounds::{Kind, Stage};
use support::{lock::SystemLock, scale::scaled};

/// How long the lock is kept, round after round, before others may have it.
const TURN: Duration = Duration::from_mins(1);
/// Long enough for other tests that wait for the lock to get it.
const COURTESY: Duration = Duration::from_millis(500);

#[test]
fn every_round_adds_up() {
    let length = Duration::from_secs(variable("OBSERVER_SOAK_SECONDS", || scaled(120)));
    let seed: u64 = variable("OBSERVER_SOAK_SEED", || {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
    });
    let held = variable("OBSERVER_SOAK_HELD", || scaled(2_000));
    let results = env::var_os("OBSERVER_SOAK_RESULTS");
    println!("seed {seed}");
    let mut report = Report::new(seed, held);
    let (mut spent, mut number) = (Duration::ZERO, 0);
    while spent < length || number < Kind::ALL.len() {
        let lock = SystemLock::acquire();
        if number == 0 {
            report.unobserved = rounds::unobserved(seed);
        }
        let turn = Instant::now();
        while turn.elapsed() < TURN && (spent < length || number < Kind::ALL.len()) {
            let seed = seed.wrapping_add(number as u64);
            let kind = Kind::ALL[number % Kind::ALL.len()];
            println!("round {number} ({}), seed {seed}", kind.name());
            let started = Instant::now();
            let reached = Stage::new(Rng::with_seed(seed), held).run(kind);
            report.add(kind.name(), started.elapsed(), reached);
            if let Some(path) = &results {
                report.write(path.as_ref());
            }
            spent += started.elapsed();
            number += 1;
        }
        drop(lock);
        thread::sleep(COURTESY);
    }
    println!("{}", report.summary());
}

fn variable<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).map_or_else(
        |_| default(),
        |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}
