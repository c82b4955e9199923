//! The kernel's table of slots: read through memory maps, freed through system calls. What a cell is, and which slots are
//! under it, is told in `observer_common::wire::slot`.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, Queue},
};
use observer_common::{
    label::Reason,
    wire::slot::{self, CellKey, OVERFLOW_CELLS, RESERVED_SLOTS, RETIRED, SLOT_WORDS, Slot},
};

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

    /// Writes a word that no program writes at the same time.
    ///
    /// # Panics
    /// If `index` is out of range.
    fn set(&self, index: usize, value: u64) {
        self.at(index).store(value, Ordering::Relaxed);
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

/// The words of a slot, read when they are asked for.
#[derive(Clone, Copy)]
pub struct SlotWords<'a> {
    window: &'a MapMemory,
    first: usize,
}

impl SlotWords<'_> {
    /// The word at this place in the slot.
    ///
    /// # Panics
    /// If it is beyond the mapping.
    #[must_use]
    pub fn word(&self, place: usize) -> u64 {
        self.window.word(self.first + place)
    }
}

/// Slots that are mapped at a time: 1 MiB of memory, whatever the size of the table. All pages of a mapping count as
/// this process's memory, read or not.
const WINDOW: u32 = 1_024;

/// The word of `TABLE` that tells how many slots are in use.
const USED: usize = 0;
/// The word of `TABLE` that tells how many there are.
const CAPACITY: usize = 1;
/// The word of `TABLE` that has the id of the newest cgroup when it was made.
const NEWEST_CGROUP: usize = 2;
/// The word of `TABLE` that is 1 if all connections that were open then have been looked for.
const VISITED_ALL: usize = 3;

/// The table of slots.
pub struct SlotTable {
    memory: OwnedFd,
    slots: u32,
    table: MapMemory,
    index: HashMap<MapData, Key, u32>,
    free: Queue<MapData, u32>,
    budgets: HashMap<MapData, u64, u64>,
}

/// Prepares an empty table, before any program uses it: the slots under the overflow cells are theirs from the start.
///
/// # Errors
/// If the maps are not what they should be.
pub(super) fn prepare(slots: &Map, table: &Map, newest_cgroup: u64) -> io::Result<u32> {
    let Map::Array(data) = slots else {
        return Err(io::Error::other("not an array"));
    };
    let count = data.info().map_err(io::Error::other)?.max_entries();
    let reserved = MapMemory::part(data.fd().as_fd(), 0, RESERVED_SLOTS as usize * SLOT_WORDS)?;
    for cell in 0..OVERFLOW_CELLS {
        let links = [cell + OVERFLOW_CELLS, cell + 2 * OVERFLOW_CELLS];
        for (offset, link) in
            [offset_of!(Slot, ends), offset_of!(Slot, protocol)].into_iter().zip(links)
        {
            // Two halves of one word.
            let place = cell as usize * SLOT_WORDS + offset / 8;
            let bytes = |word: u64, link: u32| {
                let mut bytes = word.to_ne_bytes();
                bytes[offset % 8..offset % 8 + 4].copy_from_slice(&link.to_ne_bytes());
                u64::from_ne_bytes(bytes)
            };
            reserved.set(place, bytes(reserved.word(place), link));
        }
    }
    let table = MapMemory::new(table)?;
    table.set(CAPACITY, u64::from(count - RESERVED_SLOTS));
    table.set(NEWEST_CGROUP, newest_cgroup);
    Ok(count)
}

impl SlotTable {
    /// Takes over the maps of the table.
    ///
    /// # Errors
    /// If one of them is of another type.
    pub fn new(
        slots: &Map,
        table: &Map,
        index: Map,
        free: Map,
        budgets: Map,
    ) -> Result<Self, MapError> {
        let Map::Array(data) = slots else {
            return Err(MapError::IoError(io::Error::other("not an array")));
        };
        let memory = data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        let table = Self {
            memory,
            slots: data.info()?.max_entries(),
            table: MapMemory::new(table).map_err(MapError::IoError)?,
            index: HashMap::try_from(index)?,
            free: Queue::try_from(free)?,
            budgets: HashMap::try_from(budgets)?,
        };
        // What cannot be mapped is found out at the start.
        table.visit(|_, _| {}).map_err(MapError::IoError)?;
        Ok(table)
    }

    /// Slots in use, and slots in all; those for overflow are not among them.
    #[must_use]
    pub fn room(&self) -> (u64, u64) {
        (self.table.word(USED), self.table.word(CAPACITY))
    }

    /// The newest cgroup of when the table was made; and whether all that was open then was looked for.
    #[must_use]
    pub fn beginning(&self) -> (u64, bool) {
        (self.table.word(NEWEST_CGROUP), self.table.word(VISITED_ALL) != 0)
    }

    /// All that was open when the table was made has been looked for.
    pub fn note_visit(&self) {
        self.table.set(VISITED_ALL, 1);
    }

    /// Shows the base slot of each cell that is in use (its cgroup id is not 0), and of each overflow cell, with its index.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn visit(&self, mut see: impl FnMut(u32, SlotWords<'_>)) -> io::Result<()> {
        for first in (0..self.slots).step_by(WINDOW as usize) {
            let count = WINDOW.min(self.slots - first);
            let window = self.window(first, count)?;
            for slot in 0..count {
                let words = SlotWords { window: &window, first: slot as usize * SLOT_WORDS };
                if first + slot < OVERFLOW_CELLS || words.word(0) != 0 {
                    see(first + slot, words);
                }
            }
        }
        Ok(())
    }

    /// Shows the slots with these indexes, sorted, by their places in `slots`. Those beyond the table are left out.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn look(
        &self,
        slots: impl IntoIterator<Item = u32>,
        mut see: impl FnMut(usize, SlotWords<'_>),
    ) -> io::Result<()> {
        let mut mapped: Option<(u32, MapMemory)> = None;
        for (place, slot) in slots.into_iter().enumerate().filter(|(_, slot)| *slot < self.slots) {
            let first = slot - slot % WINDOW;
            let window = match mapped.take() {
                Some((at, window)) if at == first => window,
                _ => self.window(first, WINDOW.min(self.slots - first))?,
            };
            see(place, SlotWords { window: &window, first: (slot - first) as usize * SLOT_WORDS });
            mapped = Some((first, window));
        }
        Ok(())
    }

    /// Counts the end of `count` connections of a cell, of which nothing else is known, beside the kernel's programs.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn end(&self, cell: u32, reason: Reason, count: u64) -> io::Result<()> {
        let (window, first) = self.around(cell)?;
        window.add(first + slot::ACTIVE.word, count.wrapping_neg());
        window.add(first + slot::CLOSED.word + reason as usize, count);
        Ok(())
    }

    /// Maps a slot with its neighbours, so that the mapping begins a page whatever the size of pages; the slot's first word.
    fn around(&self, slot: u32) -> io::Result<(MapMemory, usize)> {
        let first = slot - slot % WINDOW;
        let window = self.window(first, WINDOW.min(self.slots - first))?;
        Ok((window, (slot - first) as usize * SLOT_WORDS))
    }

    /// Maps `count` slots from `first` on.
    fn window(&self, first: u32, count: u32) -> io::Result<MapMemory> {
        let words = |slots: u32| slots as usize * SLOT_WORDS;
        MapMemory::part(self.memory.as_fd(), words(first), words(count))
    }

    /// Retires a cell, the first step of freeing it: the kernel forgets which cell has this key, and what a listener's
    /// children have inherited is not used any more. Connections that are counted in the cell still are.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retire(&mut self, cell: u32, key: CellKey) -> Result<(), MapError> {
        let key = CellKey { state: 0, ..key };
        match self.index.get(&Key(key), 0) {
            Ok(linked) if linked == cell => match self.index.remove(&Key(key)) {
                Err(MapError::KeyNotFound) | Ok(()) => {}
                Err(error) => return Err(error),
            },
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
        let (window, first) = self.around(cell).map_err(MapError::IoError)?;
        let mut bytes = [0; 8];
        let at = offset_of!(CellKey, state) % 8;
        bytes[at..at + 2].copy_from_slice(&RETIRED.to_ne_bytes());
        let place = first + offset_of!(CellKey, state) / 8;
        window.at(place).fetch_or(u64::from_ne_bytes(bytes), Ordering::Release);
        Ok(())
    }

    /// Clears a retired cell and the slots under it, and frees them: the last step.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn free(&mut self, cell: u32, under: [u32; 2]) -> Result<(), MapError> {
        let under = under.into_iter().filter(|&slot| (RESERVED_SLOTS..self.slots).contains(&slot));
        let all: Vec<u32> = under.chain([cell]).collect();
        for &slot in &all {
            let (window, first) = self.around(slot).map_err(MapError::IoError)?;
            (0..SLOT_WORDS).for_each(|place| window.set(first + place, 0));
        }
        for &slot in &all {
            self.free.push(slot, 0)?;
            self.table.add(USED, u64::MAX);
        }
        Ok(())
    }

    /// Tells the kernel how many cells with a port each of these cgroups has.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_budgets(
        &mut self,
        cells: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), MapError> {
        for (cgroup, cells) in cells {
            let told = if cells == 0 {
                self.budgets.remove(&cgroup)
            } else {
                self.budgets.insert(cgroup, cells, 0)
            };
            match told {
                Err(MapError::KeyNotFound) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The cgroups whose cells the kernel counts.
    pub fn budgets(&self) -> impl Iterator<Item = u64> {
        self.budgets.keys().filter_map(Result::ok)
    }
}
