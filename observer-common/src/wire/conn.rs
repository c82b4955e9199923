//! The state that each socket carries (`BPF_MAP_TYPE_SK_STORAGE`).
//!
//! A listener carries the same structure: with `BPF_F_CLONE` the kernel copies it to every accepted socket, which is
//! born knowing its cgroup, its port and the cell it will be counted in.

use core::mem::offset_of;

use crate::{label::Role, meaning::Meaning, stream::Stream};

/// Index of the receiving direction in per-direction arrays.
pub const RX: usize = 0;
/// Index of the sending direction in per-direction arrays.
pub const TX: usize = 1;

/// What kind of socket carries the state, and how far it has come.
pub mod phase {
    /// Fresh storage.
    pub const NEW: u32 = 0;
    /// A listener; a socket in this phase in any other state than LISTEN is its freshly accepted child.
    pub const LISTENER: u32 = 1;
    /// An active open, not established yet.
    pub const CONNECTING: u32 = 2;
    /// Established, but no hook has told its cgroup yet.
    pub const ESTABLISHED: u32 = 3;
    /// Counted in a cell.
    pub const COUNTED: u32 = 4;
    /// Ended; nothing may be counted any more.
    pub const CLOSED: u32 = 5;
    /// Ended by this node without a FIN; the reset that follows in the same call tells why, or else the socket's end.
    pub const ABORTING: u32 = 6;
    /// An active open has ended; an error that is reported in the same call tells why, or else the socket's end.
    pub const FAILING: u32 = 7;
    /// A connection that is older than the programs is being adopted.
    pub const ADOPTING: u32 = 8;
}

/// Bits of [`Conn::flags`].
pub mod flag {
    /// A cgroup hook has seen a segment of this socket: it is TCP, and cgroup and port are known.
    pub const CONFIRMED: u32 = 1 << 0;
    /// Addresses are filled in.
    pub const ADDRESSED: u32 = 1 << 1;
    /// The first FIN segment was ours; decides only if the event of CLOSE was skipped.
    pub const FIN_LOCAL: u32 = 1 << 2;
    /// The first FIN segment was the peer's, likewise.
    pub const FIN_PEER: u32 = 1 << 3;
    /// The peer reset the connection.
    pub const RESET_PEER: u32 = 1 << 4;
    /// We sent a reset.
    pub const RESET_LOCAL: u32 = 1 << 5;
    /// The socket reported an error before it was established, and before CLOSE.
    pub const ERROR: u32 = 1 << 6;
    /// A reset in sequence has arrived; decides only if the event of its acceptance was skipped.
    pub const RESET_SEEN: u32 = 1 << 7;
    /// A reset has left; decides only if the event of its sending was skipped.
    pub const RESET_LEFT: u32 = 1 << 8;
    /// The connection is older than the programs: its birth is not known, and `born_ns` is the time of its adoption.
    pub const ADOPTED: u32 = 1 << 9;
    /// A FIN of the peer's has come to the hook.
    pub const FIN_HEARD: u32 = 1 << 10;
    /// Both ends are in one pod. Settled before the connection is counted; a listener has it of the last handshake that it
    /// has seen begin a state, which is a guess for the next.
    pub const INTERNAL: u32 = 1 << 11;
}

/// Connections that one run of the adopting iterator takes at most.
pub const MAX_FOUND: usize = 65_536;

/// `Conn::cell` of a connection that is in no cell.
pub const NO_CELL: u32 = u32::MAX;

/// With [`Role::Server`] in [`Conn::role`]: the connection was adopted when nobody knew whose it is, and turned out to be a
/// server's. Its streams keep the places that they have had since then, those of a client's: what is called the request
/// stream is from server to client, and the other way round. One byte tells both, so that it changes at once.
pub const MIRRORED: u8 = 1 << 7;

/// Per-socket state.
///
/// The first part shares a cache line with eight bytes of the kernel's, which each look-up reads: what every segment reads and
/// hardly any writes. The two streams pass on different processors, each of which writes its own: they are in different
/// pairs of lines, since processors fetch a line's neighbour with it; what is seldom used fills the pairs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Conn {
    /// The cgroup (v2) id of the socket, 0 while unknown.
    pub cgroup: u64,
    /// The lower half of the kernel's `jiffies` at the last payload of the request and of the response stream: as long as it
    /// stays the same, so does the coarse clock.
    pub ticks: [u32; 2],
    /// What both streams know: [`crate::protocol::http1::exchange::Facts`]. Changed by compare-and-swap.
    pub facts: u64,
    /// Coarse monotonic nanoseconds of the last sample of the round-trip time.
    pub rtt_ns: u64,
    /// The cell the connection is counted in, or [`NO_CELL`]. For a listener, and a child until its birth is counted: the
    /// cell that children are born into. From then on changed by compare-and-swap only, so that a move and the end can
    /// never both win.
    pub cell: u32,
    /// [`phase`]. A birth is counted by whoever changes it by compare-and-swap: a segment may meet the socket's own events on
    /// another processor.
    pub phase: u32,
    /// [`flag`]. Set by an atomic instruction: a segment may set one while an event sets another.
    pub flags: u32,
    /// The server's port, host order.
    pub port: u16,
    /// [`Role`], and [`MIRRORED`].
    pub role: u8,
    /// [`crate::label::ResetCause`] of the reset we sent.
    pub reset_cause: u8,
    /// What the streams are asked to do, the request stream first: [`crate::stream::order`]. Changed by atomic exchange.
    pub orders: [u32; 2],

    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at ESTABLISHED.
    pub born_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at CLOSE.
    pub closed_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the last error that the socket reported before CLOSE, 0 without any.
    pub error_ns: u64,
    /// Coarse monotonic nanoseconds of the last SYN sent.
    pub syn_ns: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Peer port, host order.
    pub peer_port: u16,
    /// Kept segments of the request and of the response stream; written by whoever has claimed the stream.
    pub kept: [u32; 2],
    /// Sequence number of the peer's FIN, with [`flag::FIN_HEARD`].
    pub fin_seq: u32,
    /// Room.
    pub room_1: u32,

    /// From client to server.
    pub request: Stream,

    /// Local address; IPv4 as IPv4-mapped IPv6, network order.
    pub local_addr: [u32; 4],
    /// Peer address; IPv4 as IPv4-mapped IPv6, network order.
    pub peer_addr: [u32; 4],
    /// Room.
    pub room_2: [u64; 4],

    /// From server to client.
    pub response: Stream,
}

/// Bytes between the start of a cache line and a socket's state (`struct bpf_local_storage_data`: the map's address).
const BEFORE: usize = 8;

const _: () = assert!((BEFORE + offset_of!(Conn, cookie)).is_multiple_of(64));
const _: () = assert!((BEFORE + offset_of!(Conn, request)).is_multiple_of(64));
const _: () = assert!((BEFORE + offset_of!(Conn, response)).is_multiple_of(64));
const _: () = assert!(offset_of!(Conn, response) - offset_of!(Conn, request) == 128);
// With the kernel's line before it, it fits what the kernel allocates for it anyway.
const _: () = assert!(64 + BEFORE + size_of::<Conn>() <= 512);

/// The direction of the client's bytes (`request`) or the server's at the socket of `role`: [`RX`] or [`TX`].
#[inline(always)]
#[must_use]
pub const fn direction(role: u8, request: bool) -> usize {
    if is_request(role, RX) == request { RX } else { TX }
}

/// Whether the client's bytes go in this direction at the socket of `role`. Those of a connection whose role is not known, or
/// was not when it was adopted ([`MIRRORED`]), have the places that a client's have.
#[inline(always)]
#[must_use]
pub const fn is_request(role: u8, direction: usize) -> bool {
    (role == Role::Server as u8) == (direction == RX)
}

/// What the words of the state mean.
pub(crate) const fn meaning(hash: Meaning) -> Meaning {
    let offsets = [
        size_of::<Conn>() as u64,
        offset_of!(Conn, cell) as u64,
        offset_of!(Conn, ticks) as u64,
        offset_of!(Conn, cookie) as u64,
        offset_of!(Conn, born_ns) as u64,
        offset_of!(Conn, retransmits) as u64,
        offset_of!(Conn, request) as u64,
        offset_of!(Conn, local_addr) as u64,
        offset_of!(Conn, response) as u64,
    ];
    let phases = [
        phase::NEW,
        phase::LISTENER,
        phase::CONNECTING,
        phase::ESTABLISHED,
        phase::COUNTED,
        phase::CLOSED,
        phase::ABORTING,
        phase::FAILING,
        phase::ADOPTING,
    ];
    let flags = [
        flag::CONFIRMED,
        flag::ADDRESSED,
        flag::FIN_LOCAL,
        flag::FIN_PEER,
        flag::RESET_PEER,
        flag::RESET_LOCAL,
        flag::ERROR,
        flag::RESET_SEEN,
        flag::RESET_LEFT,
        flag::ADOPTED,
        flag::FIN_HEARD,
        flag::INTERNAL,
    ];
    hash.numbers(&offsets).words(&phases).words(&flags)
}
