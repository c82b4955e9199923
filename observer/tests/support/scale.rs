//! Smaller numbers and more patience for slow machines, and more patience for busy ones: an emulated processor does in a
//! minute what takes a real one a second.

use std::{env, fs, num::NonZero, sync::LazyLock, thread, time::Duration};

static DIVISOR: LazyLock<u64> = LazyLock::new(|| match env::var("OBSERVER_TEST_SCALE") {
    Ok(text) => text.parse().expect("OBSERVER_TEST_SCALE is a number"),
    Err(_) => 1,
});

/// Whether this is a slow machine.
pub(crate) fn is_slow() -> bool {
    *DIVISOR > 1
}

/// Whether there is time for all that the gate has none for: `cargo xtask deep` says so.
pub(crate) fn is_deep() -> bool {
    env::var_os("OBSERVER_TEST_DEEP").is_some()
}

/// `count` connections on a real machine, and at least one on one that `OBSERVER_TEST_SCALE` says is so many times
/// slower.
pub(crate) fn scaled(count: u64) -> u64 {
    (count / (*DIVISOR).max(1)).max(1)
}

/// How long to wait for what takes up to `time` on a real machine that has nothing else to do.
///
/// A deadline only decides how long a test that fails takes: it may come late, and must not come early.
pub(crate) fn patience(time: Duration) -> Duration {
    // What is waited for has become smaller, too, but for the start of programs.
    time * (*DIVISOR as u32).max(wanting_for_each_processor()).clamp(1, 8)
}

/// How many threads have wanted each of the processors in the last minute: as many times longer does everything take.
fn wanting_for_each_processor() -> u32 {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    (load / processors as f64).ceil() as u32
}
