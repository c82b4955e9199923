//! How connections end: each way is provoked for real, and counted exactly once under the right
//! reason, at both ends.
//!
//! - [`loopback`]: two real sockets that end it by themselves;
//! - [`network`]: between two namespaces, over a cable that is cut, holds packets back, or damages
//!   the order of things;
//! - [`attempts`]: attempts to connect that come to nothing;
//! - [`stranger`]: a host that does what no real socket would do;
//! - [`idle`]: real proxies that cut connections because nothing was said;
//! - [`books`]: the expectations, series by series: what is not expected must not be there.
//!
//! The resets' causes are those of Linux 6.18; kernels before 6.10 do not say them, nor does a skipped event, and the
//! books then expect none.

mod attempts;
mod books;
mod idle;
mod loopback;
mod network;
mod stage;
mod stranger;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;

use support::{
    daemon::Daemon,
    lock::SystemLock,
    netns::NetnsPair,
    scale::is_slow,
    scenarios::{Failures, OPTIONS},
    wire::{cable::Cable, tun::Tun},
};

use std::thread;

/// Scenarios of a kind, with a world of their own.
type Scenarios = fn(&Daemon, &mut Failures);

#[test]
fn every_end() {
    run(&[], &[loopback::run, over_a_cable, attempts_over_a_cable, with_a_stranger]);
}

/// The kernel may skip the event of a reset that is sent, and here it skips all: only their causes are lost.
#[test]
fn without_the_event_of_a_reset() {
    run(&["--simulate-lacking", "tcp_send_reset"], &[loopback::run, over_a_cable]);
}

#[test]
fn idle_behind_nginx() {
    run(&[], &[idle::behind_nginx]);
}

#[test]
fn idle_behind_haproxy() {
    run(&[], &[idle::behind_haproxy]);
}

/// The kinds of scenarios run beside each other, since most of them wait for one of the kernel's timers; a slow machine
/// is in time for one kind at once.
fn run(options: &[&str], kinds: &[Scenarios]) {
    let _lock = SystemLock::acquire();
    for kinds in kinds.chunks(if is_slow() { 1 } else { kinds.len() }) {
        let daemon = Daemon::start(&[&OPTIONS, options].concat());
        let mut failures = Failures::default();
        thread::scope(|scope| {
            let threads: Vec<_> =
                kinds.iter().map(|kind| scope.spawn(|| all(*kind, &daemon))).collect();
            for thread in threads {
                failures.add(thread.join().expect("no panic"));
            }
        });
        failures.report();
        daemon.stop();
    }
}

fn all(kind: Scenarios, daemon: &Daemon) -> Failures {
    let mut failures = Failures::default();
    kind(daemon, &mut failures);
    failures
}

fn over_a_cable(daemon: &Daemon, failures: &mut Failures) {
    let namespaces = namespaces();
    network::run(daemon, &namespaces, &Cable::new(&namespaces), failures);
}

fn attempts_over_a_cable(daemon: &Daemon, failures: &mut Failures) {
    let namespaces = namespaces();
    attempts::run(daemon, &namespaces, &Cable::new(&namespaces), failures);
}

fn with_a_stranger(daemon: &Daemon, failures: &mut Failures) {
    let namespaces = NetnsPair::new();
    let netns = &namespaces.a;
    stranger::run(daemon, netns, &Tun::new(netns), failures);
}

/// Two namespaces where an attempt to connect is over after three seconds: one SYN, another a second later.
fn namespaces() -> NetnsPair {
    let namespaces = NetnsPair::new();
    for netns in [&namespaces.a, &namespaces.b] {
        netns.set("ipv4/tcp_syn_retries", "1");
    }
    namespaces
}
