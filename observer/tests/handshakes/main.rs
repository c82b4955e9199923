//! The awkward handshakes: on the real kernel, with the real daemon, every one counted as exactly
//! what it is, at both ends.
//!
//! - [`loopback`]: conversations between two real sockets, segment by segment;
//! - [`wire`]: segments that no real socket would send, from a TUN device;
//! - [`books`]: the expectations; every scenario has pods of its own, whose books start at zero;
//! - [`bytes`]: what is sent.
//!
//! One daemon serves all scenarios of a test. A failing scenario does not keep the others from
//! running: the report names each, with what was expected and what came.

mod books;
mod bytes;
mod loopback;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;
mod wire;

use loopback::{hostile, messages, plain, upgrades};
use support::{
    daemon::Daemon,
    lock::SystemLock,
    netns::NetnsPair,
    scenarios::{Failures, OPTIONS},
    wire::tun::Tun,
};

#[test]
fn on_loopback() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&OPTIONS);
    let mut failures = Failures::default();
    for scenarios in [
        upgrades::first_segment(),
        upgrades::bytewise(),
        upgrades::place(),
        upgrades::spelling(),
        upgrades::others(),
        plain::refused(),
        plain::bodies(),
        plain::strangers(),
        plain::http2(),
        messages::scenarios(),
        hostile::scenarios(),
    ] {
        loopback::run(&daemon, &scenarios, &mut failures);
    }
    failures.run(&daemon, "hostile: random bytes", || hostile::fuzz(&daemon));
    failures.report();
    daemon.stop();
}

#[test]
fn out_of_order() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&OPTIONS);
    let namespaces = NetnsPair::new();
    let netns = &namespaces.a;
    let lab = wire::Lab { netns, tun: &Tun::new(netns) };
    let mut failures = Failures::default();
    for scenarios in [wire::server::scenarios(), wire::client::scenarios()] {
        wire::run(&daemon, &lab, &scenarios, &mut failures);
    }
    failures.report();
    daemon.stop();
}
