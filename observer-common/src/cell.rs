//! A cell: all counters of one (cgroup, role, protocol, server port), updated in the kernel with atomic adds.
//!
//! A connection is born into the cell of its birth protocol (`tcp`) and moves when its protocol is recognised. Four
//! words keep the books of that, so that at rest, for every cell, `active = opened + entered - left - closed`, and over
//! all cells `sum(opened) = sum(closed) + sum(active)`: every connection is opened once and closed once.

use crate::protocol::REASONS;

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

/// The counters of one cell. All words are written by atomic adds only.
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
    /// WebSocket data messages received and sent ([`crate::conn::RX`], [`crate::conn::TX`]).
    pub messages: [u64; 2],
    /// WebSocket protocol errors: frames that violate RFC 6455 and closes with an error code.
    pub errors: u64,
    /// Lifetimes, see [`lifetime_bucket`].
    pub lifetime: [u64; LIFETIME_BUCKETS],
    /// Keeps cells on cache lines of their own.
    pub reserved: [u64; 14],
}

const _: () = assert!(size_of::<CellKey>() == 16);
const _: () = assert!(size_of::<Cell>() == 512 && size_of::<Cell>().is_multiple_of(64));

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
    let mut bucket = 0;
    let mut bound = 1_000_000_000_u64;
    // Binary descent instead of a loop: five comparisons, no branch that the verifier has to unroll.
    if scaled > bound << 15 {
        bucket += 16;
        bound <<= 16;
    }
    if scaled > bound << 7 {
        bucket += 8;
        bound <<= 8;
    }
    if scaled > bound << 3 {
        bucket += 4;
        bound <<= 4;
    }
    if scaled > bound << 1 {
        bucket += 2;
        bound <<= 2;
    }
    if scaled > bound {
        bucket += 1;
    }
    bucket
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

    proptest! {
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
