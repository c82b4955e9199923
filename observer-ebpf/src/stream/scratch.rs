//! Places for bytes under a parser, per processor: a softirq may interrupt a sending task between loading the bytes and
//! parsing them, and on preemptible kernels another task may, so each run claims one.

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    CHUNK,
    automaton::{Automaton, Run},
};

use super::job::Job;
use crate::{
    maps::{SCRATCH, SCRATCHES, Scratch},
    memory::{atomic, registers::two_words},
};

/// A source that can fill a scratch.
pub(crate) trait Scratches {
    /// Loads `wanted` bytes, of which there are some and at most a chunk, to the front of the scratch; false if they cannot be
    /// read.
    fn fill(&self, scratch: *mut Scratch, wanted: u32) -> bool;
}

/// A claimed scratch.
pub(crate) struct Chunk(*mut Scratch);

/// Runs an automaton over the next bytes of the source, at most `limit`: see [`observer_common::source::Source::run`].
#[inline(always)]
pub(crate) fn run(
    skb: *mut __sk_buff,
    source: &impl Scratches,
    automaton: &Automaton,
    state: u8,
    recent: u64,
    limit: u32,
) -> Option<Run> {
    let left = length(skb);
    let wanted = if left > limit { limit } else { left };
    if wanted == 0 {
        return None;
    }
    let chunk = Chunk::claim()?;
    // SAFETY: claimed by this run of the program.
    unsafe { ptr::write_volatile((&raw mut (*chunk.0).recent).cast(), recent.swap_bytes()) };
    let run = source.fill(chunk.0, wanted).then(|| chunk.run(automaton, state, wanted as usize));
    chunk.release();
    run
}

impl Chunk {
    #[inline(always)]
    fn claim() -> Option<Self> {
        for place in 0..SCRATCHES {
            let scratch = SCRATCH.get_ptr_mut(place)?;
            // SAFETY: an aligned word of this processor's element.
            if unsafe { atomic::compare_and_swap(&raw mut (*scratch).busy, 0, 1) } == 0 {
                return Some(Self(scratch));
            }
        }
        None
    }

    /// Runs the automaton over the first `length` bytes.
    #[inline(always)]
    fn run(&self, automaton: &Automaton, state: u8, length: usize) -> Run {
        // SAFETY: claimed by this run of the program, and filled.
        unsafe {
            let run = automaton.run(state, &(*self.0).bytes, length);
            ptr::write_volatile(&raw mut (*self.0).at, run.at);
            ptr::write_volatile(&raw mut (*self.0).state, u32::from(run.state));
            ptr::write_volatile(&raw mut (*self.0).bits, run.bits);
            let at = ptr::read_volatile(&raw const (*self.0).at);
            // A run consumes a byte at least. The mask changes nothing, and shows the verifier that what is read is within.
            let after_one = (&raw const (*self.0).recent).cast::<u8>().add(1);
            let [recent, _] =
                two_words(after_one, u64::from(at).wrapping_sub(1) & (CHUNK as u64 - 1));
            Run {
                at,
                state: ptr::read_volatile(&raw const (*self.0).state) as u8,
                bits: ptr::read_volatile(&raw const (*self.0).bits),
                of: run.of,
                recent: recent.swap_bytes(),
            }
        }
    }

    /// Gives the scratch back.
    #[inline(always)]
    pub(crate) fn release(self) {
        // SAFETY: claimed by this run.
        unsafe { ptr::write_volatile(&raw mut (*self.0).busy, 0) };
    }
}

/// Bytes of the job that fit into one chunk.
#[inline(always)]
pub(crate) fn length(skb: *mut __sk_buff) -> u32 {
    let left = Job::left(skb);
    if left > CHUNK as u32 { CHUNK as u32 } else { left }
}
