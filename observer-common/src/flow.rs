//! What the bytes of one connection have told so far: the protocol state machine above the parsers.
//!
//! A connection has two streams, named by what HTTP sends in them: `request` from client to server, `response` back.
//! Each stream is in a [`mode`] that names the parser its next bytes go to. The kernel program looks at the mode first:
//! a stream in [`mode::OFF`] costs nothing more.
//!
//! The kernel gives in-order bytes of one stream to the parser of its mode, at most a chunk at a time, and lets the flow
//! draw the conclusions, until the segment's bytes are consumed or the stream wants no more.

use crate::protocol::{
    Protocol,
    http1::{self, bit},
    http2, websocket,
};

/// The parser that a stream's next bytes go to.
pub mod mode {
    /// Nothing more to learn from this stream.
    pub const OFF: u8 = 0;
    /// The HTTP/1 automaton, which also recognises the first bytes of everything else.
    pub const HTTP1: u8 = 1;
    /// Frame follower of HTTP/2, until the first request is known to be gRPC or not.
    pub const HTTP2: u8 = 2;
    /// Frame follower of WebSocket.
    pub const WEBSOCKET: u8 = 3;

    /// Not a mode of a stream: the kernel program that keeps a segment which came too early.
    pub const KEEP: u8 = 4;
    /// Not a mode of a stream: the kernel program that feeds kept segments once the gap is closed.
    pub const REPLAY: u8 = 5;
    /// Not a mode of a stream: the kernel program that follows WebSocket frames in a kept segment.
    pub const KEPT_FRAMES: u8 = 6;
}

/// Bits of [`Stream::flags`].
pub mod stream_flag {
    /// `next_seq` is valid.
    pub const SYNCED: u8 = 1;
    /// The response head being read is a 101.
    pub const SWITCHING: u8 = 2;
    /// The response head being read is an interim one (1xx other than 101).
    pub const INTERIM: u8 = 4;
    /// Four bits, one for each place that holds a segment which came too early.
    pub const KEPT: u8 = 0xf0;
    /// Position of the lowest bit of [`KEPT`].
    pub const KEPT_SHIFT: u8 = 4;
}

/// What a request or a 101 response named in its `Upgrade` header; bits, since a request may name several.
pub mod upgrade {
    /// `websocket`
    pub const WEBSOCKET: u8 = 1;
    /// `h2c`
    pub const H2C: u8 = 2;
    /// Any other token.
    pub const OTHER: u8 = 4;
}

/// One direction of a connection: 64 bytes, a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// The sequence number expected next; valid with [`stream_flag::SYNCED`].
    pub next_seq: u32,
    /// [`mode`].
    pub mode: u8,
    /// The automaton's state within the mode.
    pub state: u8,
    /// Position within the element being read (a frame header).
    pub pos: u8,
    /// [`stream_flag`].
    pub flags: u8,
    /// Bytes left in the frame being read.
    pub left: u64,
    /// Scratch of the frame followers: frame type and flags, the search's state, opcode.
    pub aux: [u8; 8],
    /// Coarse monotonic nanoseconds of the last payload, 0 without any.
    pub payload_ns: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Payload bytes that were skipped by a segment ahead of its predecessor and are still to come.
    pub hole: u32,
    /// Always 0.
    pub zero: [u32; 5],
}

const _: () = assert!(size_of::<Stream>() == 64);

/// [`Flow::unanswered`] is not known. What asks for an upgrade may then be part of a body that quotes a request: only
/// the very next response can grant it.
pub const UNCOUNTED: u8 = u8::MAX;

/// The protocol state of one connection.
///
/// Its two streams pass on different processors, each of which writes its own. They are two lines apart from each other and
/// from what both read: processors fetch a line's neighbours with it, and would take them from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// [`Protocol`].
    pub protocol: u8,
    /// [`upgrade`] bits that a request asked for and no response has answered.
    pub asked: u8,
    /// [`upgrade`] bits that the 101 response being read has named.
    pub granted: u8,
    /// Requests since the last response segment, the one being read not included; their responses come first.
    /// [`UNCOUNTED`] when there was anything but `GET` heads.
    pub unanswered: u8,
    /// Final responses to come before the one to the request that asked for an upgrade.
    pub before_answer: u8,
    /// Always 0.
    pub zero: [u8; 3],
    /// Room.
    pub apart: [u64; 15],
    /// From client to server.
    pub request: Stream,
    /// Room.
    pub apart_too: [u64; 8],
    /// From server to client.
    pub response: Stream,
}

const _: () = assert!(size_of::<Flow>() == 320);

impl Flow {
    /// A connection of which nothing has been seen.
    #[inline(always)]
    pub fn start(&mut self) {
        let nothing = Self::default();
        self.take(&nothing);
        self.request.mode = mode::HTTP1;
        self.request.state = http1::REQUEST_FIRST;
        // Until the request stream decides, the response may: its request can have been missed (fast open).
        self.response.mode = mode::HTTP1;
        self.response.state = http1::RESPONSE_START;
    }

    /// Becomes what `other` is.
    #[inline(always)]
    pub const fn take(&mut self, other: &Self) {
        // Not as a whole: the room between would be copied, too.
        self.protocol = other.protocol;
        self.asked = other.asked;
        self.granted = other.granted;
        self.unanswered = other.unanswered;
        self.before_answer = other.before_answer;
        self.request = other.request;
        self.response = other.response;
    }

    /// The stream from client to server (`request`), or back.
    #[inline(always)]
    #[must_use]
    pub const fn stream(&self, request: bool) -> &Stream {
        if request { &self.request } else { &self.response }
    }

    /// As [`Self::stream`].
    #[inline(always)]
    pub const fn stream_mut(&mut self, request: bool) -> &mut Stream {
        if request { &mut self.request } else { &mut self.response }
    }

    /// Coarse monotonic nanoseconds of the last payload in either direction, 0 without any.
    #[inline(always)]
    #[must_use]
    pub const fn payload_ns(&self) -> u64 {
        let (one, other) = (self.request.payload_ns, self.response.payload_ns);
        if one > other { one } else { other }
    }

    /// The state in which [`http1::run`] takes up the next bytes of a stream in [`mode::HTTP1`].
    #[inline(always)]
    #[must_use]
    pub fn http1_state(&self, request: bool) -> u8 {
        self.stream(request).state
    }

    /// Draws the conclusions from a run over the request stream (`request`) or the response stream. Returns true if
    /// the rest of the bytes at hand, behind where the run ended, have nothing to tell.
    #[inline(always)]
    pub fn apply(&mut self, request: bool, run: http1::Run) -> bool {
        if request { self.request_run(run) } else { self.response_run(run) }
    }

    #[inline(always)]
    fn request_run(&mut self, run: http1::Run) -> bool {
        self.request.state = run.state;
        if run.bits & bit::HTTP1 != 0 {
            self.protocol = Protocol::Http1 as u8;
            self.response.mode = mode::OFF;
        }
        if run.bits & bit::UPGRADES != 0 {
            if self.asked == 0 {
                self.before_answer = if self.unanswered == UNCOUNTED { 0 } else { self.unanswered };
            }
            self.asked |= http1::upgrades(run.bits);
            self.response.mode = mode::HTTP1;
            self.response.state = http1::RESPONSE_START;
            self.response.flags &= !(stream_flag::SWITCHING | stream_flag::INTERIM);
        }
        if run.bits & (bit::TLS | bit::UNKNOWN) != 0 {
            if run.bits & bit::TLS != 0 {
                self.protocol = Protocol::Tls as u8;
            }
            self.request.mode = mode::OFF;
            self.response.mode = mode::OFF;
            return true;
        }
        if run.bits & bit::PREFACE != 0 {
            self.protocol = Protocol::Http2 as u8;
            self.request.mode = mode::HTTP2;
            http2::start(&mut self.request);
            self.response.mode = mode::OFF;
        }
        if run.bits & (bit::OTHER_METHOD | bit::BODY) != 0 {
            self.unanswered = UNCOUNTED;
        }
        if run.bits & bit::HEAD_END != 0 {
            self.plain_request();
        }
        if run.bits & bit::BODY != 0 {
            // Not a head that could ask for an upgrade: the rest of the segment is somebody's body.
            return true;
        }
        false
    }

    #[inline(always)]
    fn response_run(&mut self, run: http1::Run) -> bool {
        self.response.state = run.state;
        if run.bits & bit::STATUS_101 != 0 {
            self.response.flags |= stream_flag::SWITCHING;
            self.granted = 0;
        }
        if run.bits & bit::INTERIM != 0 {
            self.response.flags |= stream_flag::INTERIM;
        }
        if run.bits & bit::UPGRADES != 0 && self.response.flags & stream_flag::SWITCHING != 0 {
            self.granted |= http1::upgrades(run.bits);
        }
        if run.bits & bit::UNKNOWN != 0 {
            // Not the start of a response. With an upgrade pending this is the body of an earlier response (requests
            // were pipelined): the next segment may start the right one. Otherwise there is nothing to wait for.
            if self.asked == 0 {
                self.response.mode = mode::OFF;
            }
            self.response.state = http1::RESPONSE_START;
            return true;
        }
        if run.bits & bit::FINAL != 0 {
            self.recognise_http1();
            if self.asked != 0 && self.before_answer != 0 {
                // The response to an earlier of several pipelined requests; the next starts in a segment of its own.
                self.before_answer -= 1;
                self.response.state = http1::RESPONSE_START;
                return true;
            }
            self.asked = 0;
            self.response.mode = mode::OFF;
            return true;
        }
        if run.bits & bit::HEAD_END != 0 {
            if self.response.flags & stream_flag::SWITCHING != 0 {
                self.switch();
            } else {
                // An interim response is over; the next head follows.
                self.response.flags &= !stream_flag::INTERIM;
                self.response.state = http1::RESPONSE_START;
            }
        }
        false
    }

    /// The head of a request is over.
    #[inline(always)]
    pub const fn plain_request(&mut self) {
        if self.unanswered < UNCOUNTED - 1 {
            self.unanswered += 1;
        }
    }

    /// A status line without a recognised request before it: HTTP/1 all the same.
    #[inline(always)]
    fn recognise_http1(&mut self) {
        if self.protocol == Protocol::Tcp as u8 {
            self.protocol = Protocol::Http1 as u8;
            self.request.state = http1::REQUEST_BODY;
        }
    }

    /// The head of a 101 is complete: the connection is now what the head named.
    #[inline(always)]
    fn switch(&mut self) {
        self.asked = 0;
        self.response.flags &= !stream_flag::SWITCHING;
        if self.granted & upgrade::WEBSOCKET != 0 {
            self.protocol = Protocol::WebSocket as u8;
            websocket::start(&mut self.request);
            websocket::start(&mut self.response);
            self.request.mode = mode::WEBSOCKET;
            self.response.mode = mode::WEBSOCKET;
        } else if self.granted & upgrade::H2C != 0 {
            self.protocol = Protocol::Http2 as u8;
            // The client sends the connection preface next (RFC 7540 section 3.2).
            self.request.mode = mode::HTTP1;
            self.request.state = http1::REQUEST_FIRST;
            self.response.mode = mode::OFF;
        } else {
            self.protocol = Protocol::Upgrade as u8;
            self.request.mode = mode::OFF;
            self.response.mode = mode::OFF;
        }
    }

    /// Bytes of a stream were missed. The request stream then waits for the next head; the response stream, when it
    /// was being read, for the next status line. Frame followers cannot find the next frame boundary and give up.
    #[inline(always)]
    pub fn resync(&mut self, request: bool) {
        if request {
            if self.request.mode == mode::HTTP1 {
                self.request.state = http1::REQUEST_BODY;
                // The request that was missed may have asked for an upgrade: let the response tell.
                if self.response.mode == mode::OFF && self.protocol == Protocol::Http1 as u8 {
                    self.response.mode = mode::HTTP1;
                    self.response.state = http1::RESPONSE_START;
                }
            } else {
                self.request.mode = mode::OFF;
            }
        } else if self.response.mode == mode::HTTP1 {
            self.response.state = http1::RESPONSE_START;
            self.response.flags &= !(stream_flag::SWITCHING | stream_flag::INTERIM);
        } else {
            self.response.mode = mode::OFF;
        }
    }
}

/// What the words of a flow mean.
pub(crate) const fn meaning(hash: crate::abi::Meaning) -> crate::abi::Meaning {
    hash.number(size_of::<Flow>() as u64)
}
