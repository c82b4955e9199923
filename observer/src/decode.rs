//! From the kernel's words to the model: total functions, an error for what this version does not know.
//!
//! A slot is given as a function from a word's place to the word, so that a word that nobody asks for is not read.

use std::mem::offset_of;

use observer_common::{
    label::{Path, Role},
    protocol::Protocol,
    wire::slot::{self, CellKey, OVERFLOW_CELLS, Slot, overflow_cell},
};
use thiserror::Error;

use crate::model::{CellSnapshot, Counts};

/// A word that this version cannot read: the kernel's maps are another version's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Unknown role number.
    #[error("unknown role {0}")]
    Role(u8),
    /// Unknown path number.
    #[error("unknown path {0}")]
    Path(u8),
    /// Unknown protocol number.
    #[error("unknown protocol {0}")]
    Protocol(u8),
}

/// Reads a cell as far as its base slot tells.
///
/// # Errors
/// If role or protocol are numbers of another version.
pub fn cell(word: impl Fn(usize) -> u64) -> Result<CellSnapshot, DecodeError> {
    let CellKey { cgroup, port, role, protocol, path, .. } = key(&word);
    Ok(CellSnapshot {
        cgroup,
        port,
        role: Role::from_wire(role).ok_or(DecodeError::Role(role))?,
        protocol: Protocol::from_wire(protocol).ok_or(DecodeError::Protocol(protocol))?,
        path: Path::from_wire(path).ok_or(DecodeError::Path(path))?,
        counts: base(word),
    })
}

/// Reads what a cell counts for.
pub fn key(word: impl Fn(usize) -> u64) -> CellKey {
    let [p0, p1, role, protocol, path, zero, state @ ..] = word(1).to_ne_bytes();
    let (port, state) = (u16::from_ne_bytes([p0, p1]), u16::from_ne_bytes(state));
    CellKey { cgroup: word(0), port, role, protocol, path, zero, state }
}

/// Reads which slots are under a cell: that for ends, and that of its protocol; 0 for one that is not there.
pub fn links(word: impl Fn(usize) -> u64) -> [u32; 2] {
    let link = |offset: usize| {
        let (bytes, at) = (word(offset / 8).to_ne_bytes(), offset % 8);
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    [link(offset_of!(Slot, ends)), link(offset_of!(Slot, protocol))]
}

/// Reads the overflow cell `index`; `None` if no role and protocol overflow into it.
#[must_use]
pub fn overflow(index: u32, word: impl Fn(usize) -> u64) -> Option<CellSnapshot> {
    debug_assert!(index < OVERFLOW_CELLS);
    let (role, protocol) = Role::ALL
        .iter()
        .flat_map(|&role| Protocol::ALL.iter().map(move |&protocol| (role, protocol)))
        .find(|&(role, protocol)| overflow_cell(role as u8, protocol as u8) == index)?;
    let path = Path::External;
    Some(CellSnapshot { cgroup: 0, port: 0, role, protocol, path, counts: base(word) })
}

fn base(word: impl Fn(usize) -> u64) -> Counts {
    let mut counts = Counts::default();
    counts.read(&slot::BASE, word);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_common::wire::slot::{RETIRED, SLOT_WORDS};
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_where_the_kernel_writes_it() {
        let mut words = [0; SLOT_WORDS];
        words[0] = 77;
        words[1] = u64::from_ne_bytes([0x90, 0x1f, 1, 5, 1, 0, 1, 0]);
        words[2] = 9 << 32 | 8;
        words[slot::OPENED.word] = 3;
        let cell = cell(|place| words[place]).unwrap();
        assert_eq!(
            (cell.cgroup, cell.port, cell.role, cell.protocol, cell.path),
            (77, 8080, Role::Client, Protocol::WebSocket, Path::Internal)
        );
        assert_eq!(cell.counts.one(&slot::OPENED), 3);
        let key = key(|place| words[place]);
        assert_eq!((key.cgroup, key.port, key.role, key.protocol, key.path), (77, 8080, 1, 5, 1));
        assert_eq!((key.state, links(|place| words[place])), (RETIRED, [8, 9]));
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(words in prop::collection::vec(any::<u64>(), SLOT_WORDS)) {
            let _ = cell(|place| words[place]);
        }
    }
}
