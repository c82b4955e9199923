//! The state of a socket as memory that is shared: by the two directions of its segments and by its own events, on any
//! processors at once. There is never a reference to it, but for the part that a claim makes exclusive
//! ([`crate::stream::claim`]); every access is of one word, volatile or atomic.

use core::ptr::{self, NonNull};

use observer_common::{
    protocol::http1::exchange::Facts,
    stream::{Stream, flag, mode},
    wire::conn::{self, Conn},
};

use super::atomic;

/// The state of a live socket.
#[derive(Clone, Copy)]
pub(crate) struct Shared(NonNull<Conn>);

/// Reads and writes of single words.
macro_rules! words {
    ($($get:ident, $set:ident: $of:ty;)+) => {
        impl Shared {
            $(
                #[inline(always)]
                pub(crate) fn $get(self) -> $of {
                    // SAFETY: an aligned word of a live socket's state.
                    unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).$get) }
                }

                #[inline(always)]
                pub(crate) fn $set(self, value: $of) {
                    // SAFETY: as above.
                    unsafe { ptr::write_volatile(&raw mut (*self.0.as_ptr()).$get, value) }
                }
            )+
        }
    };
}

words! {
    cookie, set_cookie: u64;
    cgroup, set_cgroup: u64;
    born_ns, set_born_ns: u64;
    rtt_ns, set_rtt_ns: u64;
    closed_ns, set_closed_ns: u64;
    error_ns, set_error_ns: u64;
    syn_ns, set_syn_ns: u64;
    cell, set_cell: u32;
    phase, set_phase: u32;
    flags, set_flags: u32;
    retransmits, set_retransmits: u32;
    fin_seq, set_fin_seq: u32;
    port, set_port: u16;
    local_port, set_local_port: u16;
    peer_port, set_peer_port: u16;
    role, set_role: u8;
    reset_cause, set_reset_cause: u8;
}

/// The byte of [`Facts::unanswered`] within the word of the facts.
const UNANSWERED: usize = if cfg!(target_endian = "little") { 2 } else { 5 };

impl Shared {
    /// The state at `conn`; `None` if it is null.
    ///
    /// # Safety
    /// `conn` is null or the state of a socket that outlives the program's run.
    #[inline(always)]
    pub(crate) unsafe fn new(conn: *mut Conn) -> Option<Self> {
        NonNull::new(conn).map(Self)
    }

    /// Where it is, for a look at what nobody else writes.
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut Conn {
        self.0.as_ptr()
    }

    /// Changes the phase; false if it was another than `from`, or if another processor was first. A full barrier.
    #[inline(always)]
    pub(crate) fn advance(self, from: u32, to: u32) -> bool {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::compare_and_swap(&raw mut (*self.as_ptr()).phase, from, to) == from }
    }

    /// Whether the phase is `phase`; unlike a mere look, whoever has changed something before sees what this processor has
    /// written until now, or this one what it has.
    #[inline(always)]
    pub(crate) fn is_settled_in(self, phase: u32) -> bool {
        self.advance(phase, phase)
    }

    /// Replaces the cell if it is `old`; returns what it was.
    #[inline(always)]
    pub(crate) fn swap_cell(self, old: u32, new: u32) -> u32 {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::compare_and_swap(&raw mut (*self.as_ptr()).cell, old, new) }
    }

    /// Sets the first cell. A full barrier: what is read next was not read before this was written.
    #[inline(always)]
    pub(crate) fn publish_cell(self, cell: u32) {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::exchange(&raw mut (*self.as_ptr()).cell, cell) };
    }

    /// Sets flags ([`conn::flag`]), whatever another processor sets at the same time.
    #[inline(always)]
    pub(crate) fn mark(self, flags: u32) {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::or(&raw mut (*self.as_ptr()).flags, flags) }
    }

    /// Changes flags, whatever another processor sets at the same time.
    #[inline(always)]
    pub(crate) fn flip(self, flags: u32) {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::xor(&raw mut (*self.as_ptr()).flags, flags) }
    }

    /// Whether any of the flags is set.
    #[inline(always)]
    pub(crate) fn has(self, flags: u32) -> bool {
        self.flags() & flags != 0
    }

    /// What both streams know.
    #[inline(always)]
    pub(crate) fn facts(self) -> Facts {
        Facts::from_word(self.facts_word())
    }

    #[inline(always)]
    pub(crate) fn facts_word(self) -> u64 {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::read_volatile(&raw const (*self.as_ptr()).facts) }
    }

    #[inline(always)]
    pub(crate) fn set_facts(self, facts: Facts) {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::write_volatile(&raw mut (*self.as_ptr()).facts, facts.word()) }
    }

    /// Replaces the facts if they still are `old`.
    #[inline(always)]
    pub(crate) fn swap_facts(self, old: u64, new: Facts) -> bool {
        // SAFETY: an aligned word of the state.
        unsafe {
            atomic::compare_and_swap_long(&raw mut (*self.as_ptr()).facts, old, new.word()) == old
        }
    }

    /// Sets [`Facts::unanswered`] alone: a byte that is stored between another's look and its swap makes that swap fail.
    #[inline(always)]
    pub(crate) fn set_unanswered(self, unanswered: u8) {
        // SAFETY: a byte of the state.
        unsafe {
            let facts: *mut u8 = (&raw mut (*self.as_ptr()).facts).cast();
            ptr::write_volatile(facts.add(UNANSWERED), unanswered);
        }
    }

    /// The [`observer_common::label::Role`] alone: [`Self::role`] tells where the streams are, too.
    #[inline(always)]
    pub(crate) fn plain_role(self) -> u8 {
        self.role() & !conn::MIRRORED
    }

    /// Whether a stream is the client's, whatever it is called.
    #[inline(always)]
    pub(crate) fn is_clients(self, request: bool) -> bool {
        request != (self.role() & conn::MIRRORED != 0)
    }

    /// The kernel's tick at the last payload of a stream.
    #[inline(always)]
    pub(crate) fn tick(self, request: bool) -> u32 {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::read_volatile(self.tick_of(request)) }
    }

    /// Sets the tick at the last payload of a stream, for whoever has claimed it.
    #[inline(always)]
    pub(crate) fn set_tick(self, request: bool, tick: u32) {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::write_volatile(self.tick_of(request), tick) };
    }

    #[inline(always)]
    fn tick_of(self, request: bool) -> *mut u32 {
        // SAFETY: a word within the state.
        unsafe { &raw mut (*self.as_ptr()).ticks[usize::from(!request) & 1] }
    }

    /// Which stream goes in this direction at this socket: true for the client's bytes.
    #[inline(always)]
    pub(crate) fn is_request(self, direction: usize) -> bool {
        conn::is_request(self.role(), direction)
    }

    /// The direction of a stream at this socket.
    #[inline(always)]
    pub(crate) fn direction(self, request: bool) -> usize {
        conn::direction(self.role(), request)
    }

    /// The stream from client to server (`request`), or back.
    #[inline(always)]
    pub(crate) fn stream(self, request: bool) -> *mut Stream {
        // SAFETY: places within the state.
        unsafe {
            if request {
                &raw mut (*self.as_ptr()).request
            } else {
                &raw mut (*self.as_ptr()).response
            }
        }
    }

    /// Asks something of a stream, in place of what it was asked before. A full barrier.
    #[inline(always)]
    pub(crate) fn ask(self, request: bool, order: u32) {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::exchange(self.order(request), order) };
    }

    /// Asks nothing of a stream that nobody works on.
    #[inline(always)]
    pub(crate) fn forget_order(self, request: bool) {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::write_volatile(self.order(request), 0) };
    }

    /// What a stream is asked to do, without taking it.
    #[inline(always)]
    pub(crate) fn asked(self, request: bool) -> u32 {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::read_volatile(self.order(request)) }
    }

    /// Takes what a stream is asked to do.
    #[inline(always)]
    pub(crate) fn take_order(self, request: bool) -> u32 {
        // SAFETY: an aligned word of the state.
        unsafe { atomic::exchange(self.order(request), 0) }
    }

    #[inline(always)]
    fn order(self, request: bool) -> *mut u32 {
        // SAFETY: a word within the state.
        unsafe { &raw mut (*self.as_ptr()).orders[usize::from(!request) & 1] }
    }

    /// The number of kept segments of a stream, for whoever has claimed it.
    #[inline(always)]
    pub(crate) fn kept_count(self, request: bool) -> *mut u32 {
        // SAFETY: a word within the state.
        unsafe { &raw mut (*self.as_ptr()).kept[usize::from(!request) & 1] }
    }

    /// Coarse monotonic nanoseconds of the last payload in either direction, 0 without any.
    #[inline(always)]
    pub(crate) fn payload_ns(self) -> u64 {
        // SAFETY: aligned words of the state.
        let (one, other) = unsafe {
            (
                ptr::read_volatile(&raw const (*self.as_ptr()).request.payload_ns),
                ptr::read_volatile(&raw const (*self.as_ptr()).response.payload_ns),
            )
        };
        if one > other { one } else { other }
    }

    /// Payload bytes of a stream.
    #[inline(always)]
    pub(crate) fn bytes(self, request: bool) -> u64 {
        // SAFETY: an aligned word of the state.
        unsafe { ptr::read_volatile(&raw const (*self.stream(request)).bytes) }
    }

    /// Adds to the payload bytes of a stream that nobody works on any more.
    #[inline(always)]
    pub(crate) fn add_bytes(self, request: bool, bytes: u64) {
        // SAFETY: an aligned word of the state.
        unsafe {
            let total = &raw mut (*self.stream(request)).bytes;
            ptr::write_volatile(total, ptr::read_volatile(total) + bytes);
        }
    }

    /// The mode of a stream's parser, which may change at once.
    #[inline(always)]
    pub(crate) fn mode(self, request: bool) -> u8 {
        // SAFETY: a byte of the state.
        unsafe { ptr::read_volatile(&raw const (*self.stream(request)).parser.mode) }
    }

    /// Whether it is known where a stream is.
    #[inline(always)]
    pub(crate) fn is_synced(self, request: bool) -> bool {
        self.parser_flags(request) & flag::SYNCED != 0
    }

    /// Whether a response, whose parser is in `mode`, comes behind segments of a request that have to be read first, or are being
    /// read.
    #[inline(always)]
    pub(crate) fn is_behind_request(self, request: bool, mode: u8) -> bool {
        !request && mode == mode::HTTP1 && self.is_open(true) && self.mode(true) != mode::WAIT
    }

    /// Whether a response is parked and not behind its request any more.
    #[inline(always)]
    pub(crate) fn may_answer(self, request: bool) -> bool {
        !request
            && self.mode(false) == mode::HTTP1
            && self.parser_flags(false) & flag::PARKED != 0
            && !self.is_behind_request(false, mode::HTTP1)
    }

    #[inline(always)]
    fn parser_flags(self, request: bool) -> u8 {
        // SAFETY: a byte of the state.
        unsafe { ptr::read_volatile(&raw const (*self.stream(request)).parser.flags) }
    }

    /// Whether a stream is being worked on, or segments of it are kept.
    #[inline(always)]
    fn is_open(self, request: bool) -> bool {
        let stream = self.stream(request);
        // SAFETY: aligned words of the state.
        unsafe {
            ptr::read_volatile(&raw const (*stream).gate) != 0
                || ptr::read_volatile(&raw const (*stream).kept) != 0
        }
    }

    /// Whether segments of a stream are kept, or were handed over. Of a stream that is being worked on that may change at once.
    #[inline(always)]
    pub(crate) fn has_kept(self, request: bool) -> bool {
        let stream = self.stream(request);
        // SAFETY: aligned words of the state.
        let (gate, kept) = unsafe {
            (
                ptr::read_volatile(&raw const (*stream).gate),
                ptr::read_volatile(&raw const (*stream).kept),
            )
        };
        gate & observer_common::stream::INBOX != 0 || kept != 0
    }
}
