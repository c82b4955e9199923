//! Smaller numbers and more patience for slow machines: an emulated processor does in a minute what takes a real one a
//! second.

use std::{env, sync::LazyLock, time::Duration};

static DIVISOR: LazyLock<u64> = LazyLock::new(|| match env::var("OBSERVER_TEST_SCALE") {
    Ok(text) => text.parse().expect("OBSERVER_TEST_SCALE is a number"),
    Err(_) => 1,
});

/// Whether this is a slow machine.
pub(crate) fn is_slow() -> bool {
    *DIVISOR > 1
}

/// `count` connections on a real machine, and at least one on one that `OBSERVER_TEST_SCALE` says is so many times
/// slower.
pub(crate) fn scaled(count: u64) -> u64 {
    (count / (*DIVISOR).max(1)).max(1)
}

/// How long to wait there for what takes up to `time` on a real machine.
pub(crate) fn patience(time: Duration) -> Duration {
    // What is waited for has become smaller, too, but for the start of programs.
    time * (*DIVISOR).clamp(1, 8) as u32
}
