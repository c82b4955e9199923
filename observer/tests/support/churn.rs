//! Connections that come and go beside what a test is about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{scale::is_slow, workload::Driver};

/// One driver after the other, for as long as this value lives.
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    /// Comes to the number of connections that were opened.
    thread: Option<JoinHandle<u64>>,
}

impl Churn {
    /// `start` starts a driver that has short connections only.
    pub(crate) fn start(start: impl Fn() -> Driver + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut opened = 0;
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                let mut driver = start();
                driver.ready();
                opened += driver.finish().opened;
                if is_slow() {
                    // The others need the one emulated processor, too.
                    thread::sleep(started.elapsed());
                }
            }
            opened
        });
        Self { stop, thread: Some(thread) }
    }

    /// Lets the connections end, and returns how many there were.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("no connection failed")
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its panic, if it had one, has been shown.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
