//! The kernel's counters: read through a memory map, recycled through system calls.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, Queue},
};
use observer_common::cell::{Cell, CellKey};

/// Words of a cell.
pub const CELL_WORDS: usize = size_of::<Cell>() / 8;

/// An array map whose values are whole words, mapped into memory for reading.
pub struct MapMemory {
    start: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
}

// SAFETY: the mapping is only read, by atomic loads, and lives until the value is dropped.
unsafe impl Send for MapMemory {}
// SAFETY: as for Send.
unsafe impl Sync for MapMemory {}

impl MapMemory {
    /// Maps an array created with `BPF_F_MMAPABLE` whose values are multiples of eight bytes.
    ///
    /// # Errors
    /// If the map is no such array.
    pub fn new(map: &Map) -> io::Result<Self> {
        let Map::Array(data) = map else {
            return Err(io::Error::other("not an array"));
        };
        let info = data.info().map_err(io::Error::other)?;
        let value = info.value_size() as usize;
        let bytes = value * info.max_entries() as usize;
        // SAFETY: a fresh read-only mapping of a file descriptor that is open during the call.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, words: bytes / 8, bytes })
    }

    /// Words in the whole map.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.words
    }

    /// One word.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: in range of the mapping, which is page-aligned; the kernel writes these words by atomic instructions
        // or before it publishes them.
        unsafe { self.start.add(index).as_ref() }.load(Ordering::Relaxed)
    }

    /// `count` words from word `first` on.
    #[must_use]
    pub fn element(&self, first: usize, count: usize) -> Vec<u64> {
        (first..first + count).map(|index| self.word(index)).collect()
    }
}

impl Drop for MapMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// [`CellKey`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(CellKey);
// SAFETY: `repr(C)`, integers only, no padding (asserted where it is defined).
unsafe impl Pod for Key {}

/// [`Cell`] as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Cell);
// SAFETY: `repr(C)`, integers only, no padding (its size is the sum of its fields, asserted where it is defined).
unsafe impl Pod for Value {}

/// The table of cells.
pub struct CellTable {
    memory: MapMemory,
    cells: Array<MapData, Value>,
    index: HashMap<MapData, Key, u32>,
    free: Queue<MapData, u32>,
}

impl CellTable {
    /// Takes over the three maps of the table.
    ///
    /// # Errors
    /// If one of them is of another type.
    pub fn new(cells: Map, index: Map, free: Map) -> Result<Self, MapError> {
        let memory = MapMemory::new(&cells).map_err(MapError::IoError)?;
        Ok(Self {
            memory,
            cells: Array::try_from(cells)?,
            index: HashMap::try_from(index)?,
            free: Queue::try_from(free)?,
        })
    }

    /// Cells in the table, the overflow cells included.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (self.memory.words() / CELL_WORDS) as u32
    }

    /// Reads a cell's words into `words`; false, and nothing read, if the cell is unused (its cgroup id is 0).
    #[must_use]
    pub fn read(&self, cell: u32, words: &mut [u64; CELL_WORDS]) -> bool {
        let first = cell as usize * CELL_WORDS;
        if self.memory.word(first) == 0 {
            return false;
        }
        self.read_any(cell, words);
        true
    }

    /// Reads a cell's words, used or not.
    pub fn read_any(&self, cell: u32, words: &mut [u64; CELL_WORDS]) {
        let first = cell as usize * CELL_WORDS;
        for (offset, word) in words.iter_mut().enumerate() {
            *word = self.memory.word(first + offset);
        }
    }

    /// Makes the kernel forget which cell has this key: the first step of recycling. Connections that are counted in
    /// the cell still are.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unlink(&mut self, cell: u32, key: CellKey) -> Result<(), MapError> {
        match self.index.get(&Key(key), 0) {
            Ok(linked) if linked == cell => {}
            // An earlier daemon has unlinked the cell, and the kernel has made another one since.
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.index.remove(&Key(key)) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives an unlinked cell back to its key.
    ///
    /// # Errors
    /// If the kernel refuses, or has made another cell for the key meanwhile.
    pub fn relink(&mut self, cell: u32, key: CellKey) -> Result<(), MapError> {
        const NO_EXIST: u64 = 1;
        self.index.insert(Key(key), cell, NO_EXIST)
    }

    /// Clears an unlinked cell and frees it: the last step of recycling.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn recycle(&mut self, cell: u32) -> Result<(), MapError> {
        // SAFETY: all zeroes is a valid value of integers.
        let empty = unsafe { std::mem::zeroed::<Cell>() };
        self.cells.set(cell, Value(empty), 0)?;
        self.free.push(cell, 0)
    }
}
