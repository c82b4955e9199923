//! Two processors, of which one runs at a time: at each point at which another may interfere, a schedule decides who goes on.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

use aya_ebpf::host::{self, PROCESSORS};
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// Decides who goes on.
pub trait Schedule {
    /// The processor that goes on at a point at which `current` could, and the other one as well.
    fn choose(&mut self, current: usize) -> usize;
}

/// What a processor does.
pub type Work<'a> = Box<dyn FnOnce() + 'a>;

thread_local! {
    static YIELDERS: Cell<[*const Yielder<(), ()>; PROCESSORS]> =
        const { Cell::new([std::ptr::null(); PROCESSORS]) };
}

/// Runs the work of both processors to its end.
pub fn run(schedule: &mut dyn Schedule, work: [Work<'_>; PROCESSORS]) {
    let mut number = 0;
    let mut processors = work.map(|work| {
        let own = number;
        number += 1;
        // SAFETY: the coroutines end, or are dropped, within this function.
        let work: Work<'static> = unsafe { std::mem::transmute(work) };
        Some(Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
            let mut yielders = YIELDERS.get();
            yielders[own] = yielder;
            YIELDERS.set(yielders);
            work();
        }))
    });
    host::set_switch(Some(|| {
        let yielder = YIELDERS.get()[host::processor()];
        // SAFETY: that of the coroutine that runs.
        unsafe { &*yielder }.suspend(());
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut current = 0;
        loop {
            current = match processors.each_ref().map(Option::is_some) {
                [true, true] => schedule.choose(current),
                [true, false] => 0,
                [false, true] => 1,
                [false, false] => break,
            };
            host::set_processor(current);
            if let Some(processor) = &mut processors[current]
                && let CoroutineResult::Return(()) = processor.resume(())
            {
                processors[current] = None;
            }
        }
    }));
    host::set_switch(None);
    host::set_processor(0);
    if let Err(error) = result {
        panic::resume_unwind(error);
    }
}

/// Every schedule with at most so many switches away from a processor that could go on, one after the other.
#[derive(Debug)]
pub struct Exhaustive {
    limit: usize,
    /// The choices of this run: whether it switched, and whether the other choice is still to be tried.
    choices: Vec<(bool, bool)>,
    at: usize,
    switches: usize,
}

impl Exhaustive {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, choices: Vec::new(), at: 0, switches: 0 }
    }

    /// Goes on to the next schedule; false if there is none.
    pub fn advance(&mut self) -> bool {
        self.at = 0;
        self.switches = 0;
        while let Some((switched, open)) = self.choices.pop() {
            if open {
                self.choices.push((!switched, false));
                return true;
            }
        }
        false
    }
}

impl Schedule for Exhaustive {
    fn choose(&mut self, current: usize) -> usize {
        if self.at == self.choices.len() {
            self.choices.push((false, self.switches < self.limit));
        }
        let (switch, _) = self.choices[self.at];
        self.at += 1;
        if switch {
            self.switches += 1;
            1 - current
        } else {
            current
        }
    }
}

/// Switches at random, once in so many points.
#[derive(Debug)]
pub struct Random {
    random: fastrand::Rng,
    once_in: u32,
}

impl Random {
    #[must_use]
    pub fn new(seed: u64, once_in: u32) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), once_in }
    }
}

impl Schedule for Random {
    fn choose(&mut self, current: usize) -> usize {
        if self.random.u32(0..self.once_in) == 0 { 1 - current } else { current }
    }
}
