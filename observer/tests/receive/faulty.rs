//! Over a cable that loses, doubles and reorders, with 200 connections at once.

use crate::{
    load::{ALL, Load, Run},
    support::{
        daemon::Daemon,
        lock::SystemLock,
        netns::NetnsPair,
        scale::is_slow,
        scenarios::Failures,
        wire::{
            cable::{Cable, Condition},
            faults::Faults,
            tun::RIGHT_V4,
        },
    },
};

/// Packets of a common network, and the largest.
const MTUS: [usize; 2] = [1_500, 65_535];
/// Shares that are lost, and how many of a thousand messages have to be counted all the same.
const LOSSES: [(f64, u64); 3] = [(0.0, ALL), (0.01, ALL), (0.05, 999)];

#[test]
fn over_a_faulty_cable() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let mut failures = Failures::default();
    let connections = if is_slow() { 20 } else { 200 };
    for mtu in MTUS {
        let namespaces = NetnsPair::new();
        let cable = Cable::with_mtu(&namespaces, mtu);
        for (lost, per_mille) in LOSSES {
            cable.set(Condition::Faulty(Faults::losing(lost)));
            for (name, connections, messages, sizes) in [
                ("small messages", connections, 60, (0, 1_500)),
                ("tiny messages", connections, 500, (0, 20)),
                ("large messages", connections / 10, 6, (10_000, 200_000)),
            ] {
                let load = Load { connections, messages, sizes, ..Load::new(name) };
                let run = Run {
                    load,
                    placement: (None, None),
                    listen: (RIGHT_V4, 0).into(),
                    namespaces: Some([&namespaces.a, &namespaces.b]),
                };
                let name = format!("{name}, {lost} lost, MTU {mtu}");
                failures.run(&daemon, &name, || run.run(&daemon, 7, per_mille));
            }
        }
        cable.set(Condition::Sound);
    }
    failures.report();
    daemon.stop();
}
