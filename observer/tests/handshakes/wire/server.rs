//! Requests in pieces and disorder, to a real server.

use super::{Bench, Open, Scenario};
use crate::bytes::{GET, OK, SWITCHING, UPGRADE, grpc_call, masked, preface, text};

const HTTP1: &[&str] = &["http1"];
const WEBSOCKET: &[&str] = &["http1", "websocket"];
/// Somewhere within the request.
const CUT: usize = 60;

/// The upgrade request has come, however: it is granted, and one message goes each way.
fn grant(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    bench.received(UPGRADE)?;
    bench.answer(SWITCHING)?;
    bench.raw.send(UPGRADE.len(), masked(b"hello"))?;
    bench.received(masked(b"hello"))?;
    bench.answer(text(b"hello"))
}

/// All of them.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = heads();
    scenarios.extend(endings_and_headers());
    scenarios.extend(first_data());
    scenarios.extend(frames());
    scenarios.extend(refused_segments());
    scenarios
}

fn heads() -> Vec<Scenario> {
    vec![
        Scenario::new("to a server: in order", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, UPGRADE)?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: the head's halves swapped", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(CUT, &UPGRADE[CUT..])?;
            bench.raw.send(0, &UPGRADE[..CUT])?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: five pieces in reverse", Open::Server, WEBSOCKET, |bench| {
            for piece in (0..5).rev() {
                let (from, to) =
                    (piece * 30, if piece == 4 { UPGRADE.len() } else { piece * 30 + 30 });
                bench.raw.send(from, &UPGRADE[from..to])?;
            }
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: each piece twice", Open::Server, WEBSOCKET, |bench| {
            for _ in 0..2 {
                bench.raw.send(0, &UPGRADE[..CUT])?;
            }
            for _ in 0..2 {
                bench.raw.send(CUT, &UPGRADE[CUT..])?;
            }
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: overlapping pieces", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, &UPGRADE[..50])?;
            bench.raw.send(30, &UPGRADE[30..90])?;
            bench.raw.send(10, &UPGRADE[10..70])?;
            bench.raw.send(80, &UPGRADE[80..])?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new(
            "to a server: overlapping pieces, swapped",
            Open::Server,
            WEBSOCKET,
            |bench| {
                bench.raw.send(80, &UPGRADE[80..])?;
                bench.raw.send(30, &UPGRADE[30..90])?;
                bench.raw.send(0, &UPGRADE[..50])?;
                grant(bench)
            },
        )
        .messages(1, 1),
        Scenario::new("to a server: a later upgrade, swapped", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, GET)?;
            bench.received(GET)?;
            bench.answer(OK)?;
            bench.raw.send(GET.len() + CUT, &UPGRADE[CUT..])?;
            bench.raw.send(GET.len(), &UPGRADE[..CUT])?;
            bench.received(UPGRADE)?;
            bench.answer(SWITCHING)
        }),
        Scenario::new(
            "to a server: gRPC's first frames swapped",
            Open::Server,
            &["http2", "grpc"],
            |bench| {
                let (preface, call) = (preface(), grpc_call());
                bench.raw.send(preface.len(), &call)?;
                bench.raw.send(0, &preface)?;
                bench.received([preface, call].concat())
            },
        ),
    ]
}

fn endings_and_headers() -> Vec<Scenario> {
    vec![
        Scenario::new("to a server: a reset within the head", Open::Server, HTTP1, |bench| {
            bench.raw.send(0, &UPGRADE[..CUT])?;
            bench.received(&UPGRADE[..CUT])?;
            bench.reset(CUT)
        }),
        Scenario::new(
            "to a server: a reset while a piece is missing",
            Open::Server,
            &[],
            |bench| {
                bench.raw.send(CUT, &UPGRADE[CUT..])?;
                bench.raw.send(0, b"G")?;
                bench.received(b"G")?;
                bench.reset(1)
            },
        ),
        Scenario::new(
            "to a server: behind an extension header",
            Open::Server,
            WEBSOCKET,
            |bench| {
                bench.raw.extended = true;
                bench.raw.send(0, UPGRADE)?;
                grant(bench)
            },
        )
        .messages(1, 1),
        Scenario::new("to a server: the same, halves swapped", Open::Server, WEBSOCKET, |bench| {
            bench.raw.extended = true;
            bench.raw.send(CUT, &UPGRADE[CUT..])?;
            bench.raw.send(0, &UPGRADE[..CUT])?;
            grant(bench)
        })
        .messages(1, 1),
    ]
}

/// The handshake's last ACK is lost: data completes it.
fn first_data() -> Vec<Scenario> {
    use Open::ServerWithoutAck as Lost;
    vec![
        Scenario::new("to a server: a lost ACK", Lost, WEBSOCKET, |bench| {
            bench.raw.send(0, UPGRADE)?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: a lost ACK, the head in two", Lost, WEBSOCKET, |bench| {
            bench.raw.send(0, &UPGRADE[..CUT])?;
            bench.raw.send(CUT, &UPGRADE[CUT..])?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new("to a server: a lost ACK, the head twice", Lost, WEBSOCKET, |bench| {
            bench.raw.send(0, UPGRADE)?;
            bench.raw.send(0, UPGRADE)?;
            grant(bench)
        })
        .messages(1, 1),
        Scenario::new(
            "to a server: a lost ACK, behind an extension header",
            Lost,
            WEBSOCKET,
            |bench| {
                bench.raw.extended = true;
                bench.raw.send(0, UPGRADE)?;
                grant(bench)
            },
        )
        .messages(1, 1),
    ]
}

fn frames() -> Vec<Scenario> {
    vec![
        Scenario::new("to a server: frames swapped", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, UPGRADE)?;
            bench.received(UPGRADE)?;
            bench.answer(SWITCHING)?;
            let frames = masked(b"hello").repeat(4);
            let half = frames.len() / 2;
            bench.raw.send(UPGRADE.len() + half, &frames[half..])?;
            bench.raw.send(UPGRADE.len(), &frames[..half])?;
            bench.received(frames)
        })
        .messages(4, 0),
        Scenario::new("to a server: a frame's header swapped", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, UPGRADE)?;
            bench.received(UPGRADE)?;
            bench.answer(SWITCHING)?;
            let frames = [masked(&[0x81; 300]), masked(b"hello")].concat();
            let cuts = [0, 3, 310, frames.len()];
            for piece in [2, 1, 0] {
                let (from, to) = (cuts[piece], cuts[piece + 1]);
                bench.raw.send(UPGRADE.len() + from, &frames[from..to])?;
            }
            bench.received(frames)
        })
        .messages(2, 0),
        Scenario::new(
            "to a server: frames again, at other borders",
            Open::Server,
            WEBSOCKET,
            |bench| {
                bench.raw.send(0, UPGRADE)?;
                bench.received(UPGRADE)?;
                bench.answer(SWITCHING)?;
                let frames = masked(b"hello").repeat(6);
                for (from, to) in [(0, 15), (5, 30), (0, 40), (35, frames.len())] {
                    bench.raw.send(UPGRADE.len() + from, &frames[from..to])?;
                }
                bench.received(frames)
            },
        )
        .messages(6, 0),
    ]
}

/// Segments that mean nothing to TCP must mean nothing to the observer.
fn refused_segments() -> Vec<Scenario> {
    vec![
        Scenario::new("to a server: empty segments and probes", Open::Server, WEBSOCKET, |bench| {
            bench.raw.send(0, &UPGRADE[..CUT])?;
            bench.raw.acknowledge()?;
            bench.raw.probe()?;
            bench.raw.send(CUT, &UPGRADE[CUT..])?;
            bench.raw.probe()?;
            bench.received(UPGRADE)?;
            bench.answer(SWITCHING)?;
            bench.raw.probe()?;
            bench.raw.send(UPGRADE.len(), masked(b"hello"))?;
            bench.raw.probe()?;
            bench.raw.acknowledge()?;
            bench.raw.send(UPGRADE.len() + masked(b"hello").len(), masked(b"hello"))?;
            bench.received(masked(b"hello").repeat(2))
        })
        .messages(2, 0),
        Scenario::new(
            "to a server: segments outside its window",
            Open::Server,
            WEBSOCKET,
            |bench| {
                for stray in 1..8 {
                    bench.raw.stray(stray << 27, GET.as_bytes())?;
                }
                bench.raw.send(0, &UPGRADE[..CUT])?;
                bench.raw.stray(9 << 27, GET.as_bytes())?;
                bench.raw.send(CUT, &UPGRADE[CUT..])?;
                grant(bench)
            },
        )
        .messages(1, 1),
    ]
}
