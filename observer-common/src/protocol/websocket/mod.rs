//! WebSocket frames (RFC 6455 section 5.2).

pub mod counters;
mod guess;

use counters::{CONTROL_FRAMES, Control, INVALID_FRAMES, MESSAGES};

use crate::{
    framing::{Framing, Header},
    recorder::Recorder,
    stream::{Parser, mode},
};

/// Longest frame header: 2 bytes, 8 of extended length, 4 of masking key.
const HEADER: u32 = 14;

/// What a header says, as bits.
mod bit {
    /// The frame ends a text or binary message: one more message.
    pub(super) const MESSAGE: u8 = 1 << MESSAGE_SHIFT;
    /// Position of [`MESSAGE`].
    pub(super) const MESSAGE_SHIFT: u8 = 1;
    /// Position of [`INVALID`].
    pub(super) const INVALID_SHIFT: u8 = 2;
    /// The frame breaks RFC 6455: a reserved opcode, a fragmented or oversized control frame, a length with its top bit set.
    pub(super) const INVALID: u8 = 1 << INVALID_SHIFT;
    /// Position of the bit of a ping; that of a pong is the next.
    pub(super) const PING_SHIFT: u8 = 3;
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Begins to follow frames, from a frame boundary on.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.mode = mode::WEBSOCKET;
    parser.pos = 0;
    parser.left = 0;
}

/// The framing.
#[derive(Debug)]
pub enum WebSocket {}

/// What a stretch of frames adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    messages: u64,
    invalid: u64,
    pings: u64,
    pongs: u64,
}

impl Framing for WebSocket {
    const HEADER: u32 = HEADER;
    type Event = u8;
    type Tally = Tally;

    #[inline(always)]
    fn read([low, high]: [u64; 2], available: u32) -> Option<Header<u8>> {
        let (first, second) = (low as u8, (low >> 8) as u8);
        let form = FORMS[second as usize];
        let length = u32::from(form.length);
        if available < 2 || available < length {
            return None;
        }
        // An extended length is the first two or all of the eight bytes behind the second.
        let extended = ((low >> 16) | (high << 48)).swap_bytes() >> (form.shift & 63);
        let payload = (extended & i64::from(form.extended).cast_unsigned()) | u64::from(form.short);
        // RFC 6455 wants the top bit to be 0; without it the length is still longer than any connection.
        let event = judge(first, form, payload);
        Some(Header { length, payload: payload & (u64::MAX >> 1), event })
    }

    #[inline(always)]
    fn add(tally: &mut Tally, event: u8) {
        tally.messages += u64::from(event >> bit::MESSAGE_SHIFT & 1);
        tally.invalid += u64::from(event >> bit::INVALID_SHIFT & 1);
        tally.pings += u64::from(event >> bit::PING_SHIFT & 1);
        tally.pongs += u64::from(event >> (bit::PING_SHIFT + 1) & 1);
    }

    #[inline(always)]
    fn record(tally: Tally, direction: usize, recorder: &mut impl Recorder) {
        if tally.messages != 0 {
            recorder.add(&MESSAGES, direction, tally.messages);
        }
        if tally.invalid != 0 {
            recorder.add(&INVALID_FRAMES, 0, tally.invalid);
        }
        for (control, frames) in [(Control::Ping, tally.pings), (Control::Pong, tally.pongs)] {
            if frames != 0 {
                recorder.add(&CONTROL_FRAMES, 2 * control as usize + direction, frames);
            }
        }
    }
}

/// What a header's second byte says; a table, so that the verifier has one path to follow.
#[derive(Clone, Copy)]
struct Form {
    /// Length of the whole header.
    length: u8,
    /// Payload length if the byte itself tells it, else 0.
    short: u8,
    /// How far to shift the eight bytes behind the second for an extended length.
    shift: u8,
    /// All ones if the length is extended.
    extended: i8,
}

static FORMS: [Form; 256] = {
    let mut table = [Form { length: 2, short: 0, shift: 0, extended: 0 }; 256];
    let mut second = 0;
    while second < 256 {
        let form = &mut table[second];
        match (second & 0x7f) as u8 {
            126 => *form = Form { length: 4, short: 0, shift: 48, extended: -1 },
            127 => *form = Form { length: 10, short: 0, shift: 0, extended: -1 },
            short => form.short = short,
        }
        if second & MASKED as usize != 0 {
            form.length += 4;
        }
        second += 1;
    }
    table
};

/// The [`bit`]s of a header, by its first byte; a table, so that the verifier has one path to follow.
static JUDGEMENT: [u8; 256] = {
    let mut table = [0; 256];
    let mut first = 0;
    while first < 256 {
        let (opcode, fin) = (first & 0x0f, first & FIN as usize != 0);
        if opcode <= 2 && fin {
            table[first] |= bit::MESSAGE;
        }
        if opcode >= 8 {
            table[first] |= CONTROL;
        }
        if opcode == 9 || opcode == 10 {
            table[first] |= 1 << (bit::PING_SHIFT + opcode as u8 - 9);
        }
        if opcode > 10 || (opcode > 2 && opcode < 8) || (opcode >= 8 && !fin) {
            table[first] |= bit::INVALID;
        }
        first += 1;
    }
    table
};

/// A control frame, whose payload is at most 125 bytes; only within [`JUDGEMENT`].
const CONTROL: u8 = 1 << 7;

#[inline(always)]
fn judge(first: u8, form: Form, left: u64) -> u8 {
    let known = JUDGEMENT[first as usize];
    let oversized = (known / CONTROL) & form.extended.cast_unsigned() & 1;
    // 1 for a length with its top bit set.
    let negative = (left >> 63) as u8;
    (known & !CONTROL) | ((oversized | negative) << bit::INVALID_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        framing::follow,
        source::{Slice, Source as _},
    };
    use proptest::prelude::*;

    /// Runs whole frames through the follower, cut into pieces.
    fn followed(bytes: &[u8], cuts: &[usize], frames: usize) -> Tally {
        let mut parser = Parser::default();
        start(&mut parser);
        let mut tally = Tally::default();
        let mut ends: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            let mut source = Slice(&bytes[at..end]);
            for _ in 0..=bytes.len() {
                if follow::<WebSocket>(&mut source, &mut parser, &mut tally, frames) {
                    break;
                }
            }
            assert_eq!(source.left(), 0, "a source is consumed at last");
            at = end;
        }
        tally
    }

    fn frame(fin: bool, opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mut f = vec![(if fin { FIN } else { 0 }) | opcode];
        let mask = if masked { MASKED } else { 0 };
        match payload {
            0..=125 => f.push(mask | payload as u8),
            126..=0xffff => {
                f.push(mask + 126);
                f.extend((payload as u16).to_be_bytes());
            }
            _ => {
                f.push(mask + 127);
                f.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            f.extend([1, 2, 3, 4]);
        }
        f.extend(std::iter::repeat_n(0x81, payload));
        f
    }

    #[test]
    fn a_stretch_is_counted_by_direction() {
        let mut recorded = Vec::new();
        WebSocket::record(Tally { messages: 2, invalid: 1, pings: 3, pongs: 4 }, 1, &mut recorded);
        WebSocket::record(Tally::default(), 0, &mut recorded);
        let expected = [
            ("MESSAGES", 1, 2),
            ("INVALID_FRAMES", 0, 1),
            ("CONTROL_FRAMES", 1, 3),
            ("CONTROL_FRAMES", 3, 4),
        ];
        assert_eq!(recorded, expected);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_counts(
            frames in prop::collection::vec((any::<bool>(), 0_u8..16, any::<bool>(), prop_oneof![0_usize..130, 65_530_usize..65_540]), 0..12),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
            at_once in 1_usize..5,
        ) {
            let mut bytes = Vec::new();
            let mut want = Tally::default();
            for (fin, opcode, masked, payload) in frames {
                bytes.extend(frame(fin, opcode, masked, payload));
                want.messages += u64::from(fin && opcode <= 2);
                want.pings += u64::from(opcode == 9);
                want.pongs += u64::from(opcode == 10);
                want.invalid += u64::from(
                    matches!(opcode, 3..=7 | 11..=15) || (opcode >= 8 && (!fin || payload > 125)),
                );
            }
            prop_assert_eq!(followed(&bytes, &cuts, at_once), want);
        }

        #[test]
        fn hostile_bytes_never_stall(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            let _ = followed(&bytes, &cuts, 3);
        }
    }
}
