//! Faults that the tests have to find.

use std::cell::Cell;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A claim is given up without a look at what was handed over meanwhile.
    BlindRelease,
    /// A stream is claimed that somebody else has claimed.
    SharedClaim,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Makes something go wrong on this thread.
pub fn set(fault: Option<Fault>) {
    FAULT.set(fault);
}

pub(crate) fn is(fault: Fault) -> bool {
    FAULT.get() == Some(fault)
}
