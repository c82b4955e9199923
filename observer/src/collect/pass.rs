//! One reading of the kernel's table: each cell with the slots under it.

use std::io;

use observer_common::{
    counters::Owner,
    wire::slot::{self, CellKey, OVERFLOW_CELLS, RETIRED},
};

use crate::{
    bpf::cells::SlotTable,
    decode,
    model::{CellSnapshot, blocks},
};

/// A cell, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Index of its base slot.
    pub(super) index: u32,
    pub(super) key: CellKey,
    /// Indexes of the slots under it, 0 for one that is not there.
    pub(super) under: [u32; 2],
    pub(super) cell: CellSnapshot,
}

impl Found {
    /// Whether the kernel begins no new connection in it.
    pub(super) const fn is_retired(&self) -> bool {
        self.key.state == RETIRED
    }
}

/// The counts of one pass.
#[derive(Default)]
pub(super) struct Pass {
    /// Cells in use.
    pub(super) cells: Vec<Found>,
    /// Overflow cells that have counted something.
    pub(super) overflow: Vec<CellSnapshot>,
    pub(super) undecodable: u64,
}

/// Reads all cells.
///
/// # Errors
/// If the kernel has no memory for the mapping.
pub(super) fn read(table: &SlotTable) -> io::Result<Pass> {
    let mut pass = Pass::default();
    table.visit(|index, words| {
        let word = |place| words.word(place);
        let cell = if index < OVERFLOW_CELLS {
            decode::overflow(index, word)
        } else {
            let cell = decode::cell(word).ok();
            pass.undecodable += u64::from(cell.is_none());
            cell
        };
        let (key, under) = (decode::key(word), decode::links(word));
        pass.cells.extend(cell.map(|cell| Found { index, key, under, cell }));
    })?;
    let mut under: Vec<(u32, usize, usize)> = Vec::new();
    for (place, found) in pass.cells.iter().enumerate() {
        let links = found.under.into_iter().enumerate().filter(|(_, slot)| *slot != 0);
        under.extend(links.map(|(which, slot)| (slot, place, which)));
    }
    under.sort_unstable();
    table.look(under.iter().map(|(slot, ..)| *slot), |at, words| {
        let (_, place, which) = under[at];
        let cell = &mut pass.cells[place].cell;
        let block = match which {
            0 => Some(&slot::ENDS),
            _ => blocks(cell.protocol).find(|block| matches!(block.owner, Owner::Protocol(_))),
        };
        if let Some(block) = block {
            cell.counts.read(block, |place| words.word(place));
        }
    })?;
    let of_their_own = pass.cells.iter().position(|found| found.index >= OVERFLOW_CELLS);
    let cells = pass.cells.split_off(of_their_own.unwrap_or(pass.cells.len()));
    let overflow = std::mem::replace(&mut pass.cells, cells).into_iter().map(|found| found.cell);
    pass.overflow = overflow.filter(|cell| cell.counts.events() != 0).collect();
    Ok(pass)
}
