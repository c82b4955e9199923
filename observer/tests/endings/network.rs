//! Endings that take a network in between: one that is slow, that fails, or that loses things.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    stage::{GREETED, MUCH, Side, Stage, expect_error},
    support::{
        daemon::Daemon,
        netns::NetnsPair,
        scale::is_slow,
        scenarios::Failures,
        wire::{
            cable::{Cable, Condition},
            faults::Faults,
            tun::{RIGHT_V4, RIGHT_V6},
        },
    },
};

const TIMEOUT: &str = "Connection timed out";

type Script = fn(&mut Stage, &Cable) -> Result<()>;

const SCRIPTS: [(&str, Script); 7] = [
    ("both close at once", close_both),
    ("both reset at once", reset_both),
    ("a close meets a reset", close_and_reset),
    ("vanished from each other, with data under way", vanish),
    ("vanished from each other, idle", vanish_idle),
    ("vanished from each other, idle, with a user timeout", vanish_idle_user),
    ("a long transfer over a faulty cable", transfer),
];

/// Each script, over IPv4 and IPv6.
pub(crate) fn run(daemon: &Daemon, namespaces: &NetnsPair, cable: &Cable, failures: &mut Failures) {
    for (name, script) in SCRIPTS {
        for address in [RIGHT_V4, RIGHT_V6] {
            failures.run(daemon, &format!("{name} ({address})"), || {
                cable.set(Condition::Sound);
                let result = stage(daemon, namespaces, address)
                    .and_then(|mut stage| script(&mut stage, cable));
                cable.set(Condition::Sound);
                result
            });
        }
    }
}

/// The client on the left, the server on the right.
fn stage<'a>(daemon: &'a Daemon, namespaces: &NetnsPair, address: IpAddr) -> Result<Stage<'a>> {
    let mut stage = Stage::new(daemon, address, Some([&namespaces.a, &namespaces.b]))?;
    stage.connect()?;
    Ok(stage)
}

/// Both sides, in the order of [`Side::BOTH`].
fn both<'s>(stage: &'s mut Stage<'_>) -> [&'s mut crate::support::peer::Peer; 2] {
    stage.sides(Side::Client)
}

fn close_both(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.set(Condition::Held);
    for peer in both(stage) {
        peer.ask("close")?;
    }
    cable.set(Condition::Sound);
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED).closed("local", 1);
    stage.check(Side::Client, Side::BOTH.map(over))
}

fn reset_both(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.set(Condition::Held);
    for peer in both(stage) {
        peer.ask("reset")?;
    }
    cable.set(Condition::Sound);
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED);
    let reset = |side| over(side).closed("reset_local", 1).reset("disconnect", 1);
    stage.check(Side::Client, Side::BOTH.map(reset))
}

/// The FIN comes to a socket that is no more; the reset, to one that waits for the FIN's acknowledgement. That one was
/// first, and its peer's reset ended it.
fn close_and_reset(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.set(Condition::Held);
    let [client, server] = both(stage);
    client.ask("close")?;
    server.ask("reset")?;
    cable.set(Condition::Sound);
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED);
    let client = over(Side::Client).closed("reset_peer", 1).was_reset(1);
    let server = over(Side::Server).closed("reset_local", 1).reset("disconnect", 1);
    stage.check(Side::Client, [client, server])
}

fn vanish(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.set(Condition::Cut);
    // Long enough to find both open until then.
    let milliseconds = if is_slow() { 6_000 } else { 1_500 };
    for peer in both(stage) {
        peer.ask(&format!("user-timeout {milliseconds}"))?;
        peer.say_send(b"lost")?;
        peer.answer()?;
    }
    let lost = |side| stage.books(side, 1).bytes(GREETED, GREETED + 4);
    let open = Side::BOTH.map(|side| lost(side).active(1));
    let over = Side::BOTH.map(|side| lost(side).closed("timeout", 1).timeout("retransmission"));
    stage.check(Side::Client, open)?;
    give_up(stage)?;
    stage.check(Side::Client, over)
}

fn vanish_idle(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.rest()?;
    cable.set(Condition::Cut);
    for peer in both(stage) {
        peer.ask("keepalive 1 1 2")?;
    }
    give_up(stage)?;
    keepalive_over(stage)
}

fn vanish_idle_user(stage: &mut Stage, cable: &Cable) -> Result<()> {
    stage.greet()?;
    cable.rest()?;
    cable.set(Condition::Cut);
    for peer in both(stage) {
        // Far more probes than the user timeout has patience for.
        peer.ask("user-timeout 1500")?;
        peer.ask("keepalive 1 1 20")?;
    }
    give_up(stage)?;
    keepalive_over(stage)
}

/// The reset that tells the peer does not arrive.
fn keepalive_over(stage: &Stage) -> Result<()> {
    let over = |side| {
        let books = stage.books(side, 1).bytes(GREETED, GREETED).closed("timeout", 1);
        books.timeout("keepalive").reset("keepalive_timeout", 1)
    };
    stage.check(Side::Client, Side::BOTH.map(over))
}

/// Both sides find that the other does not answer.
fn give_up(stage: &mut Stage) -> Result<()> {
    for peer in both(stage) {
        expect_error(peer, "receive 1", TIMEOUT)?;
        peer.ask("close")?;
    }
    Ok(())
}

fn transfer(stage: &mut Stage, cable: &Cable) -> Result<()> {
    cable.set(Condition::Faulty(Faults::SOME));
    stage.exchange(Side::Client)?;
    cable.set(Condition::Sound);
    let [client, server] = both(stage);
    client.ask("close")?;
    server.expect_end()?;
    server.ask("close")?;
    let [sent, received] = MUCH;
    let client = stage.books(Side::Client, 1).bytes(received, sent).closed("local", 1);
    let server = stage.books(Side::Server, 1).bytes(sent, received).closed("peer", 1);
    stage.check(Side::Client, [client, server])
}
