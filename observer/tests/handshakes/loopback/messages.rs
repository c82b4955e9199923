//! WebSocket messages, counted exactly.

use super::Scenario;
use crate::bytes::{Frame, masked, opcode, text};

const WEBSOCKET: &[&str] = &["http1", "websocket"];
/// Frames in one write.
const MANY: usize = 3000;

/// All of them.
pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("messages: fragmented", WEBSOCKET, |talk| {
            talk.upgrade()?;
            let part = |end, opcode| Frame { end, opcode, masked: true, payload: b"part" }.bytes();
            talk.client(part(false, opcode::TEXT))?;
            talk.client(part(false, opcode::CONTINUATION))?;
            // Control frames may come in between.
            talk.client(part(true, opcode::PING))?;
            talk.client(part(true, opcode::CONTINUATION))?;
            talk.client(part(true, opcode::BINARY))
        })
        .messages(2, 0),
        Scenario::new("messages: ping, pong and close are none", WEBSOCKET, |talk| {
            talk.upgrade()?;
            for opcode in [opcode::PING, opcode::PONG, opcode::CLOSE] {
                let frame = Frame { end: true, opcode, masked: true, payload: b"\x03\xe8" };
                talk.client(frame.bytes())?;
                talk.server(Frame { masked: false, ..frame }.bytes())?;
            }
            Ok(())
        }),
        Scenario::new("messages: empty", WEBSOCKET, |talk| {
            talk.upgrade()?;
            talk.client([masked(b""), masked(b"")].concat())?;
            talk.server([text(b""), text(b""), text(b"")].concat())
        })
        .messages(2, 3),
        Scenario::new("messages: 16-bit lengths", WEBSOCKET, |talk| {
            talk.upgrade()?;
            for length in [125, 126, 127, 1000, 65_535] {
                talk.client(masked(&vec![0x81; length]))?;
                talk.server(text(&vec![0x81; length]))?;
            }
            Ok(())
        })
        .messages(5, 5),
        Scenario::new("messages: 64-bit lengths", WEBSOCKET, |talk| {
            talk.upgrade()?;
            for length in [65_536, 300_000] {
                talk.client([masked(&vec![0x81; length]), masked(b"end")].concat())?;
                talk.server([text(&vec![0x81; length]), text(b"end")].concat())?;
            }
            Ok(())
        })
        .messages(4, 4),
        Scenario::new("messages: a header cut at every place", WEBSOCKET, |talk| {
            talk.upgrade()?;
            let (to_server, to_client) = (masked(&[0x81; 200]), text(&vec![0x81; 65_536]));
            for cut in 1..8 {
                talk.client(&to_server[..cut])?;
                talk.client([&to_server[cut..], &masked(b"next")].concat())?;
            }
            for cut in 1..10 {
                talk.server(&to_client[..cut])?;
                talk.server([&to_client[cut..], &text(b"next")].concat())?;
            }
            Ok(())
        })
        .messages(14, 18),
        Scenario::new("messages: a header cut before the segment's end", WEBSOCKET, |talk| {
            talk.upgrade()?;
            let frames = [masked(b"one"), masked(&[0x81; 200])].concat();
            let header = masked(b"one").len();
            for cut in header + 1..header + 8 {
                talk.client(&frames[..cut])?;
                talk.client(&frames[cut..])?;
            }
            Ok(())
        })
        .messages(14, 0),
        Scenario::new("messages: 3,000 in one write of the client", WEBSOCKET, |talk| {
            talk.upgrade()?;
            talk.client(masked(b"x").repeat(MANY))
        })
        .messages(MANY as u64, 0),
        Scenario::new("messages: 3,000 in one write of the server", WEBSOCKET, |talk| {
            talk.upgrade()?;
            talk.server(text(b"x").repeat(MANY))
        })
        .messages(0, MANY as u64),
        Scenario::new("messages: 1,000 in each of several writes", WEBSOCKET, |talk| {
            talk.upgrade()?;
            for _ in 0..3 {
                talk.client(masked(b"x").repeat(1000))?;
                talk.server(text(b"x").repeat(1000))?;
            }
            Ok(())
        })
        .messages(3000, 3000),
    ]
}
