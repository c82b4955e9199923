//! One direction of a connection: where it is, who works on it, and what its parser remembers.

/// A gate with this bit is claimed: only the program that has set the bit reads and writes the rest of the stream. The lower
/// half of the gate is the *inbox*, a list of kept segments that others have handed over meanwhile.
pub const CLAIMED: u64 = 1 << 63;
/// The inbox of a gate: index of the first kept segment, plus one; 0 without any.
pub const INBOX: u64 = 0xffff_ffff;

/// The parser that a stream's next bytes go to: those of protocols have their numbers in [`crate::protocols`].
pub mod mode {
    /// Nothing more to learn from this stream.
    pub const OFF: u8 = 0;
    /// No parser: what comes is kept until the answer to an upgrade tells what it is.
    pub const WAIT: u8 = 5;
    /// What the bytes are is guessed ([`crate::protocol::guess`]).
    pub const GUESS: u8 = 7;
}

/// Places of the programs that are reached by tail calls. A parser of a packet's bytes has the number of its [`mode`].
pub mod program {
    /// Added to the number of a mode: the parser of a kept segment's bytes, in a small block.
    pub const OF_SMALL: u32 = 16;
    /// Likewise, in a large block.
    pub const OF_LARGE: u32 = 32;
    /// Keeps a segment.
    pub const KEEP: u32 = 48;
    /// Goes on with kept segments whose turn has come.
    pub const DRAIN: u32 = 49;
    /// Puts a segment in order that is not simply the next.
    pub const ORDER: u32 = 50;
    /// Adopts a connection that is older than the programs, at its first segment.
    pub const ADOPT: u32 = 51;
    /// Draws the conclusions from what a segment was taken for.
    pub const CONCLUDE: u32 = 52;
    /// Places in all.
    pub const PLACES: usize = 64;
}

/// What one direction asks of the other, whose parser it must not touch: to go on in another mode, or state of it. Taken by
/// whoever works on that stream next ([`obey`]).
pub mod order {
    use super::mode;

    /// Nothing.
    pub const NONE: u32 = 0;
    /// Nothing more is to be learned from the stream.
    pub const STOP: u32 = of(mode::OFF, 0, 0, ANY);

    /// Whatever the stream's mode is.
    pub const ANY: u8 = 0xff;
    /// Unless nothing is read of the stream: one that was lost track of stays so.
    pub const READ: u8 = 0xfe;

    /// The order to go on in a mode and state, with these flags, if the stream's mode is `only`, or one of those that
    /// [`ANY`] and [`READ`] stand for.
    #[must_use]
    pub const fn of(mode: u8, state: u8, flags: u8, only: u8) -> u32 {
        u32::from_le_bytes([mode, state, flags, only])
    }
}

/// Does what the other stream asks for: the parser begins anew in the mode of the order.
#[inline(always)]
pub const fn obey(parser: &mut Parser, order: u32) {
    let [mode, state, flags, only] = order.to_le_bytes();
    let fits = only == order::ANY
        || (only == order::READ && parser.mode != mode::OFF)
        || only == parser.mode;
    if fits {
        parser.begin(mode, state, flags);
    }
}

/// Bits of [`Parser::flags`].
pub mod flag {
    /// `Stream::next_seq` is valid.
    pub const SYNCED: u8 = 1;
    /// The response head being read is a 101.
    pub const SWITCHING: u8 = 2;
    /// The response head being read is an interim one (1xx other than 101).
    pub const INTERIM: u8 = 4;
    /// Bytes that are in sequence and counted wait among the kept segments: what follows has to wait behind them.
    pub const PARKED: u8 = 8;
    /// The mode follows frames: of [`super::Parser::left`] bytes none need be read, unless [`super::Parser::pos`] or the state
    /// says so.
    pub const FRAMES: u8 = 16;
    /// Those that belong to the stream, whatever its parser is.
    pub const OF_STREAM: u8 = SYNCED | PARKED;
}

/// What a parser remembers between two segments; 32 bytes that belong to the protocol of its mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Parser {
    /// [`mode`].
    pub mode: u8,
    /// The automaton's state within the mode.
    pub state: u8,
    /// Position within the element being read (a frame header).
    pub pos: u8,
    /// [`flag`].
    pub flags: u8,
    /// Of a response head: what it grants ([`crate::protocol::http1::upgrade`]).
    pub granted: u8,
    /// Scratch of HTTP/2: frame type, frame flags, the search's state.
    pub scratch: [u8; 3],
    /// Bytes left in the frame being read.
    pub left: u64,
    /// The start of a frame header that was cut, `pos` bytes of it, little-endian.
    pub header: [u64; 2],
}

/// One direction of a connection: a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// [`CLAIMED`] and [`INBOX`]; changed by atomic instructions only.
    pub gate: u64,
    /// The sequence number expected next; valid with [`flag::SYNCED`].
    pub next_seq: u32,
    /// Kept segments that are not due yet: index of the first plus one, 0 without any.
    pub kept: u32,
    /// Coarse monotonic nanoseconds of the last payload, 0 without any.
    pub payload_ns: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// What its parser remembers.
    pub parser: Parser,
}

const _: () = assert!(size_of::<Parser>() == 32 && size_of::<Stream>() == 64);

impl Parser {
    /// Begins anew in a mode and state, with these [`flag`]s beside those of the stream.
    #[inline(always)]
    pub const fn begin(&mut self, mode: u8, state: u8, flags: u8) {
        self.mode = mode;
        self.state = state;
        self.pos = 0;
        self.flags = (self.flags & flag::OF_STREAM) | flags;
        self.granted = 0;
        self.scratch = [0; 3];
        self.left = 0;
    }

    /// Skips `bytes` that nobody can read; false if the parser does not know any more what comes next.
    #[inline(always)]
    pub const fn skip_unread(&mut self, bytes: u64) -> bool {
        if self.mode == mode::OFF {
            return true;
        }
        if self.mode == mode::GUESS {
            // What nobody has taken for anything yet cannot be lost track of.
            if bytes <= self.left {
                self.left -= bytes;
            } else {
                self.guess_anew();
            }
            return true;
        }
        let payload = self.is_payload(bytes);
        if payload {
            self.left -= bytes;
        }
        payload
    }

    /// Guesses from the next segment on; how often that has failed stays known.
    #[inline(always)]
    pub const fn guess_anew(&mut self) {
        self.mode = mode::GUESS;
        self.state = 0;
        self.pos = 0;
        self.granted = 0;
        self.scratch = [0; 3];
        self.left = 0;
    }

    /// Whether none of the next `bytes` need be read: all are payload of the frame being read, or there is no parser.
    #[inline(always)]
    #[must_use]
    pub const fn needs_none_of(&self, bytes: u64) -> bool {
        self.mode == mode::OFF || self.is_payload(bytes)
    }

    /// Whether the next `bytes` are payload of the frame being read, which is skipped.
    #[inline(always)]
    const fn is_payload(&self, bytes: u64) -> bool {
        self.flags & flag::FRAMES != 0
            && self.pos == 0
            && self.state & STOPS == 0
            && bytes <= self.left
    }
}

/// In [`Parser::state`] of a mode that follows frames: the payload begins with something that has to be read.
pub const STOPS: u8 = 0x80;

/// What the words of a stream mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let hash = hash.number(size_of::<Stream>() as u64).number(CLAIMED).number(INBOX);
    let flags = [flag::SYNCED, flag::SWITCHING, flag::INTERIM, flag::PARKED, flag::FRAMES, STOPS];
    hash.bytes(&[mode::OFF, mode::WAIT]).bytes(&flags).number(order::STOP as u64)
}
