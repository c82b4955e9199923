//! Places for bytes under a parser, per processor: a softirq may interrupt a sending task between loading the bytes and
//! parsing them, and on preemptible kernels another task may, so each run claims one.

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use observer_common::{
    CHUNK,
    protocol::{
        automaton::{self, Run},
        http2::{self, Verdict},
    },
    stream::Parser,
};

use super::job::Job;
use crate::{
    maps::{SCRATCH, SCRATCHES, Scratch},
    memory::atomic,
};

/// A source that can fill a scratch.
pub(crate) trait Scratches {
    /// Loads `wanted` bytes, of which there are some and at most a chunk, to the front of the scratch; false if they cannot be
    /// read.
    fn fill(&self, scratch: *mut Scratch, wanted: u32) -> bool;
}

/// A claimed scratch.
pub(crate) struct Chunk(*mut Scratch);

impl Chunk {
    /// A chunk with the next bytes of the source, and how many they are; `None` if there are none, or no place for them.
    #[inline(always)]
    pub(crate) fn load(skb: *mut __sk_buff, source: &impl Scratches) -> Option<(Self, usize)> {
        let wanted = length(skb);
        if wanted == 0 {
            return None;
        }
        let chunk = Self::claim()?;
        if source.fill(chunk.0, wanted) {
            return Some((chunk, wanted as usize));
        }
        chunk.release();
        None
    }

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
    pub(crate) fn run(&self, state: u8, length: usize) -> Run {
        // SAFETY: claimed by this run of the program, and filled.
        unsafe {
            let run = automaton::run(state, &(*self.0).bytes, 0, length);
            ptr::write_volatile(&raw mut (*self.0).at, run.at as u32);
            ptr::write_volatile(&raw mut (*self.0).state, u32::from(run.state));
            ptr::write_volatile(&raw mut (*self.0).bits, run.bits);
            Run {
                at: ptr::read_volatile(&raw const (*self.0).at) as usize,
                state: ptr::read_volatile(&raw const (*self.0).state) as u8,
                bits: ptr::read_volatile(&raw const (*self.0).bits),
            }
        }
    }

    /// Follows HTTP/2 frames in the first `length` bytes, from where `parser` is.
    #[inline(always)]
    pub(crate) fn follow(&self, parser: &Parser, length: usize) -> Verdict {
        // SAFETY: claimed by this run of the program, and filled; the bytes and the parser are apart.
        unsafe {
            (*self.0).parser = *parser;
            let (used, verdict) = http2::run(&mut (*self.0).parser, &(*self.0).bytes, 0, length);
            ptr::write_volatile(&raw mut (*self.0).at, used as u32);
            verdict
        }
    }

    /// Hands out where the parser is now; how many bytes were consumed.
    #[inline(always)]
    pub(crate) fn hand_out(&self, parser: &mut Parser) -> u32 {
        // SAFETY: claimed by this run.
        unsafe {
            *parser = (*self.0).parser;
            ptr::read_volatile(&raw const (*self.0).at)
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
