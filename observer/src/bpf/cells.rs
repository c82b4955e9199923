//! The kernel's counters: read through a memory map, recycled through system calls.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, Queue},
};
use observer_common::{
    cell::{Cell, CellKey, OVERFLOW_CELLS},
    protocol::Reason,
};

/// Words of a cell.
const CELL_WORDS: usize = size_of::<Cell>() / 8;

/// Part of an array map whose values are whole words, mapped into memory.
pub struct MapMemory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is used by atomic instructions only, and lives until the value is dropped.
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
        let words = info.value_size() as usize / 8 * info.max_entries() as usize;
        Self::part(data.fd().as_fd(), 0, words)
    }

    /// Maps `words` words from word `first` on, which begins a page.
    fn part(map: BorrowedFd<'_>, first: usize, words: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping of a file descriptor that is open during the call.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                (first * 8) as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, words })
    }

    /// One word.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.at(index).load(Ordering::Relaxed)
    }

    /// Adds to a word, beside the kernel's programs.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn add(&self, index: usize, value: u64) {
        self.at(index).fetch_add(value, Ordering::Relaxed);
    }

    /// All words.
    #[must_use]
    pub fn all(&self) -> Vec<u64> {
        (0..self.words).map(|index| self.word(index)).collect()
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: in range of the mapping, which is page-aligned; the kernel writes these words by atomic instructions
        // or before it publishes them.
        unsafe { self.start.add(index).as_ref() }
    }
}

impl Drop for MapMemory {
    fn drop(&mut self) {
        // SAFETY: mapped in `part` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
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

/// The words of a cell, read when they are asked for.
#[derive(Clone, Copy)]
pub struct CellWords<'a> {
    window: &'a MapMemory,
    first: usize,
}

impl CellWords<'_> {
    /// The word at this place in the cell.
    ///
    /// # Panics
    /// If it is beyond the mapping.
    #[must_use]
    pub fn word(&self, place: usize) -> u64 {
        self.window.word(self.first + place)
    }
}

/// Cells that are mapped at a time: 1 MiB of memory, whatever the size of the table. All pages of a mapping count as
/// this process's memory, read or not.
const WINDOW: u32 = 256;

/// The table of cells.
pub struct CellTable {
    memory: OwnedFd,
    capacity: u32,
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
        let Map::Array(data) = &cells else {
            return Err(MapError::IoError(io::Error::other("not an array")));
        };
        let memory = data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        let capacity = data.info()?.max_entries();
        let table = Self {
            memory,
            capacity,
            cells: Array::try_from(cells)?,
            index: HashMap::try_from(index)?,
            free: Queue::try_from(free)?,
        };
        // What cannot be mapped is found out at the start.
        table.visit(|_, _| {}).map_err(MapError::IoError)?;
        Ok(table)
    }

    /// Cells in the table, the overflow cells included.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Shows each cell that is in use (its cgroup id is not 0), and each overflow cell, with its index.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn visit(&self, mut see: impl FnMut(u32, CellWords<'_>)) -> io::Result<()> {
        for first in (0..self.capacity).step_by(WINDOW as usize) {
            let count = WINDOW.min(self.capacity - first);
            let window = self.window(first, count)?;
            for cell in 0..count {
                let words = CellWords { window: &window, first: cell as usize * CELL_WORDS };
                if first + cell < OVERFLOW_CELLS || words.word(0) != 0 {
                    see(first + cell, words);
                }
            }
        }
        Ok(())
    }

    /// Shows one cell.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn read<T>(&self, cell: u32, see: impl FnOnce(CellWords<'_>) -> T) -> Result<T, MapError> {
        let (window, first) = self.around(cell).map_err(MapError::IoError)?;
        Ok(see(CellWords { window: &window, first }))
    }

    /// Counts the end of `count` connections of a cell, of which nothing else is known, beside the kernel's programs.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn end(&self, cell: u32, reason: Reason, count: u64) -> io::Result<()> {
        let (window, first) = self.around(cell)?;
        window.add(first + offset_of!(Cell, active) / 8, count.wrapping_neg());
        window.add(first + offset_of!(Cell, closed) / 8 + reason as usize, count);
        Ok(())
    }

    /// Maps a cell with its neighbours, so that the mapping begins a page whatever the size of pages; the cell's first word.
    fn around(&self, cell: u32) -> io::Result<(MapMemory, usize)> {
        let first = cell - cell % WINDOW;
        let window = self.window(first, WINDOW.min(self.capacity - first))?;
        Ok((window, (cell - first) as usize * CELL_WORDS))
    }

    /// Maps `count` cells from `first` on.
    fn window(&self, first: u32, count: u32) -> io::Result<MapMemory> {
        let words = |cells: u32| cells as usize * CELL_WORDS;
        MapMemory::part(self.memory.as_fd(), words(first), words(count))
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
