//! What stands in for the kernel.

use std::{
    alloc::{self, Layout},
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    ffi::c_void,
    panic::{self, AssertUnwindSafe},
    ptr::{self, NonNull},
};

use crate::bindings::{__sk_buff, bpf_sock, bpf_tcp_sock};

/// Simulated processors.
pub const PROCESSORS: usize = 2;
/// Room for a socket's state.
const STORAGE: usize = 1024;
/// Tail calls that the kernel allows in one run.
const TAIL_CALLS: usize = 33;

/// A program of packets.
pub type Program = fn(*mut __sk_buff) -> i32;

/// Memory that starts as zeroes and stays where it is.
#[derive(Debug)]
pub struct Values(NonNull<u8>, Layout);

/// What values are aligned to at least.
const ALIGNMENT: usize = 128;

impl Values {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        // Aligned by hand: memory of a larger alignment than usual the allocator would clear page by page.
        let layout = Layout::from_size_align(bytes + ALIGNMENT, 1).expect("a small size");
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        Self(NonNull::new(memory).expect("memory"), layout)
    }

    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        let start = self.0.as_ptr();
        // SAFETY: there is room for as many in front.
        unsafe { start.add(start.align_offset(ALIGNMENT)) }
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { alloc::dealloc(self.0.as_ptr(), self.1) }
    }
}

/// The memory of all maps.
#[derive(Debug, Default)]
pub struct World {
    arrays: HashMap<usize, Values>,
    queues: HashMap<usize, VecDeque<u32>>,
    hashes: HashMap<usize, HashMap<Vec<u8>, Values>>,
    /// What the clock says.
    pub now: u64,
}

impl World {
    pub(crate) fn values(&mut self, id: usize, bytes: usize) -> *mut u8 {
        self.arrays.entry(id).or_insert_with(|| Values::new(bytes)).as_ptr()
    }

    pub(crate) fn queue(&mut self, id: usize) -> &mut VecDeque<u32> {
        self.queues.entry(id).or_default()
    }

    pub(crate) fn hash(&mut self, id: usize) -> &mut HashMap<Vec<u8>, Values> {
        self.hashes.entry(id).or_default()
    }
}

/// A socket; programs see its first part.
#[derive(Debug)]
#[repr(C)]
pub struct Socket {
    pub sock: bpf_sock,
    pub tcp: bpf_tcp_sock,
    pub cookie: u64,
    pub cgroup: u64,
    storage: Option<Values>,
}

impl Socket {
    #[must_use]
    pub fn new(sock: bpf_sock, cookie: u64) -> Self {
        Self { sock, tcp: bpf_tcp_sock::default(), cookie, cgroup: 7, storage: None }
    }

    /// A socket that this listener accepts, with its state.
    #[must_use]
    pub fn accept(&self, sock: bpf_sock, cookie: u64) -> Self {
        let mut child = Self::new(sock, cookie);
        if let Some(state) = &self.storage {
            child.storage(state.as_ptr().cast(), true);
        }
        child
    }

    pub(crate) fn storage(&mut self, value: *const c_void, create: bool) -> *mut c_void {
        if self.storage.is_none() && create {
            let room = Values::new(STORAGE);
            if !value.is_null() {
                // SAFETY: both are states, which are smaller than that; what is behind them nobody reads.
                unsafe {
                    ptr::copy_nonoverlapping(value.cast::<u8>(), room.as_ptr(), STORAGE / 2);
                }
            }
            self.storage = Some(room);
        }
        self.storage.as_ref().map_or(ptr::null_mut(), |room| room.as_ptr().cast())
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> *mut c_void {
        self.storage.as_ref().map_or(ptr::null_mut(), |room| room.as_ptr().cast())
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
    static PROGRAMS: RefCell<HashMap<u32, Program>> = RefCell::default();
    static PROCESSOR: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<[usize; PROCESSORS]> = const { Cell::new([0; PROCESSORS]) };
    static SWITCH: Cell<Option<fn()>> = const { Cell::new(None) };
}

pub fn world<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(work)
}

/// Starts afresh: nothing is in any map.
pub fn reset() {
    WORLD.set(World::default());
}

/// The processor that runs.
#[must_use]
pub fn processor() -> usize {
    PROCESSOR.get()
}

/// Says which processor runs.
pub fn set_processor(processor: usize) {
    PROCESSOR.set(processor);
}

/// Says what is done at a point at which another processor may run.
pub fn set_switch(switch: Option<fn()>) {
    SWITCH.set(switch);
}

/// What comes next may meet another processor.
pub fn point() {
    if let Some(switch) = SWITCH.get() {
        switch();
    }
}

/// Puts a program at a place of the program array.
pub fn install(place: u32, program: Program) {
    PROGRAMS.with_borrow_mut(|programs| programs.insert(place, program));
}

/// A program has ended by a tail call.
struct TailCall(Program);

pub(crate) fn tail_call(place: u32) {
    point();
    let program = PROGRAMS.with_borrow(|programs| programs.get(&place).copied());
    let mut calls = CALLS.get();
    calls[processor()] += 1;
    if let Some(program) = program
        && calls[processor()] <= TAIL_CALLS
    {
        CALLS.set(calls);
        panic::resume_unwind(Box::new(TailCall(program)));
    }
}

/// Runs a program, and those that it goes on in by tail calls, with a packet.
pub fn run(mut program: Program, skb: &mut __sk_buff) {
    let mut calls = CALLS.get();
    calls[processor()] = 0;
    CALLS.set(calls);
    let skb: *mut __sk_buff = skb;
    while let Err(ended) = panic::catch_unwind(AssertUnwindSafe(|| program(skb))) {
        match ended.downcast::<TailCall>() {
            Ok(next) => program = next.0,
            Err(other) => panic::resume_unwind(other),
        }
    }
}
