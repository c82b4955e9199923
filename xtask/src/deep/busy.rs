//! A busy machine: a thread for each processor that computes nothing, for as long as asked.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Threads that keep processors busy until it is dropped. The scheduler gives each of them what is left, and at most half
/// of a processor that something else wants.
pub(super) struct Busy {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    pub(super) fn start(threads: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            })
        };
        Self { threads: (0..threads).map(spin).collect(), over }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    /// Ticks that this process has computed, the 14th field of `proc_pid_stat(5)`.
    fn ticks() -> u64 {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(11).unwrap().parse().unwrap()
    }

    #[test]
    fn it_computes_until_it_is_dropped() {
        let before = ticks();
        let busy = Busy::start(2);
        let deadline = Instant::now() + Duration::from_mins(1);
        while ticks() < before + 5 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(ticks() >= before + 5, "nothing was computed");
        let over = Arc::clone(&busy.over);
        drop(busy);
        assert_eq!(Arc::strong_count(&over), 1, "every thread has ended");
    }
}
