//! A cell: all counters of one (cgroup, role, protocol, server port), updated in the kernel with atomic adds.
//!
//! A connection is born into the cell of its birth protocol (`tcp`) and moves when its protocol is recognised. Four
//! words keep the books of that, so that at rest, for every cell, `active = opened + adopted + entered - left - closed`, and
//! over all cells `sum(opened + adopted) = sum(closed) + sum(active)`: every connection is opened or adopted once, and
//! closed once.

use core::mem::offset_of;

use crate::protocol::{FAILURES, REASONS, RESET_CAUSES};

/// What a cell counts for. 16 bytes, no padding: it is the key of a kernel hash map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CellKey {
    /// The socket's cgroup (v2) id; 0 is never a cgroup.
    pub cgroup: u64,
    /// The server's port: local for a server's socket, remote for a client's; 0 when ports are no longer told apart.
    pub port: u16,
    /// [`crate::protocol::Role`].
    pub role: u8,
    /// [`crate::protocol::Protocol`].
    pub protocol: u8,
    /// Always 0.
    pub zero: u32,
}

/// Lifetime buckets: bucket `i` counts lifetimes in `(2^(i-11), 2^(i-10)]` seconds, the first everything up to 2^-10 s,
/// the last everything above 2^17 s.
pub const LIFETIME_BUCKETS: usize = 32;
/// Buckets that are in use: 28 bounds from 2^-10 s to 2^17 s, and one for what is longer.
pub const LIFETIME_USED: usize = 29;

/// The counters of one cell, one page. All words are written by atomic adds only.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cell {
    /// Written once, before the index is published in the kernel's hash.
    pub key: CellKey,
    /// Connections born here.
    pub opened: u64,
    /// Connections that came from another cell by a change of protocol.
    pub entered: u64,
    /// Connections that went to another cell by a change of protocol.
    pub left: u64,
    /// Connections here now; two's complement, so that a racing reader may see a small negative number.
    pub active: u64,
    /// Connections that ended here, by [`crate::protocol::Reason`].
    pub closed: [u64; REASONS],
    /// Sum of the lifetimes of the connections that ended here, nanoseconds.
    pub lifetime_sum_ns: u64,
    /// WebSocket protocol errors: frames that violate RFC 6455 and closes with an error code.
    pub errors: u64,
    /// Lifetimes of the connections that ended here, see [`lifetime_bucket`].
    pub lifetime: [u64; LIFETIME_BUCKETS],
    /// Segments sent again.
    pub retransmits: u64,
    /// Resets received.
    pub resets_received: u64,
    /// Resets sent, by [`crate::protocol::ResetCause`].
    pub resets_sent: [u64; RESET_CAUSES],
    /// Time-outs, by [`crate::protocol::Timeout`].
    pub timeouts: [u64; FAILURES],
    /// Failed attempts to connect, by [`crate::protocol::Failure`].
    pub failures: [u64; FAILURES],
    /// Closes by the peer and resets after at least [`IDLE_CLOSE_NS`] of silence.
    pub idle_closes: u64,
    /// Sum of the idle times at the end, nanoseconds, by [`crate::protocol::Reason`].
    pub idle_sum_ns: [u64; REASONS],
    /// Times idle at the end, by [`crate::protocol::Reason`], see [`idle_bucket`].
    pub idle: [[u64; IDLE_BUCKETS]; REASONS],
    /// Sum of the sampled round-trip times, nanoseconds.
    pub rtt_sum_ns: u64,
    /// Sampled smoothed round-trip times, see [`rtt_bucket`].
    pub rtt: [u64; RTT_BUCKETS],
    /// Connections that were older than the programs and were found here.
    pub adopted: u64,
    /// Sum of the times from adoption to the end, nanoseconds, of the adopted connections that ended here.
    pub adopted_lifetime_sum_ns: u64,
    /// Times from adoption to the end, see [`lifetime_bucket`].
    pub adopted_lifetime: [u64; LIFETIME_BUCKETS],
    /// Room to grow without moving the table.
    pub reserved: [u64; 54],
    /// What every segment adds to: a share for each of so many processors, so that they seldom wait for one another.
    pub traffic: [Traffic; SHARES],
}

/// Traffic of a cell's connections, as some of the processors have counted it: two cache lines, since processors fetch a
/// line's neighbour with it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Traffic {
    /// Payload bytes received and sent ([`crate::conn::RX`], [`crate::conn::TX`]).
    pub bytes: [u64; 2],
    /// WebSocket data messages received and sent.
    pub messages: [u64; 2],
    /// Always 0.
    pub zero: [u64; 12],
}

/// Shares of a cell's traffic, a power of two; processors beyond as many take turns from the first on.
pub const SHARES: usize = 4;

const _: () = assert!(size_of::<CellKey>() == 16);
const _: () = assert!(size_of::<Cell>() == 4096);
const _: () = assert!(offset_of!(Cell, traffic).is_multiple_of(128) && size_of::<Traffic>() == 128);

/// From this silence on, the end of a connection by the peer or by a reset counts as an idle close: 5 s, less what the
/// timer of a proxy that cuts after 5 s may be early by, which counts from before its own last write.
pub const IDLE_CLOSE_NS: u64 = 4_950_000_000;

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
    // The mask changes nothing, and shows the verifier that the index is inside.
    let above = |i: usize| exceeds(ns & NS_MASK, IDLE_BOUNDS_NS[i & (IDLE_BUCKETS - 1)]) as usize;
    let eights = 8 * (above(7) + above(15) + above(23));
    let ones: usize = (0..7).map(|i| above(eights + i)).sum();
    (eights + ones) as u32
}

/// Round-trip time buckets: bucket `i` counts times in `(2^(i-1), 2^i]` times 16 microseconds, the last what is longer than
/// about 8 s.
pub const RTT_BUCKETS: usize = 20;

/// The bucket of a round-trip time in microseconds; always below [`RTT_BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn rtt_bucket(us: u32) -> u32 {
    let mut bucket = 0;
    let mut i = 0;
    while i < RTT_BUCKETS - 1 {
        bucket += exceeds(us as u64, 16 << i);
        i += 1;
    }
    bucket as u32
}

/// Cells at the start of the table that take what finds no cell of its own, one per role and protocol.
pub const OVERFLOW_CELLS: u32 = 16;

/// The overflow cell of a role and protocol; the index is always below [`OVERFLOW_CELLS`].
#[inline(always)]
#[must_use]
pub const fn overflow_cell(role: u8, protocol: u8) -> u32 {
    ((role as u32 & 1) << 3) | (protocol as u32 & 7)
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

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!([0, 16, 17, 32, 33, u32::MAX].map(rtt_bucket), [0, 0, 1, 1, 2, 19]);
    }

    proptest! {
        #[test]
        fn idle_bucket_equals_the_definition(ns in 0_u64..5_000_000_000_000) {
            let naive = IDLE_BOUNDS.iter().filter(|&&bound| u64::from(bound) * 1_000_000_000 < ns).count();
            prop_assert_eq!(idle_bucket(ns) as usize, naive);
        }

        #[test]
        fn bucket_equals_the_definition(ns in 0_u64..200_000_000_000_000) {
            prop_assert_eq!(lifetime_bucket(ns), naive(ns));
        }
    }

    #[test]
    fn overflow_cells_are_distinct() {
        let mut seen = [false; OVERFLOW_CELLS as usize];
        for role in crate::protocol::Role::ALL {
            for protocol in crate::protocol::Protocol::ALL {
                let cell = overflow_cell(*role as u8, *protocol as u8) as usize;
                assert!(!seen[cell]);
                seen[cell] = true;
            }
        }
    }
}
