//! What a frame of HTTP/2 looks like where nobody knows that one stands there, and what it tells of who sends it and of gRPC.

use crate::protocol::guess::{Guess, Judged, outside, sender, tell};

/// The framing, as it is guessed.
#[derive(Debug)]
pub enum Http2Guess {}

/// Bytes of a frame's header.
const HEADER: u32 = 9;
/// Longest frame: more than implementations send.
const LONGEST: u32 = 1 << 20;
/// In [`Judged::context`]: the frame before was a header block behind which a body comes.
const BEHIND_HEADERS: u8 = 1;

const DATA: usize = 0;
const HEADERS: usize = 1;
const SETTINGS: usize = 4;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// What the frames of a type look like, without the lowest flag or with it.
#[derive(Clone, Copy)]
struct Form {
    shortest: u32,
    longest: u32,
    /// Flags that may not be set, and those that have to be.
    never: u8,
    must: u8,
    /// Streams that it may belong to: bit 0 for stream 0, bit 1 for one that a client has opened.
    streams: u8,
    /// 1 for a header block.
    block: u8,
    /// 1 for DATA.
    data: u8,
    /// Ones if the payload is a multiple of six, as settings are.
    sixes: u8,
}

/// Stream 0.
const CONNECTION: u8 = 1;
/// A stream that a client has opened.
const STREAM: u8 = 2;

/// Types that are told apart.
const TYPES: usize = 16;

/// By twice the type and the lowest flag.
static FORMS: [Form; 2 * TYPES] = {
    let nothing = Form {
        shortest: 1,
        longest: 0,
        never: 0xff,
        must: 0,
        streams: 0,
        block: 0,
        data: 0,
        sixes: 0,
    };
    let mut forms = [nothing; 2 * TYPES];
    let mut ended = 0;
    while ended < 2 {
        forms[2 * DATA + ended] = Form {
            shortest: 0,
            longest: LONGEST,
            never: !(END_STREAM | PADDED),
            streams: STREAM,
            data: 1,
            ..nothing
        };
        // A header block that goes on in another frame is too rare to be waited for.
        forms[2 * HEADERS + ended] = Form {
            longest: LONGEST,
            never: !(END_STREAM | END_HEADERS | PADDED | PRIORITY),
            must: END_HEADERS,
            streams: STREAM,
            block: 1,
            ..nothing
        };
        // PING, with or without ACK.
        forms[2 * 6 + ended] =
            Form { shortest: 8, longest: 8, never: !1, streams: CONNECTION, ..nothing };
        ended += 1;
    }
    // PRIORITY, RST_STREAM, SETTINGS, its acknowledgement, GOAWAY, WINDOW_UPDATE (RFC 9113 section 6).
    forms[2 * 2] = Form { shortest: 5, longest: 5, streams: STREAM, ..nothing };
    forms[2 * 3] = Form { shortest: 4, longest: 4, streams: STREAM, ..nothing };
    forms[2 * SETTINGS] =
        Form { shortest: 0, longest: 192, streams: CONNECTION, sixes: 0xff, ..nothing };
    forms[2 * SETTINGS + 1] = Form { shortest: 0, never: !1, streams: CONNECTION, ..nothing };
    forms[2 * 7] = Form { shortest: 8, longest: 1024, streams: CONNECTION, ..nothing };
    forms[2 * 8] = Form { shortest: 4, longest: 4, streams: CONNECTION | STREAM, ..nothing };
    forms
};

/// Who begins a header block with a byte (RFC 7541): a request with a pseudo-header field that only requests have, an answer
/// with `:status`; entries of the dynamic table, and what trailers begin with, do not tell. In the first row, of what is no
/// header block.
static SENDER: [[u8; 256]; 2] = {
    let mut table = [[sender::ANY; 256]; 2];
    // Indexed, and literals with incremental indexing, without indexing, never indexed.
    let representations = [0x80, 0x40, 0x00, 0x10];
    let mut i = 0;
    while i < representations.len() {
        let mut name = 1;
        while name <= 14 {
            table[1][representations[i] + name] =
                if name < 8 { sender::CLIENT } else { sender::SERVER };
            name += 1;
        }
        i += 1;
    }
    // Index 0 is an error.
    table[1][0x80] = 0;
    table
};

impl Guess for Http2Guess {
    #[inline(always)]
    fn judge([low, high]: [u64; 2], available: u32, context: u8) -> Judged {
        let payload = u64::from((low as u32).swap_bytes() >> 8);
        let (kind, flags) = ((low >> 24) as u8, (low >> 32) as u8);
        let stream = u64::from(((low >> 40) as u32 | (high as u32) << 24).swap_bytes());
        let form = FORMS[2 * (kind as usize & (TYPES - 1)) + usize::from(flags & 1)];
        // 1 for a stream, 0 for the connection.
        let of = stream.wrapping_neg() >> 63;
        let odds = u64::from(kind >> 4)
            | u64::from(flags & form.never)
            | u64::from(!flags & form.must)
            // Clients open odd streams, servers hardly ever any.
            | (of & !stream)
            | (stream >> 31)
            | (!u64::from(form.streams >> of) & 1)
            | ((payload % 6) & u64::from(form.sixes));
        let doubt = outside(payload, u64::from(form.shortest), u64::from(form.longest))
            | u64::from(available).wrapping_sub(u64::from(HEADER))
            | odds.wrapping_neg();
        // Behind the length of the padding, and the priority: at most byte 15.
        let first = u32::from(flags >> 3 & 1) + 5 * u32::from(flags >> 5 & 1) + 1;
        let byte = (high >> ((first * 8) & 63)) as u8;
        Judged {
            doubt,
            length: HEADER,
            payload,
            sender: SENDER[usize::from(form.block & 1)][byte as usize],
            context: form.block & !flags & BEHIND_HEADERS,
            tells: message(high, payload, form.data & !(flags >> 3), available, context),
        }
    }
}

const _: () = assert!(END_STREAM == BEHIND_HEADERS && PADDED == 1 << 3 && PRIORITY == 1 << 5);

/// What the start of a body tells: each message of gRPC begins with whether it is compressed, and its length. `data`: whether it
/// is a body.
#[inline(always)]
fn message(high: u64, payload: u64, data: u8, available: u32, context: u8) -> u8 {
    let compressed = high >> 8 & 0xff;
    let length = u64::from(((high >> 16) as u32).swap_bytes());
    // Negative if the five bytes are not there.
    let missing = u64::from(available).wrapping_sub(u64::from(HEADER) + 5);
    // 0 if it is a whole message.
    let odd = compressed >> 1;
    let whole = (odd | (length + 5) ^ payload).wrapping_sub(1) >> 63;
    // At the start of a body even a message that is longer than the frame begins here, and none is of 64 MiB.
    let alien = (odd | length >> 26).wrapping_neg() >> 63 & u64::from(context & BEHIND_HEADERS);
    let there = u64::from(data & 1) & !(missing >> 63);
    ((there & whole) as u8 * tell::GRPC) | ((there & alien) as u8 * tell::NOT_GRPC)
}
