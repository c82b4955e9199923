//! Where what a parser finds is counted: in the kernel the slots of a cell, in tests a list.

use crate::counters::Counter;

/// Counts for one connection, what went in one direction.
pub trait Recorder {
    /// Which way the bytes went: a [`crate::label::Direction`].
    fn direction(&self) -> usize;

    /// Looks up where to count. Not left to [`Recorder::add`], since that may stand in a loop.
    fn hold(&mut self);

    /// Adds to a counter of the block of the connection's protocol, which is held.
    fn add(&mut self, counter: &Counter, combination: usize, value: u64);

    /// Counts that the server's side speaks something else, `actual` by its wire number, than the client's.
    fn mismatch(&mut self, actual: u8);
}

/// What was counted, in the order of the calls.
#[cfg(test)]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) direction: usize,
    is_held: bool,
    pub(crate) counts: Vec<(&'static str, usize, u64)>,
    pub(crate) mismatches: Vec<u8>,
}

#[cfg(test)]
impl Recorded {
    /// Goes on with a recorder that holds nothing yet.
    pub(crate) fn begin(&mut self, direction: usize) {
        (self.direction, self.is_held) = (direction, false);
    }
}

#[cfg(test)]
impl Recorder for Recorded {
    fn direction(&self) -> usize {
        self.direction
    }

    fn hold(&mut self) {
        self.is_held = true;
    }

    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        assert!(self.is_held, "the block is held before it is added to");
        self.counts.push((counter.name, combination, value));
    }

    fn mismatch(&mut self, actual: u8) {
        self.mismatches.push(actual);
    }
}
