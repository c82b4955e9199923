//! Every received byte, exactly: messages by direction, payload bytes and errors equal to what the programs have sent, and nothing
//! lost.
//!
//! - here: WebSocket frames of 0 bytes to 3 MB, with both ends on different processors, on one, and wherever the scheduler puts
//!   them; more than one thing in a segment; and a client that says no more;
//! - [`faulty`]: over a cable that loses, doubles and reorders;
//! - [`first`]: bytes that come before the socket;
//! - [`load`]: a server and a client, and their books.
//!
//! `OBSERVER_RECEIVE_TIMES`: how often each load runs in each place, with other sizes each time, in place of once or twice.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;

mod faulty;
mod first;
mod load;

use std::{env, thread};

use load::{ALL, Load, Placement, Run};
use support::{daemon::Daemon, lock::SystemLock, scale::is_slow, scenarios::Failures};

/// Large messages that come back; small ones one way; more tiny ones by one write than a segment of 64 KiB holds.
const LOADS: [Load; 5] = [
    Load {
        connections: 4,
        messages: 20,
        sizes: (60_000, 3_000_000),
        sink: false,
        ..Load::new("60 kB to 3 MB, echoed")
    },
    Load { connections: 8, messages: 1_500, sizes: (0, 1_500), ..Load::new("0 to 1,500 bytes") },
    Load {
        connections: 4,
        messages: 500,
        sizes: (0, 1_500),
        sink: false,
        ..Load::new("0 to 1,500 bytes, echoed")
    },
    Load {
        connections: 2,
        messages: 60_000,
        batch: 20_000,
        ..Load::new("empty, 20,000 by one write")
    },
    Load {
        connections: 2,
        messages: 40_000,
        sizes: (10, 11),
        batch: 4_000,
        ..Load::new("10 to 11 bytes, 4,000 by one write")
    },
];

/// Everything in few segments, and then silence: no event follows that could help.
const SILENT: [Load; 4] = [
    Load {
        connections: 20,
        messages: 40,
        sizes: (0, 1_500),
        client: &["--stay"],
        ..Load::new("0 to 1,500 bytes")
    },
    Load {
        connections: 4,
        messages: 10_913,
        batch: 10_913,
        client: &["--stay"],
        ..Load::new("6-byte frames, a segment full")
    },
    Load {
        connections: 4,
        messages: 3_852,
        sizes: (10, 11),
        batch: 3_852,
        client: &["--stay"],
        ..Load::new("16- and 17-byte frames, a segment full")
    },
    Load {
        connections: 4,
        messages: 32_741,
        batch: 32_741,
        client: &["--stay", "--unmasked"],
        ..Load::new("2-byte frames, a segment full")
    },
];

/// A frame by the same write as the request for it, and as the answer.
const TOGETHER: [Load; 3] = [
    Load {
        connections: 20,
        messages: 20,
        sizes: (0, 300),
        behind: 5,
        client: &["--with-request", "5"],
        ..Load::new("frames with the request and with the answer")
    },
    Load {
        connections: 4,
        messages: 4_000,
        sizes: (10, 11),
        client: &["--with-request", "3000"],
        ..Load::new("3,000 frames with the request")
    },
    Load {
        connections: 4,
        messages: 30,
        sizes: (0, 20_000),
        sink: false,
        client: &["--with-request", "30"],
        ..Load::new("frames with the request, echoed")
    },
];

/// Where the two ends run, of this machine's processors.
fn placements() -> Vec<(&'static str, Placement)> {
    let mut placements = vec![("on one processor", (Some(0), Some(0))), ("anywhere", (None, None))];
    if thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
        placements.push(("on different processors", (Some(0), Some(1))));
    }
    placements
}

/// Runs each load in each place.
fn run(loads: &[Load], times: u64) {
    let chosen = env::var("OBSERVER_RECEIVE_TIMES").ok().and_then(|times| times.parse().ok());
    let times = chosen.unwrap_or(times);
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let mut failures = Failures::default();
    for (place, placement) in placements() {
        for &load in loads {
            // A slow machine has neither the time nor a second processor at the same time.
            if is_slow() && load.sizes.1 > 100_000 {
                continue;
            }
            let listen = ([127, 0, 0, 1], 0).into();
            let run = Run { load, placement, listen, namespaces: None };
            for seed in 0..times {
                let name = format!("{}, {place}, seed {seed}", load.name);
                failures.run(&daemon, &name, || run.run(&daemon, seed, ALL));
            }
        }
    }
    failures.report();
    daemon.stop();
}

#[test]
fn wherever_the_ends_run() {
    run(&LOADS, 2);
}

#[test]
fn and_then_silence() {
    run(&SILENT, 1);
}

#[test]
fn more_than_one_thing_in_a_segment() {
    run(&TOGETHER, 1);
}
