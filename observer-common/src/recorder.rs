//! Where what a parser finds is counted: in the kernel the slots of a cell, in tests a list.

use crate::counters::Counter;

/// Counts for one connection.
pub trait Recorder {
    /// Adds to a counter of the block of the connection's protocol.
    fn add(&mut self, counter: &Counter, combination: usize, value: u64);
}

/// What was counted, in the order of the calls.
#[cfg(test)]
impl Recorder for Vec<(&'static str, usize, u64)> {
    fn add(&mut self, counter: &Counter, combination: usize, value: u64) {
        self.push((counter.name, combination, value));
    }
}
