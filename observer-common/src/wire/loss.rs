//! Everything that can be lost, each with a counter. Losing details is allowed; losing them silently is not.

/// Index into the kernel's loss counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Loss {
    /// A connection record did not fit into the ring buffer.
    RingFull = 0,
    /// No free cell was left; the connection is counted in the overflow cell.
    TableFull = 1,
    /// The kernel refused socket storage (memory); the connection is not counted at all.
    StorageRefused = 2,
    /// An established socket ended without one segment through the cgroup hooks; it is not counted in any cell.
    Unattributed = 3,
    /// The parser of a stream lost track: bytes that had to be read were not there, or could not be kept until their turn.
    Gap = 4,
    /// A segment whose headers could not be read.
    Malformed = 5,
    /// A connection's end did not find it where it was counted: it was in no cell, and stays active in the one that it was
    /// opened in; or it was over and still in one when its socket went, which then counts its end.
    MisplacedEnd = 6,
    /// A socket has gone while its connection was still counted as active: no hook has told the end. Counted by the daemon,
    /// which finds it by a reconciliation of the sockets' states.
    UnseenEnd = 7,
    /// A connection has ended for which other payload bytes were counted as received than the kernel has: bytes that the hooks have
    /// not seen in order, which are counted then, or bytes that were counted and that TCP has not taken.
    Miscounted = 8,
}

/// Number of loss counters in the kernel's array.
pub const LOSSES: usize = 9;

impl Loss {
    /// Every loss, in the order of the counters.
    pub const ALL: [Self; LOSSES] = [
        Self::RingFull,
        Self::TableFull,
        Self::StorageRefused,
        Self::Unattributed,
        Self::Gap,
        Self::Malformed,
        Self::MisplacedEnd,
        Self::UnseenEnd,
        Self::Miscounted,
    ];

    /// The text used as a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::TableFull => "table_full",
            Self::StorageRefused => "storage_refused",
            Self::Unattributed => "unattributed",
            Self::Gap => "gap",
            Self::Malformed => "malformed",
            Self::MisplacedEnd => "misplaced_end",
            Self::UnseenEnd => "unseen_end",
            Self::Miscounted => "miscounted",
        }
    }
}

/// What the numbers of the losses mean.
pub(crate) const fn meaning(mut hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    let mut i = 0;
    while i < LOSSES {
        hash = hash.text(Loss::ALL[i].label());
        i += 1;
    }
    hash
}
