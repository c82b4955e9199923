//! WebSocket frames (RFC 6455 section 5.2).

pub mod counters;
mod guess;

use counters::{CLOSES, CONTROL_FRAMES, CloseCode, Control, INVALID_FRAMES, Initiator, MESSAGES};

use super::{
    facts::Facts,
    mode,
    parse::{End, Outcome, Parse},
};
use crate::{
    framing::{Framing, Header, Stretch, follow},
    recorder::Recorder,
    source::Source,
    stream::{Parser, flag, order},
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
    /// Position of the bit of a close frame.
    pub(super) const CLOSE_SHIFT: u8 = 5;
    /// Position of the bit of a close frame without a code.
    pub(super) const NO_CODE_SHIFT: u8 = 6;
}

/// Where an event has the code of a close frame, above the [`bit`]s.
const CODE_SHIFT: u32 = 16;
/// Bytes of a code.
const CODE: u32 = 2;

// Facts::said
/// The server has sent a close frame.
const SERVER_CLOSES: u8 = 1;
/// The client has.
const CLIENT_CLOSES: u8 = 2;
/// The first of them was an orderly one: 1000 or 1001.
const ORDERLY: u8 = 4;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Begins to follow frames, from a frame boundary on.
#[inline(always)]
pub const fn start(parser: &mut Parser) {
    parser.begin(mode::WEBSOCKET, 0, flag::FRAMES);
}

/// Of the request stream: frames come, from here on. One that was lost track of stays so.
pub const FOLLOW: u32 = order::of(mode::WEBSOCKET, 0, flag::FRAMES, order::READ);

/// The framing, and its parser.
#[derive(Debug)]
pub enum WebSocket {}

/// What a stretch of frames adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    messages: u64,
    invalid: u64,
    pings: u64,
    pongs: u64,
    /// The event of a close frame, which ends the stretch; 0 without one.
    close: u32,
}

impl Framing for WebSocket {
    const HEADER: u32 = HEADER;
    type Event = u32;
    type Tally = Tally;

    /// Close frames.
    #[inline(always)]
    fn is_rare(start: u64) -> u64 {
        u64::from(JUDGEMENT[usize::from(start as u8)] & (1 << bit::CLOSE_SHIFT))
    }

    #[inline(always)]
    fn read(_: &Parser, [low, high]: [u64; 2], available: u32) -> Option<Header<u32>> {
        let (first, second) = (low as u8, (low >> 8) as u8);
        let form = FORMS[second as usize];
        // The code of a close frame is read with the header.
        let closes = JUDGEMENT[first as usize] >> bit::CLOSE_SHIFT & form.has_code;
        let length = u32::from(form.length) + CODE * u32::from(closes);
        if available < 2 || available < length {
            return None;
        }
        // An extended length is the first two or all of the eight bytes behind the second.
        let extended = ((low >> 16) | (high << 48)).swap_bytes() >> (form.shift & 63);
        let payload = (extended & i64::from(form.extended).cast_unsigned()) | u64::from(form.short);
        // RFC 6455 wants the top bit to be 0; without it the length is still longer than any connection.
        let code = code(low, form) & u16::from(closes).wrapping_neg();
        let event = u32::from(judge(first, form, payload)) | u32::from(code) << CODE_SHIFT;
        let payload = (payload & (u64::MAX >> 1)) - u64::from(CODE * u32::from(closes));
        Some(Header { length, payload, state: 0, event })
    }

    #[inline(always)]
    fn forget(tally: &mut Tally, source: &impl Source) {
        for number in [&mut tally.messages, &mut tally.invalid, &mut tally.pings, &mut tally.pongs]
        {
            *number = source.forget(*number);
        }
    }

    #[inline(always)]
    fn take(tally: &mut Tally, _: &mut Parser, event: u32, _: &mut impl Recorder) {
        tally.messages += u64::from(event >> bit::MESSAGE_SHIFT & 1);
        tally.invalid += u64::from(event >> bit::INVALID_SHIFT & 1);
        tally.pings += u64::from(event >> bit::PING_SHIFT & 1);
        tally.pongs += u64::from(event >> (bit::PING_SHIFT + 1) & 1);
        // The close frame that ends a stretch.
        if event >> bit::CLOSE_SHIFT & 1 != 0 {
            tally.close = event;
        }
    }
}

impl Parse for WebSocket {
    type Found = Tally;

    const INLINE: bool = true;
    /// 27 runs get through the largest packet, of 64 KiB, if its frames have four bytes, and twice as many if they have two.
    const FRAMES: usize = 640;

    #[inline(always)]
    fn parse(
        source: &mut impl Source,
        parser: &mut Parser,
        stretch: Stretch,
        recorder: &mut impl Recorder,
    ) -> Option<Tally> {
        let mut tally = Tally::default();
        follow::<Self>(source, parser, &mut tally, stretch, recorder);
        Some(tally)
    }

    #[inline(always)]
    fn is_news(found: &Tally) -> bool {
        found.close != 0
    }

    #[inline(always)]
    fn conclude(found: &Tally, is_request: bool, _: &mut Parser, facts: &mut Facts) -> Outcome {
        let mut outcome = Outcome::default();
        let code = (found.close >> CODE_SHIFT) as u16;
        if facts.said & (SERVER_CLOSES | CLIENT_CLOSES) == 0 {
            let initiator = if is_request { Initiator::Client } else { Initiator::Server };
            outcome.news = 1 + closed(close_code(found.close), initiator) as u32;
            if code == 1000 || code == 1001 {
                facts.said |= ORDERLY;
            }
        }
        facts.said |= if is_request { CLIENT_CLOSES } else { SERVER_CLOSES };
        outcome
    }

    #[inline(always)]
    fn record(found: Tally, news: u32, recorder: &mut impl Recorder) {
        if found == Tally::default() {
            return;
        }
        recorder.hold();
        let direction = recorder.direction();
        if found.messages != 0 {
            recorder.add(&MESSAGES, direction, found.messages);
        }
        if found.invalid != 0 {
            recorder.add(&INVALID_FRAMES, 0, found.invalid);
        }
        for (control, frames) in [(Control::Ping, found.pings), (Control::Pong, found.pongs)] {
            if frames != 0 {
                recorder.add(&CONTROL_FRAMES, 2 * control as usize + direction, frames);
            }
        }
        if news != 0 {
            recorder.add(&CLOSES, news as usize - 1, 1);
        }
    }
}

/// The [`CloseCode`] of the event of a close frame.
const fn close_code(event: u32) -> usize {
    if event >> bit::NO_CODE_SHIFT & 1 != 0 {
        return CloseCode::None as usize;
    }
    CloseCode::of((event >> CODE_SHIFT) as u16)
}

/// The combination of [`CLOSES`].
const fn closed(code: usize, initiator: Initiator) -> usize {
    2 * code + initiator as usize
}

/// A connection that speaks WebSocket has ended; whether that was an orderly end: both sides have sent a close frame, or one has
/// whose code says so.
#[inline(always)]
pub fn ended(facts: Facts, end: End, recorder: &mut impl Recorder) -> bool {
    let both = facts.said & (SERVER_CLOSES | CLIENT_CLOSES);
    if both == 0 {
        let initiator = if end.by_client { Initiator::Client } else { Initiator::Server };
        recorder.hold();
        recorder.add(&CLOSES, closed(CloseCode::Abnormal as usize, initiator), 1);
    }
    both == SERVER_CLOSES | CLIENT_CLOSES || facts.said & ORDERLY != 0
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
    /// 1 if the payload of a control frame has room for a code.
    has_code: u8,
    /// 1 if there is no payload.
    is_empty: u8,
    /// All ones if the frame is masked.
    masked: i8,
}

static FORMS: [Form; 256] = {
    let plain =
        Form { length: 2, short: 0, shift: 0, extended: 0, has_code: 0, is_empty: 0, masked: 0 };
    let mut table = [plain; 256];
    let mut second = 0;
    while second < 256 {
        let form = &mut table[second];
        match (second & 0x7f) as u8 {
            126 => *form = Form { length: 4, shift: 48, extended: -1, ..plain },
            127 => *form = Form { length: 10, extended: -1, ..plain },
            short => {
                form.short = short;
                form.has_code = (short >= CODE as u8) as u8;
                form.is_empty = (short == 0) as u8;
            }
        }
        if second & MASKED as usize != 0 {
            form.length += 4;
            form.masked = -1;
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
        if opcode == 8 {
            table[first] |= 1 << bit::CLOSE_SHIFT;
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
    // One byte is no code either, and breaks the protocol.
    let no_code = known >> bit::CLOSE_SHIFT & form.is_empty;
    (known & !CONTROL)
        | ((oversized | negative) << bit::INVALID_SHIFT)
        | (no_code << bit::NO_CODE_SHIFT)
}

/// The code of a close frame that has one, unmasked by the first two bytes of its key.
#[inline(always)]
fn code(low: u64, form: Form) -> u16 {
    let key = (low >> 16) as u16 & i16::from(form.masked).cast_unsigned();
    ((low >> ((8 * u32::from(form.length)) & 63)) as u16 ^ key).swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recorder::Recorded, source::Slice};
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
            let mut recorder = Recorded::default();
            for _ in 0..=bytes.len() {
                let stretch = Stretch { frames, rare: true };
                let found = WebSocket::parse(&mut source, &mut parser, stretch, &mut recorder);
                let found = found.expect("it can be read");
                tally.messages += found.messages;
                tally.invalid += found.invalid;
                tally.pings += found.pings;
                tally.pongs += found.pongs;
                if tally.close == 0 {
                    tally.close = found.close;
                }
                if source.0.is_empty() {
                    break;
                }
            }
            assert!(source.0.is_empty(), "a source is consumed at last");
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
        let mut recorded = Recorded::default();
        recorded.begin(1);
        let tally = Tally { messages: 2, invalid: 1, pings: 3, pongs: 4, close: 0 };
        WebSocket::record(tally, 0, &mut recorded);
        WebSocket::record(Tally::default(), 0, &mut recorded);
        let expected = [
            ("MESSAGES", 1, 2),
            ("INVALID_FRAMES", 0, 1),
            ("CONTROL_FRAMES", 1, 3),
            ("CONTROL_FRAMES", 3, 4),
        ];
        assert_eq!(recorded.counts, expected);
    }

    /// A close frame with these bytes.
    fn close(payload: &[u8], masked: bool) -> Vec<u8> {
        let mut frame = vec![FIN | 8, payload.len() as u8 | if masked { MASKED } else { 0 }];
        let key = if masked { [0x37, 0xfa, 0x21, 0x3d] } else { [0; 4] };
        frame.extend(key.into_iter().filter(|_| masked));
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[test]
    fn the_code_of_a_close_frame_is_read_wherever_it_is_cut() {
        let payloads: [(&[u8], &str); 9] = [
            (b"", "1005"),
            (b"\x03", "other"),
            (b"\x03\xe8", "1000"),
            (b"\x03\xf3oh", "1011"),
            (b"\x03\xf6", "1014"),
            (b"\x0b\xb8", "3xxx"),
            (b"\x13\x87", "4xxx"),
            (b"\x03\xed", "other"),
            (b"\x07\xd0", "other"),
        ];
        for (payload, label) in payloads {
            for masked in [false, true] {
                let mut bytes = frame(true, 1, masked, 3);
                bytes.extend(close(payload, masked));
                // Of more than one the first counts.
                bytes.extend(close(b"\x03\xf1", masked));
                for cut in 0..=bytes.len() {
                    let tally = followed(&bytes, &[cut], 9);
                    let code = close_code(tally.close);
                    assert_eq!(CloseCode::LABEL.values[code], label, "{payload:?}");
                    assert_eq!(tally.messages, 1);
                    let (mut facts, mut parser) = (Facts::default(), Parser::default());
                    let mut conclude =
                        |by| WebSocket::conclude(&tally, by, &mut parser, &mut facts).news;
                    let first = conclude(masked);
                    assert_eq!(first as usize, 1 + 2 * code + usize::from(masked));
                    assert_eq!((conclude(masked), conclude(!masked)), (0, 0), "counted once");
                }
            }
        }
    }

    #[test]
    fn an_end_is_orderly_if_close_frames_say_so() {
        let error = End { is_error: true, by_client: true };
        for (said, orderly, counts) in [
            (0, false, 1),
            (SERVER_CLOSES, false, 0),
            (CLIENT_CLOSES | ORDERLY, true, 0),
            (CLIENT_CLOSES | SERVER_CLOSES, true, 0),
        ] {
            let mut recorded = Recorded::default();
            let facts = Facts { said, ..Facts::default() };
            assert_eq!(ended(facts, error, &mut recorded), orderly, "{said}");
            assert_eq!(recorded.counts.len(), counts, "{said}");
        }
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
            let mut closes = false;
            for (fin, opcode, masked, payload) in frames {
                bytes.extend(frame(fin, opcode, masked, payload));
                closes |= opcode == 8;
                want.messages += u64::from(fin && opcode <= 2);
                want.pings += u64::from(opcode == 9);
                want.pongs += u64::from(opcode == 10);
                want.invalid += u64::from(
                    matches!(opcode, 3..=7 | 11..=15) || (opcode >= 8 && (!fin || payload > 125)),
                );
            }
            let tally = followed(&bytes, &cuts, at_once);
            prop_assert_eq!(tally.close != 0, closes);
            prop_assert_eq!(Tally { close: 0, ..tally }, want);
        }

        #[test]
        fn hostile_bytes_never_stall(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            let _ = followed(&bytes, &cuts, 3);
        }
    }
}
