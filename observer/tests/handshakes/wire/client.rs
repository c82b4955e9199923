//! Responses in pieces and disorder, to a real client.

use super::{Bench, Open, Scenario};
use crate::bytes::{GET, OK, SWITCHING, UPGRADE, masked, text};

const HTTP1: &[&str] = &["http1"];
const WEBSOCKET: &[&str] = &["http1", "websocket"];
/// Before and within the header that names websocket.
const CUTS: [usize; 2] = [20, 45];

/// The 101 and three messages.
fn stream() -> Vec<u8> {
    [SWITCHING.as_bytes(), &text(b"one"), &text(b"two"), &text(b"three")].concat()
}

/// Asks, and gets the stream in these pieces.
fn pieces(bench: &mut Bench<'_>, pieces: &[(usize, usize)]) -> anyhow::Result<()> {
    let stream = stream();
    bench.answer(UPGRADE)?;
    for &(from, to) in pieces {
        bench.raw.send(from, &stream[from..to.min(stream.len())])?;
    }
    bench.received(stream)?;
    bench.answer(masked(b"four"))
}

const END: usize = usize::MAX;
const HEAD: usize = SWITCHING.len();

/// All of them. A client's messages are in no family yet: the protocol and the books must be right.
pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("to a client: in order", Open::Client, WEBSOCKET, |bench| {
            pieces(bench, &[(0, HEAD), (HEAD, END)])
        }),
        Scenario::new("to a client: the head's halves swapped", Open::Client, WEBSOCKET, |bench| {
            pieces(bench, &[(CUTS[1], HEAD), (0, CUTS[1]), (HEAD, END)])
        }),
        Scenario::new(
            "to a client: frames before the head's tail",
            Open::Client,
            WEBSOCKET,
            |bench| pieces(bench, &[(0, CUTS[1]), (HEAD, END), (CUTS[1], HEAD)]),
        ),
        Scenario::new("to a client: all in reverse", Open::Client, WEBSOCKET, |bench| {
            let [first, second] = CUTS;
            pieces(
                bench,
                &[(HEAD + 3, END), (HEAD, HEAD + 3), (second, HEAD), (first, second), (0, first)],
            )
        }),
        Scenario::new("to a client: each piece twice", Open::Client, WEBSOCKET, |bench| {
            let (head, tail) = ((0, CUTS[0]), (CUTS[0], END));
            pieces(bench, &[head, head, tail, tail])
        }),
        Scenario::new("to a client: again, at other borders", Open::Client, WEBSOCKET, |bench| {
            pieces(bench, &[(0, 40), (10, HEAD + 3), (30, HEAD + 8), (0, END)])
        }),
        Scenario::new("to a client: overlapping, swapped", Open::Client, WEBSOCKET, |bench| {
            pieces(bench, &[(30, HEAD + 8), (HEAD, END), (0, 40)])
        }),
        Scenario::new(
            "to a client: behind an extension header",
            Open::Client,
            WEBSOCKET,
            |bench| {
                bench.raw.extended = true;
                pieces(bench, &[(CUTS[1], HEAD), (0, CUTS[1]), (HEAD, END)])
            },
        ),
        Scenario::new("to a client: a plain response, swapped", Open::Client, HTTP1, |bench| {
            bench.answer(GET)?;
            bench.raw.send(20, &OK[20..])?;
            bench.raw.send(0, &OK[..20])?;
            bench.received(OK)
        }),
        Scenario::new("to a client: a reset within the 101", Open::Client, HTTP1, |bench| {
            bench.answer(UPGRADE)?;
            bench.raw.send(0, &SWITCHING[..CUTS[1]])?;
            bench.received(&SWITCHING[..CUTS[1]])?;
            bench.reset(CUTS[1])
        }),
        Scenario::new("to a client: a reset behind the 101", Open::Client, WEBSOCKET, |bench| {
            bench.answer(UPGRADE)?;
            bench.raw.send(0, SWITCHING)?;
            bench.received(SWITCHING)?;
            bench.reset(HEAD)
        }),
    ]
}
