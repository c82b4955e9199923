//! What the daemon knows, in domain types: no wire numbers, no maps, no text formats.

use observer_common::{
    cell::{IDLE_USED, LIFETIME_USED, RTT_BUCKETS},
    protocol::{Failure, Protocol, Reason, ResetCause, Role, Timeout},
};

/// A histogram of times. Most never see an observation, and those take no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    sum_ns: u64,
    /// `None` without any observation.
    buckets: Option<Box<[u64; N]>>,
}

impl<const N: usize> Histogram<N> {
    /// From the sum of the observations in nanoseconds, and their number by bucket, not cumulative; the bounds are
    /// those of `observer_common::cell`.
    #[must_use]
    pub fn new(sum_ns: u64, buckets: [u64; N]) -> Self {
        let buckets = buckets.iter().any(|&count| count != 0).then(|| Box::new(buckets));
        Self { sum_ns, buckets }
    }

    /// Sum of the observations, nanoseconds.
    #[must_use]
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Observations by bucket, not cumulative; `None` without any.
    #[must_use]
    pub fn buckets(&self) -> Option<&[u64; N]> {
        self.buckets.as_deref()
    }

    fn add(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        match (&mut self.buckets, &other.buckets) {
            (Some(mine), Some(theirs)) => add(mine, theirs),
            (mine @ None, theirs) => mine.clone_from(theirs),
            (Some(_), None) => {}
        }
    }
}

fn add<const N: usize>(mine: &mut [u64; N], theirs: &[u64; N]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

/// The counts of one cell, or of several folded together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections born here.
    pub opened: u64,
    /// Connections that were open before the start and were found then.
    pub adopted: u64,
    /// Connections that became this protocol.
    pub entered: u64,
    /// Connections that left for another protocol.
    pub left: u64,
    /// Connections here now.
    pub active: i64,
    /// Connections that ended here, indexed by [`Reason`].
    pub closed: [u64; Reason::ALL.len()],
    /// Lifetimes of the ended.
    pub lifetime: Histogram<LIFETIME_USED>,
    /// Times from adoption to the end, of adopted connections that ended.
    pub adopted_lifetime: Histogram<LIFETIME_USED>,
    /// Sampled round-trip times.
    pub rtt: Histogram<RTT_BUCKETS>,
    /// Times idle at the end, indexed by [`Reason`].
    pub idle: [Histogram<IDLE_USED>; Reason::ALL.len()],
    /// Closes by the peer and resets after silence.
    pub idle_closes: u64,
    /// WebSocket messages received and sent.
    pub messages: [u64; 2],
    /// WebSocket frames that break the protocol.
    pub errors: u64,
    /// Payload bytes received and sent.
    pub bytes: [u64; 2],
    /// Segments sent again.
    pub retransmits: u64,
    /// Resets received.
    pub resets_received: u64,
    /// Resets sent, indexed by [`ResetCause`].
    pub resets_sent: [u64; ResetCause::ALL.len()],
    /// Time-outs, indexed by [`Timeout`].
    pub timeouts: [u64; Timeout::ALL.len()],
    /// Failed attempts to connect, indexed by [`Failure`].
    pub failures: [u64; Failure::ALL.len()],
}

impl Counts {
    /// Adds the counts of another cell.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.adopted += other.adopted;
        self.entered += other.entered;
        self.left += other.left;
        self.active += other.active;
        add(&mut self.closed, &other.closed);
        self.lifetime.add(&other.lifetime);
        self.adopted_lifetime.add(&other.adopted_lifetime);
        self.rtt.add(&other.rtt);
        for (mine, theirs) in self.idle.iter_mut().zip(&other.idle) {
            mine.add(theirs);
        }
        self.idle_closes += other.idle_closes;
        add(&mut self.messages, &other.messages);
        self.errors += other.errors;
        add(&mut self.bytes, &other.bytes);
        self.retransmits += other.retransmits;
        self.resets_received += other.resets_received;
        add(&mut self.resets_sent, &other.resets_sent);
        add(&mut self.timeouts, &other.timeouts);
        add(&mut self.failures, &other.failures);
    }
}

/// One cell as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSnapshot {
    /// Cgroup id; 0 for an overflow cell.
    pub cgroup: u64,
    /// The server's port.
    pub port: u16,
    /// Server or client.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// The counts.
    pub counts: Counts,
}
