//! One direction of a connection: where it is, who works on it, and what its parser remembers.

/// A gate with this bit is claimed: only the program that has set the bit reads and writes the rest of the stream. The lower
/// half of the gate is the *inbox*, a list of kept segments that others have handed over meanwhile.
pub const CLAIMED: u64 = 1 << 63;
/// The inbox of a gate: index of the first kept segment, plus one; 0 without any.
pub const INBOX: u64 = 0xffff_ffff;

/// The parser that a stream's next bytes go to.
pub mod mode {
    /// Nothing more to learn from this stream.
    pub const OFF: u8 = 0;
    /// The automaton of heads, which also recognises the first bytes of everything else.
    pub const HTTP1: u8 = 1;
    /// Frame follower of HTTP/2, until the first request is known to be gRPC or not.
    pub const HTTP2: u8 = 2;
    /// Frame follower of WebSocket.
    pub const WEBSOCKET: u8 = 3;
    /// The header of the PROXY protocol, version 2.
    pub const PROXY: u8 = 4;
    /// No parser: what comes is kept until the answer to an upgrade tells what it is.
    pub const WAIT: u8 = 5;
    /// What the bytes are is guessed ([`crate::protocol::guess`]).
    pub const GUESS: u8 = 7;
}

/// Places of the programs that are reached by tail calls. A parser of a packet's bytes has the number of its [`mode`].
pub mod program {
    /// Added to the number of a mode: the parser of a kept segment's bytes, in a small block.
    pub const OF_SMALL: u32 = 8;
    /// Likewise, in a large block.
    pub const OF_LARGE: u32 = 16;
    /// Keeps a segment.
    pub const KEEP: u32 = 24;
    /// Goes on with kept segments whose turn has come.
    pub const DRAIN: u32 = 25;
    /// Puts a segment in order that is not simply the next.
    pub const ORDER: u32 = 26;
    /// Adopts a connection that is older than the programs, at its first segment.
    pub const ADOPT: u32 = 27;
    /// Draws the conclusions from what a segment was taken for.
    pub const CONCLUDE: u32 = 28;
    /// Places in all.
    pub const PLACES: usize = 32;
}

/// What one direction asks of the other, whose parser it must not touch. Taken by whoever works on that stream next.
pub mod order {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// Of the response stream: nothing more is to be learned from it.
    pub const STOP: u32 = 1;
    /// Of the response stream: a status line comes next that has to be read.
    pub const ANSWER: u32 = 2;
    /// Of the request stream: WebSocket frames from here on.
    pub const WEBSOCKET: u32 = 3;
    /// Of the request stream: a connection preface comes next.
    pub const PREFACE: u32 = 4;
    /// Of the request stream: the upgrade was refused, requests go on.
    pub const REQUESTS: u32 = 5;
    /// Of the request stream: a response has come before its first request was recognised.
    pub const RECOGNISED: u32 = 6;
    /// Of either stream: what it was taken for is right, and it is the client's.
    pub const GUESSED_CLIENT: u32 = 7;
    /// Likewise, and it is the server's.
    pub const GUESSED_SERVER: u32 = 8;
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
    /// Skips `bytes` that nobody can read; false if the parser does not know any more what comes next.
    #[inline(always)]
    pub const fn skip_unread(&mut self, bytes: u64) -> bool {
        match self.mode {
            mode::OFF => true,
            mode::GUESS => {
                // What nobody has taken for anything yet cannot be lost track of.
                if bytes <= self.left {
                    self.left -= bytes;
                } else {
                    self.guess_anew();
                }
                true
            }
            mode::WEBSOCKET | mode::PROXY if self.pos == 0 && bytes <= self.left => {
                self.left -= bytes;
                true
            }
            _ => false,
        }
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
        self.mode == mode::OFF
            || (self.mode == mode::WEBSOCKET && self.pos == 0 && bytes <= self.left)
    }
}

/// What the words of a stream mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let hash = hash.number(size_of::<Stream>() as u64).number(CLAIMED).number(INBOX);
    let modes = [
        mode::OFF,
        mode::HTTP1,
        mode::HTTP2,
        mode::WEBSOCKET,
        mode::PROXY,
        mode::WAIT,
        mode::GUESS,
    ];
    let flags = [flag::SYNCED, flag::SWITCHING, flag::INTERIM, flag::PARKED];
    let orders = [
        order::STOP,
        order::ANSWER,
        order::WEBSOCKET,
        order::PREFACE,
        order::REQUESTS,
        order::RECOGNISED,
        order::GUESSED_CLIENT,
        order::GUESSED_SERVER,
    ];
    hash.bytes(&modes).bytes(&flags).words(&orders)
}
