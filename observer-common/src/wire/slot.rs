//! Slots of 1 KiB, in one table with one life cycle: all counters of one (cgroup, role, protocol, server port, path).
//!
//! Such a combination is a *cell*. It has a base slot ([`BASE`]), and under it, made when there is something to count, a slot
//! for ends ([`ENDS`]) and one for the counters of its protocol (those in [`crate::protocol`]). All words are written by
//! atomic adds only.
//!
//! A connection is born into the cell of its birth protocol (`tcp`) and moves when its protocol is recognised. Five words keep
//! the books of that, so that at rest, for every cell, `active = opened + adopted + entered - left - closed`, and over all
//! cells `sum(opened + adopted) = sum(closed) + sum(active)`: every connection is opened or adopted once, and closed once.

use core::mem::offset_of;

use crate::{
    counters,
    counters::{Bounds, Family, Level, Owner, Rows, Zeros},
    label::{Direction, Failure, Reason, ResetCause, Side, Timeout},
    meaning::Meaning,
};

pub use crate::counters::{SHARE_WORDS, SHARES, SHARES_AT, SLOT_WORDS};

/// What a cell counts for. 16 bytes, no padding: it is the key of a kernel hash map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CellKey {
    /// The socket's cgroup (v2) id; 0 is never a cgroup.
    pub cgroup: u64,
    /// The server's port: local for a server's socket, remote for a client's; 0 when ports are not told apart.
    pub port: u16,
    /// [`crate::label::Role`].
    pub role: u8,
    /// [`Protocol`].
    pub protocol: u8,
    /// [`crate::label::Path`].
    pub path: u8,
    /// Always 0.
    pub zero: u8,
    /// [`RETIRED`], or 0.
    pub state: u16,
}

/// [`CellKey::state`] of a cell that is about to be freed: no key that anybody looks for equals it, so that a listener's
/// children, which inherit the cell's index, are born into another one.
pub const RETIRED: u16 = 1;

/// A slot: what it is, and its counters.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// Of a base slot: what the cell counts for, written once, before the index is published. All zeroes in a free slot and
    /// in those that are under a base slot.
    pub key: CellKey,
    /// Of a base slot: the index of the slot for ends under it, 0 as long as there is none. Set by compare-and-swap.
    pub ends: u32,
    /// Of a base slot: the index of the slot of its protocol, likewise.
    pub protocol: u32,
    /// The counters, from word [`HEADER_WORDS`] on.
    pub counters: [u64; SLOT_WORDS - HEADER_WORDS],
}

/// Words before the counters.
pub const HEADER_WORDS: usize = 3;

const _: () = assert!(size_of::<CellKey>() == 16);
const _: () = assert!(size_of::<Slot>() == 1024 && size_of::<Slot>() == 8 * SLOT_WORDS);
const _: () = assert!(offset_of!(Slot, counters) == 8 * HEADER_WORDS);

/// Slots in the table, unless the daemon asks for another number: 16 MiB.
pub const DEFAULT_SLOTS: u32 = 16_384;

/// Words that are kept beside the table.
pub const TABLE_WORDS: usize = 4;

/// Base slots at the start of the table that take what finds no cell of its own, one per role and protocol, whatever the path.
/// As many slots for ends follow, and then as many for protocols.
pub const OVERFLOW_CELLS: u32 = 24;
/// Slots at the start of the table that are never free.
pub const RESERVED_SLOTS: u32 = 3 * OVERFLOW_CELLS;

/// The overflow cell of a role and protocol; the index is always below [`OVERFLOW_CELLS`].
#[inline(always)]
#[must_use]
pub const fn overflow_cell(role: u8, protocol: u8) -> u32 {
    let role = if role < 2 { role as u32 } else { 2 };
    role << 3 | (protocol as u32 & 7)
}

/// Whether so much of a table is in use that ports are no longer told apart in new cells: what is left belongs to cgroups that
/// have none yet.
#[inline(always)]
#[must_use]
pub const fn is_nearly_full(used: u64, capacity: u64) -> bool {
    used * 32 >= capacity * 31
}

/// Combinations of role, protocol, port and path that one cgroup may have cells for; further ones do not tell ports apart. So no pod
/// can take the table, or the scrape, from the others.
pub const CELLS_PER_CGROUP: u32 = 64;
/// Cgroups whose cells are counted.
pub const CGROUPS: usize = 8_192;

counters! {
    /// What every cell has.
    BASE: Owner::Cell, from 3;
    words {
        /// Segments with payload that were sent again.
        RETRANSMITS: 1 => Family {
            name: "tcp_retransmits",
            help: "Segments with payload that were sent again.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Time-outs.
        TIMEOUTS: 4 by [Timeout::LABEL] => Family {
            name: "tcp_timeouts",
            help: "Connections, or attempts to connect, that ran out of time.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        // The first cache line, which each count reads and few write, ends here.

        /// Connections born here.
        OPENED: 1;
        /// Connections that were older than the programs and were found here.
        ADOPTED: 1;
        /// Connections that came from another cell by a change of protocol.
        ENTERED: 1;
        /// Connections that went to another cell by a change of protocol.
        LEFT: 1;
        /// Connections here now; two's complement, so that a racing reader may see a small negative number.
        ACTIVE: 1;
        /// Resets received.
        RESETS_RECEIVED: 1;
        /// Times that the parser of a stream lost track: bytes could not be read that had to be.
        DESYNCS: 1 => Family {
            name: "tcp_stream_desyncs",
            help: "Times that the parser of a stream lost track, since bytes could not be read that had to be.",
            rows: Rows::Series,
            level: Level::Full,
            zeros: Zeros::None,
        };
        /// Of the connections that were found here: those of which it is known by now what they speak, or that it is nothing
        /// that is recognised, and those that are over.
        SETTLED: 1;
        /// Connections that ended here.
        CLOSED: 8 by [Reason::LABEL] => Family {
            name: "tcp_connections_closed",
            help: "Connections that ended, by the protocol they spoke last and by how they ended.",
            rows: Rows::Series,
            level: Level::Standard,
            // A client that resets does so on purpose; of a server whose clients vanish, the protocol's own errors tell.
            zeros: Zeros::Of {
                server: &[Reason::ResetLocal as usize, Reason::ResetPeer as usize],
                client: &[Reason::ResetPeer as usize, Reason::Timeout as usize],
            },
        };
        /// Failed attempts to connect.
        FAILED: 4 by [Failure::LABEL] => Family {
            name: "tcp_connect_failures",
            help: "Attempts to connect that failed, by reason.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::Attempts(&[Failure::Refused as usize, Failure::TimedOut as usize]),
        };
        /// Connections that came here because they were recognised in mid-stream.
        RECOGNISED: 1 => Family {
            name: "tcp_connections_recognised",
            help: "Adopted connections whose protocol was recognised in mid-stream.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Nothing.
        ROOM_2: 1;
        /// Nothing.
        ROOM_3: 2;
        /// Lifetimes of the connections that ended here, adopted ones left out.
        LIFETIME: 1 histogram &LIFETIMES => Family {
            name: "tcp_connection_duration_seconds",
            help: "Lifetimes of connections that ended, from the established handshake to the end of the socket.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Sampled smoothed round-trip times.
        ROUND_TRIP: 1 histogram &ROUND_TRIPS => Family {
            name: "tcp_round_trip_seconds",
            help: "Smoothed round-trip times as the kernel estimates them, sampled with payload, at most once a second per connection.",
            rows: Rows::Endpoint,
            level: Level::Full,
            zeros: Zeros::None,
        };
    }
    shares {
        /// Payload bytes.
        BYTES: 2 by [Direction::LABEL] => Family {
            name: "tcp_payload_bytes",
            help: "Payload bytes of connections, retransmissions counted once.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::None,
        };
    }
}

counters! {
    /// What a cell has in which a connection has ended, or from which a reset was sent.
    ENDS: Owner::Ends, from 3;
    words {
        /// Closes by the peer and resets after at least [`IDLE_CLOSE_NS`] of silence.
        IDLE_CLOSES: 1 => Family {
            name: "tcp_idle_closes",
            help: "Closes by the peer and resets after 5 s or more without payload, less 50 ms for timers that fire early.",
            rows: Rows::Series,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Resets sent.
        RESETS_SENT: 16 by [ResetCause::LABEL];
        /// Times idle at the end.
        IDLE: 2 by [Side::LABEL] histogram &IDLE_TIMES => Family {
            name: "tcp_connection_idle_seconds",
            help: "Time since the last payload in either direction when a connection was ended, by the side that ended it.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Times from adoption to the end, of the adopted connections that ended here.
        ADOPTED_LIFETIME: 1 histogram &LIFETIMES => Family {
            name: "tcp_adopted_connection_duration_seconds",
            help: "Times from adoption to the end, of adopted connections that ended: how long they lived at least.",
            rows: Rows::Endpoint,
            level: Level::Full,
            zeros: Zeros::None,
        };
    }
    shares {}
}

/// From this silence on, the end of a connection by the peer or by a reset counts as an idle close: 5 s, less what the
/// timer of a proxy that cuts after 5 s may be early by, which counts from before its own last write.
pub const IDLE_CLOSE_NS: u64 = 4_950_000_000;

/// Lifetime buckets: bucket `i` counts lifetimes in `(2^(i-11), 2^(i-10)]` seconds, the first everything up to 2^-10 s,
/// the last everything above 2^17 s.
pub const LIFETIME_BUCKETS: usize = 32;
/// Buckets that are in use: 28 bounds from 2^-10 s to 2^17 s, and one for what is longer.
pub const LIFETIME_USED: usize = 29;

/// Buckets of lifetimes, see [`lifetime_bucket`].
pub static LIFETIMES: Bounds = Bounds {
    words: LIFETIME_BUCKETS as u16,
    upper: &powers_of_two::<{ LIFETIME_USED - 1 }>(1.0 / 1024.0),
    powers_of_two: true,
};

/// Buckets of round-trip times, see [`rtt_bucket`].
pub static ROUND_TRIPS: Bounds = Bounds {
    words: RTT_BUCKETS as u16,
    upper: &powers_of_two::<{ RTT_BUCKETS - 1 }>(1.0 / 65_536.0),
    powers_of_two: true,
};

/// Buckets of idle times, see [`idle_bucket`].
pub static IDLE_TIMES: Bounds = Bounds {
    words: IDLE_BUCKETS as u16,
    upper: &{
        let mut bounds = [0.0; IDLE_BOUNDS.len()];
        let mut i = 0;
        while i < bounds.len() {
            bounds[i] = IDLE_BOUNDS[i] as f64;
            i += 1;
        }
        bounds
    },
    powers_of_two: false,
};

const fn powers_of_two<const N: usize>(first: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
}

/// Upper bounds of the idle buckets in seconds: a second below and a second above each time-out of the field, so that a
/// proxy that cuts at 60 s shows as a spike in the bucket from 59 to 61.
pub const IDLE_BOUNDS: [u32; 27] = [
    1, 4, 6, 9, 11, 29, 31, 59, 61, 74, 76, 119, 121, 239, 241, 299, 301, 349, 351, 599, 601, 899,
    901, 1799, 1801, 3599, 3601,
];
/// One bucket for each bound, one for what is longer; a power of two.
pub const IDLE_BUCKETS: usize = 32;
/// Buckets that are in use.
pub const IDLE_USED: usize = IDLE_BOUNDS.len() + 1;

/// Times are below 2^63 nanoseconds, 292 years.
const NS_MASK: u64 = u64::MAX >> 1;

/// [`IDLE_BOUNDS`] in nanoseconds.
static IDLE_BOUNDS_NS: [u64; IDLE_BUCKETS] = {
    let mut bounds = [NS_MASK; IDLE_BUCKETS];
    let mut i = 0;
    while i < IDLE_BOUNDS.len() {
        bounds[i] = IDLE_BOUNDS[i] as u64 * 1_000_000_000;
        i += 1;
    }
    bounds
};

/// The bucket of an idle time in nanoseconds; always below [`IDLE_USED`].
#[inline(always)]
#[must_use]
pub fn idle_bucket(ns: u64) -> u32 {
    // Most ends come soon after the last payload.
    if ns <= IDLE_BOUNDS_NS[0] {
        return 0;
    }
    // The mask changes nothing, and shows the verifier that the index is inside.
    let above = |i: usize| exceeds(ns & NS_MASK, IDLE_BOUNDS_NS[i & (IDLE_BUCKETS - 1)]) as usize;
    let eights = 8 * (above(7) + above(15) + above(23));
    let ones: usize = (0..7).map(|i| above(eights + i)).sum();
    (eights + ones) as u32
}

/// Round-trip time buckets: bucket `i` counts times in `(2^(i-17), 2^(i-16)]` seconds, the first everything up to 2^-16 s
/// (15 microseconds), the last what is longer than 4 s.
pub const RTT_BUCKETS: usize = 20;

/// The bucket of a round-trip time in microseconds; always below [`RTT_BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn rtt_bucket(us: u32) -> u32 {
    if us > 4_000_000 {
        return (RTT_BUCKETS - 1) as u32;
    }
    // The bound of bucket `i`, 2^(i-16) s, is 10^6 * 2^i / 2^16 us: both sides are scaled by 2^16.
    let scaled = (us as u64) << 16;
    let bound = 1_000_000_u64;
    let eights = 8 * (exceeds(scaled, bound << 7) + exceeds(scaled, bound << 15));
    let bound = bound << (eights & 31);
    let mut ones = 0;
    let mut i = 0;
    while i < 7 {
        ones += exceeds(scaled, bound << i);
        i += 1;
    }
    (eights + ones) as u32
}

/// The bucket of a lifetime in nanoseconds; always below [`LIFETIME_USED`].
///
/// The bound of bucket `i`, 2^(i-10) s, is 10^9 * 2^i / 2^10 ns: both sides are scaled by 2^10, so that the comparison is
/// exact in integers.
#[inline(always)]
#[must_use]
pub const fn lifetime_bucket(ns: u64) -> u32 {
    // A lifetime above 2^17 s (36 h) lands in the last bucket whatever its exact length.
    if ns > 131_072_000_000_000 {
        return (LIFETIME_USED - 1) as u32;
    }
    let scaled = ns << 10;
    let bound = 1_000_000_000_u64;
    let eights = 8
        * (exceeds(scaled, bound << 7)
            + exceeds(scaled, bound << 15)
            + exceeds(scaled, bound << 23));
    let bound = bound << (eights & 31);
    let mut ones = 0;
    let mut i = 0;
    while i < 7 {
        ones += exceeds(scaled, bound << i);
        i += 1;
    }
    (eights + ones) as u32
}

/// 1 if `value` is greater than `bound`, else 0; both below 2^63. By arithmetic: the verifier follows both sides of every
/// comparison, and five in a row make 32 paths through everything behind them. Its results are to be summed up, not put
/// together bit by bit: a verifier before 6.8 forgets all it knows when two registers are combined by OR.
#[inline(always)]
const fn exceeds(value: u64, bound: u64) -> u64 {
    bound.wrapping_sub(value) >> 63
}

/// What the words of the table mean.
#[must_use = "a hash"]
pub const fn meaning(hash: Meaning) -> Meaning {
    let hash = ENDS.meaning(BASE.meaning(hash));
    let hash = hash.number(SHARES as u64).number(RESERVED_SLOTS as u64);
    let hash = hash.number(CELLS_PER_CGROUP as u64).number(CGROUPS as u64).number(IDLE_CLOSE_NS);
    let hash = hash.number(offset_of!(Slot, ends) as u64).number(offset_of!(Slot, protocol) as u64);
    let hash = hash.number(offset_of!(CellKey, path) as u64).number(TABLE_WORDS as u64);
    hash.number(size_of::<CellKey>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counter;
    use proptest::prelude::*;

    fn naive(ns: u64) -> u32 {
        (0..28).find(|i| u128::from(ns) << 10 <= 1_000_000_000_u128 << i).unwrap_or(28)
    }

    #[test]
    fn bounds_are_inclusive() {
        for i in 0..28_u32 {
            let bound = (1_000_000_000_u64 << i) >> 10;
            assert_eq!(lifetime_bucket(bound), naive(bound), "at {bound}");
            assert_eq!(lifetime_bucket(bound + 1), naive(bound + 1), "above {bound}");
        }
        assert_eq!(lifetime_bucket(0), 0);
        assert_eq!(lifetime_bucket(1_000_000_000), 10);
        assert_eq!(lifetime_bucket(u64::MAX), 28);
    }

    #[test]
    fn idle_and_rtt_buckets() {
        for ns in [0, 1, 5, 10, 30, 60, 3600, 4000].map(|s| s * 1_000_000_000) {
            let naive =
                IDLE_BOUNDS.iter().filter(|&&bound| u64::from(bound) * 1_000_000_000 < ns).count();
            assert_eq!(idle_bucket(ns) as usize, naive, "{ns}");
        }
        assert_eq!(idle_bucket(u64::MAX - 1) as usize, IDLE_USED - 1);
        assert_eq!(
            [0, 15, 16, 30, 31, 4_000_000, 4_000_001, u32::MAX].map(rtt_bucket),
            [0, 0, 1, 1, 2, 18, 19, 19]
        );
    }

    proptest! {
        #[test]
        fn idle_bucket_equals_the_definition(ns in 0_u64..5_000_000_000_000) {
            let naive = IDLE_BOUNDS.iter().filter(|&&bound| u64::from(bound) * 1_000_000_000 < ns).count();
            prop_assert_eq!(idle_bucket(ns) as usize, naive);
        }

        #[test]
        fn rtt_bucket_equals_the_definition(us in prop_oneof![0_u32..5_000_000, any::<u32>()]) {
            let naive = (0..19_u32).filter(|i| u64::from(us) << 16 > 1_000_000 << i).count();
            prop_assert_eq!(rtt_bucket(us) as usize, naive);
        }

        #[test]
        fn bucket_equals_the_definition(ns in 0_u64..200_000_000_000_000) {
            prop_assert_eq!(lifetime_bucket(ns), naive(ns));
        }
    }

    #[test]
    fn bounds_are_those_of_the_buckets() {
        assert_eq!(
            (LIFETIMES.used(), LIFETIMES.upper[10], LIFETIMES.upper[27]),
            (29, 1.0, 131_072.0)
        );
        assert_eq!(
            (ROUND_TRIPS.used(), ROUND_TRIPS.upper[16], ROUND_TRIPS.upper[18]),
            (20, 1.0, 4.0)
        );
        assert_eq!((IDLE_TIMES.used(), IDLE_TIMES.upper[7]), (IDLE_USED, 59.0));
    }

    #[test]
    fn the_default_table_holds_a_full_node() {
        // 110 pods with 50 combinations each, and 10,000 slots under them.
        let used = u64::from(RESERVED_SLOTS) + 110 * 50 + 10_000;
        assert!(!is_nearly_full(used, u64::from(DEFAULT_SLOTS)));
        assert!(is_nearly_full(u64::from(DEFAULT_SLOTS) - 500, u64::from(DEFAULT_SLOTS)));
    }

    #[test]
    fn no_two_counters_share_a_word() {
        for block in [&BASE, &ENDS] {
            let mut seen = [false; SLOT_WORDS];
            seen[..HEADER_WORDS].fill(true);
            for word in block.counters.iter().flat_map(Counter::words) {
                assert!(!std::mem::replace(&mut seen[word], true), "{word} of {:?}", block.owner);
            }
        }
    }
}
