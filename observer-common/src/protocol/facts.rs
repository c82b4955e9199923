//! What both streams of a connection know: one word, changed as a whole, by compare-and-swap in the kernel.

/// [`Facts::unanswered`] is not known. What asks for an upgrade may then be part of a body that quotes a request: only
/// the very next response can grant it.
pub const UNCOUNTED: u8 = u8::MAX;

/// What both streams of a connection know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// [`Protocol`](super::Protocol).
    pub protocol: u8,
    /// [`upgrade`](super::http1::upgrade) bits that a request asked for and no response has answered.
    pub asked: u8,
    /// Requests since the last response segment, the one being read not included; their responses come first.
    /// [`UNCOUNTED`] when there was anything but `GET` heads.
    pub unanswered: u8,
    /// Final responses to come before the one to the request that asked for an upgrade.
    pub before_answer: u8,
    /// What either side has said in the protocol; bits that belong to its room.
    pub said: u8,
    /// What the streams claim, of a connection that was adopted: [`super::guess::claim`].
    pub claims: [u8; 2],
    /// [`GUESSING`], or 0.
    pub guessing: u8,
}

/// In [`Facts::guessing`]: the connection was adopted, and what it speaks is not known yet. Whoever takes it away has settled
/// that, and counts it.
pub const GUESSING: u8 = 1;

impl Facts {
    /// From the word that the connection's state holds.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            protocol: word as u8,
            asked: (word >> 8) as u8,
            unanswered: (word >> 16) as u8,
            before_answer: (word >> 24) as u8,
            said: (word >> 32) as u8,
            claims: [(word >> 40) as u8, (word >> 48) as u8],
            guessing: (word >> 56) as u8,
        }
    }

    /// As the connection's state holds them.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.protocol as u64
            | (self.asked as u64) << 8
            | (self.unanswered as u64) << 16
            | (self.before_answer as u64) << 24
            | (self.said as u64) << 32
            | (self.claims[0] as u64) << 40
            | (self.claims[1] as u64) << 48
            | (self.guessing as u64) << 56
    }

    /// What is known of a connection that is being adopted.
    #[must_use]
    pub const fn adopted() -> Self {
        Self { guessing: GUESSING, ..Self::from_word(0) }
    }

    /// The head of a request is over.
    #[inline(always)]
    pub const fn plain_request(&mut self) {
        if self.unanswered < UNCOUNTED - 1 {
            self.unanswered += 1;
        }
    }
}
