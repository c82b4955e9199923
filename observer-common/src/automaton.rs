//! Automata over bytes, as transition tables: one table look-up a byte, whatever the bytes are. The verifier sees one path, and
//! the state survives in one byte between segments.

use crate::{CHUNK, meaning::Meaning};

/// Rows of a table; more than there are states, so that a mask keeps an index inside.
pub(crate) const STATES: usize = 128;
/// From here on a state is a pseudo-state, which reports a bit and continues in a real state.
pub(crate) const EVENT: u8 = 128;
/// Pseudo-states.
pub(crate) const EVENTS: usize = 32;

/// `table[state][byte]` is the next state, or a pseudo-state from [`EVENT`] on.
pub(crate) type Table = [[u8; 256]; STATES];

/// An automaton: its table, for each pseudo-state the bit that it reports and the state that it continues in, and the bits that
/// end a run.
#[derive(Debug)]
pub struct Automaton {
    pub(crate) table: Table,
    pub(crate) after: [(u32, u8); EVENTS],
    pub(crate) stop: u32,
}

impl Automaton {
    /// What its stored states mean.
    pub(crate) const fn meaning(&self, mut hash: Meaning) -> Meaning {
        let mut row = 0;
        while row < STATES {
            hash = hash.bytes(&self.table[row]);
            row += 1;
        }
        hash
    }

    /// Runs over the first `len` bytes until a bit that ends the run, or their end.
    #[inline(always)]
    #[must_use]
    pub fn run(&self, state: u8, buf: &[u8; CHUNK], len: usize) -> Run {
        let mut state = state;
        let mut bits = 0;
        let mut at = 0;
        for _ in 0..CHUNK {
            if at >= len {
                break;
            }
            let byte = buf[at & (CHUNK - 1)];
            at += 1;
            // The mask changes nothing, and shows the verifier that the row is inside the table.
            state = self.table[state as usize & (STATES - 1)][byte as usize];
            if state >= EVENT {
                let (event, next) = self.after[(state - EVENT) as usize & (EVENTS - 1)];
                bits |= event;
                state = next;
                if bits & self.stop != 0 {
                    break;
                }
            }
        }
        Run { state, at: at as u32, bits, of: len as u32, recent: 0 }
    }
}

/// What one run found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The state to continue in.
    pub state: u8,
    /// Bytes consumed.
    pub at: u32,
    /// What was reported on the way, at most one bit that ends the run.
    pub bits: u32,
    /// Bytes that were at hand.
    pub of: u32,
    /// The last eight bytes that the stream's runs have consumed, the last of them lowest.
    pub recent: u64,
}

/// Fills the states of a literal chain: `first` expects `text[0]`, and so on; the byte after each state's literal goes
/// to the next state, the last to `done`; every other byte keeps what the table already says.
pub(crate) const fn chain(
    mut t: Table,
    first: u8,
    text: &[u8],
    done: u8,
    fold_case: bool,
) -> Table {
    let mut i = 0;
    while i < text.len() {
        let to = if i + 1 == text.len() { done } else { first + i as u8 + 1 };
        let row = first as usize + i;
        t[row][text[i] as usize] = to;
        if fold_case {
            t[row][text[i].to_ascii_uppercase() as usize] = to;
        }
        i += 1;
    }
    t
}

pub(crate) const fn fill(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize] = [to; 256];
        row += 1;
    }
    t
}

/// In a header line: a line feed starts the next line, whatever was being matched.
pub(crate) const fn eol(mut t: Table, state: u8, count: u8, to: u8) -> Table {
    let mut row = state;
    while row < state + count {
        t[row as usize][b'\n' as usize] = to;
        row += 1;
    }
    t
}
