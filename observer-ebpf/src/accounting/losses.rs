//! What is lost is counted.

use observer_common::wire::loss::Loss;

use crate::{maps::LOSS, memory::atomic};

/// Counts a loss.
#[inline(always)]
pub(crate) fn lost(loss: Loss) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: a pointer into the map's value, aligned by its type.
        unsafe { atomic::add(counter, 1) }
    }
}
