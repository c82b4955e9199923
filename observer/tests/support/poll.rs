//! Waiting: ask again until the answer comes or the time is up.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::scale::patience;

/// Pause between two questions; short beside what is waited for, long beside a system call.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer; `None` if there was none within `deadline`, or longer on a slow or a busy machine.
///
/// It asks at least once, and a last time after the deadline.
pub(crate) fn poll<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        // The machine may have become busy meanwhile.
        let waited = start.elapsed();
        let last = waited >= deadline && waited >= patience(deadline);
        let answer = ask();
        if answer.is_some() || last {
            return answer;
        }
        thread::sleep(PAUSE);
    }
}
