//! Endings that two sockets make between themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    stage::{GREETED, MUCH, Side, Stage, expect_error},
    support::{daemon::Daemon, scenarios::Failures},
};

const RESET: &str = "Connection reset by peer";
/// Connections of a process that is killed.
const SEVERAL: u64 = 3;

/// Ends a connection that exists, where the given side is the one that does it, and checks the books.
type Script = fn(&mut Stage, Side) -> Result<()>;

const SCRIPTS: [(&str, Script); 12] = [
    ("a close", close),
    ("a half-close, and more from the other side", half_close),
    ("a reset by SO_LINGER 0", reset),
    ("a reset of what the peer has half closed", reset_half_closed),
    ("a close with unread data", close_unread),
    ("an answer to what is closed", answer_to_closed),
    ("SIGKILL", kill),
    ("SIGKILL with unread data", kill_unread),
    ("a long transfer", transfer),
    ("silence", silence),
    ("a close after errors that end nothing", close_after_errors),
    ("a reset after errors that end nothing", reset_after_errors),
];

/// Each script by either side, over IPv4 and IPv6.
pub(crate) fn run(daemon: &Daemon, failures: &mut Failures) {
    for (name, script) in SCRIPTS {
        for side in Side::BOTH {
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                failures.run(daemon, &format!("{name} ({side:?}, {address})"), || {
                    script(&mut Stage::new(daemon, address, None)?, side)
                });
            }
        }
    }
}

fn close(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let open = |side| stage.books(side, 1).active(1).bytes(GREETED, GREETED);
    stage.check(side, [open(side), open(side.other())])?;
    let [one, other] = stage.sides(side);
    one.ask("close")?;
    other.expect_end()?;
    other.ask("close")?;
    orderly(stage, side)
}

/// The one side has ended what both have greeted in, then the other.
fn orderly(stage: &Stage, side: Side) -> Result<()> {
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED);
    let books = [over(side).closed("local", 1), over(side.other()).closed("peer", 1)];
    stage.check(side, books)
}

fn silence(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    let [one, other] = stage.sides(side);
    one.ask("close")?;
    other.expect_end()?;
    other.ask("close")?;
    let (one, other) = (stage.books(side, 1), stage.books(side.other(), 1));
    stage.check(side, [one.closed("local", 1), other.closed("peer", 1)])
}

/// The one side's socket reports the completion of a transmission: as an error, for want of another way.
fn report_errors(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    let [one, other] = stage.sides(side);
    one.ask("send-uncopied 68656c6c6f")?;
    other.expect(b"hello")
}

fn close_after_errors(stage: &mut Stage, side: Side) -> Result<()> {
    report_errors(stage, side)?;
    let [one, other] = stage.sides(side);
    other.ask("close")?;
    one.expect_end()?;
    one.ask("close")?;
    let one = stage.books(side, 1).bytes(0, 5).closed("peer", 1);
    let other = stage.books(side.other(), 1).bytes(5, 0).closed("local", 1);
    stage.check(side, [one, other])
}

fn reset_after_errors(stage: &mut Stage, side: Side) -> Result<()> {
    report_errors(stage, side)?;
    let [one, other] = stage.sides(side);
    one.ask("reset")?;
    expect_error(other, "receive 1", RESET)?;
    other.ask("close")?;
    let one = stage.books(side, 1).bytes(0, 5).closed("reset_local", 1);
    let other = stage.books(side.other(), 1).bytes(5, 0).closed("reset_peer", 1);
    stage.check(side, [one.reset("disconnect", 1), other.was_reset(1)])
}

fn half_close(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let [one, other] = stage.sides(side);
    one.ask("shutdown")?;
    other.expect_end()?;
    for _ in 0..3 {
        other.say_send(b"more")?;
        other.answer()?;
        one.expect(b"more")?;
    }
    let one = stage.books(side, 1).bytes(GREETED + 12, GREETED);
    let other = stage.books(side.other(), 1).bytes(GREETED, GREETED + 12);
    stage.check(side, [one.clone().active(1), other.clone().active(1)])?;
    let [first, second] = stage.sides(side);
    second.ask("close")?;
    first.expect_end()?;
    first.ask("close")?;
    stage.check(side, [one.closed("local", 1), other.closed("peer", 1)])
}

fn reset(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let [one, other] = stage.sides(side);
    one.ask("reset")?;
    expect_error(other, "receive 1", RESET)?;
    other.ask("close")?;
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED);
    let one = over(side).closed("reset_local", 1).reset("disconnect", 1);
    stage.check(side, [one, over(side.other()).closed("reset_peer", 1).was_reset(1)])
}

/// Whose FIN came first no longer matters: it was not ended in order.
fn reset_half_closed(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let [one, other] = stage.sides(side);
    other.ask("shutdown")?;
    one.expect_end()?;
    one.ask("reset")?;
    expect_error(other, "receive 1", RESET)?;
    other.ask("close")?;
    let over = |side| stage.books(side, 1).bytes(GREETED, GREETED);
    let one = over(side).closed("reset_local", 1).reset("disconnect", 1);
    stage.check(side, [one, over(side.other()).closed("reset_peer", 1).was_reset(1)])
}

fn close_unread(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let [one, other] = stage.sides(side);
    other.say_send(b"never read")?;
    other.answer()?;
    one.ask("peek")?;
    one.ask("close")?;
    expect_error(other, "receive 1", RESET)?;
    other.ask("close")?;
    let one = stage.books(side, 1).bytes(GREETED + 10, GREETED);
    let other = stage.books(side.other(), 1).bytes(GREETED, GREETED + 10);
    let one = one.closed("aborted", 1).reset("abort_on_close", 1);
    stage.check(side, [one, other.closed("reset_peer", 1).was_reset(1)])
}

/// The one that closed first is gone when the answer comes: nobody is left to be counted for the reset.
fn answer_to_closed(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.greet()?;
    let [one, other] = stage.sides(side);
    one.ask("close")?;
    other.expect_end()?;
    let gone = stage.books(side, 1).bytes(GREETED, GREETED).closed("local", 1);
    let half = stage.books(side.other(), 1).bytes(GREETED, GREETED);
    stage.check(side, [gone.clone(), half.active(1)])?;
    let [_, other] = stage.sides(side);
    other.say_send(b"late")?;
    other.answer()?;
    other.ask("close")?;
    let half = stage.books(side.other(), 1).bytes(GREETED, GREETED + 4);
    stage.check(side, [gone, half.closed("reset_peer", 1).was_reset(1)])
}

/// Several connections of one process; all are put aside, the last one too.
fn several(stage: &mut Stage) -> Result<()> {
    for _ in 0..SEVERAL {
        stage.connect()?;
        stage.greet()?;
        stage.client.ask("keep")?;
        stage.server.ask("keep")?;
    }
    Ok(())
}

fn kill(stage: &mut Stage, side: Side) -> Result<()> {
    several(stage)?;
    let [one, other] = stage.sides(side);
    one.kill();
    other.ask("outlast")?;
    let bytes = SEVERAL * GREETED;
    let over = |side| stage.books(side, SEVERAL).bytes(bytes, bytes);
    let books = [over(side).closed("local", SEVERAL), over(side.other()).closed("peer", SEVERAL)];
    stage.check(side, books)
}

fn kill_unread(stage: &mut Stage, side: Side) -> Result<()> {
    for _ in 0..SEVERAL {
        stage.connect()?;
        let [one, other] = stage.sides(side);
        other.say_send(b"never read")?;
        other.answer()?;
        one.ask("peek")?;
        one.ask("keep")?;
        other.ask("keep")?;
    }
    let [one, other] = stage.sides(side);
    one.kill();
    other.ask("outlast")?;
    let bytes = SEVERAL * 10;
    let one = stage.books(side, SEVERAL).bytes(bytes, 0).closed("aborted", SEVERAL);
    let other = stage.books(side.other(), SEVERAL).bytes(0, bytes).closed("reset_peer", SEVERAL);
    stage.check(side, [one.reset("abort_on_close", SEVERAL), other.was_reset(SEVERAL)])
}

fn transfer(stage: &mut Stage, side: Side) -> Result<()> {
    stage.connect()?;
    stage.exchange(side)?;
    let [one, other] = stage.sides(side);
    one.ask("close")?;
    other.expect_end()?;
    other.ask("close")?;
    let [sent, received] = MUCH;
    let one = stage.books(side, 1).bytes(received, sent).closed("local", 1);
    let other = stage.books(side.other(), 1).bytes(sent, received).closed("peer", 1);
    stage.check(side, [one, other])
}
