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
    netns::{Netns, NetnsPair},
    process::run_to_end,
    scenarios::Failures,
    wire::{cable::Cable, tun::Tun},
};

use std::{process::Command, time::Duration};

/// A file of scenarios that take place between two namespaces.
type Scenarios = fn(&Daemon, &NetnsPair, &Cable, &mut Failures);

/// Enough for all scenarios of a test; each scrape reads the whole table.
const CELLS: [&str; 2] = ["--cells", "4096"];

#[test]
fn on_loopback() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&CELLS);
    run_on_loopback(&daemon);
    daemon.stop();
}

#[test]
fn between_namespaces() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&CELLS);
    run_between_namespaces(&daemon, &[network::run, attempts::run]);
    daemon.stop();
}

/// The kernel may skip the event of a reset that is sent, and here it skips all: only their causes are lost.
#[test]
fn without_the_event_of_a_reset() {
    let _lock = SystemLock::acquire();
    let skips = ["--simulate-lacking", "tcp_send_reset"];
    let daemon = Daemon::start(&[CELLS, skips].concat());
    run_on_loopback(&daemon);
    run_between_namespaces(&daemon, &[network::run]);
    daemon.stop();
}

fn run_on_loopback(daemon: &Daemon) {
    let mut failures = Failures::default();
    loopback::run(daemon, &mut failures);
    failures.report();
}

fn run_between_namespaces(daemon: &Daemon, scenarios: &[Scenarios]) {
    let namespaces = NetnsPair::new();
    few_syns(&namespaces.a);
    few_syns(&namespaces.b);
    let cable = Cable::new(&namespaces);
    let mut failures = Failures::default();
    for run in scenarios {
        run(daemon, &namespaces, &cable, &mut failures);
    }
    failures.report();
}

#[test]
fn with_a_stranger() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&CELLS);
    let namespaces = NetnsPair::new();
    let netns = &namespaces.a;
    let tun = Tun::new(netns);
    let mut failures = Failures::default();
    stranger::run(&daemon, netns, &tun, &mut failures);
    failures.report();
    daemon.stop();
}

#[test]
fn idle_behind_nginx() {
    idle_behind(idle::behind_nginx);
}

#[test]
fn idle_behind_haproxy() {
    idle_behind(idle::behind_haproxy);
}

fn idle_behind(proxy: fn(&Daemon, &mut Failures)) {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&CELLS);
    let mut failures = Failures::default();
    proxy(&daemon, &mut failures);
    failures.report();
    daemon.stop();
}

/// An attempt to connect is over after three seconds: one SYN, another a second later.
fn few_syns(netns: &Netns) {
    let setting = "echo 1 > /proc/sys/net/ipv4/tcp_syn_retries";
    let mut command = Command::new("sh");
    let output = run_to_end(netns.enter(command.args(["-c", setting])), Duration::from_secs(10));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
