//! The version of everything that two builds must agree on to share what is pinned in bpffs: the layout of the shared types,
//! the geometry of the maps, and the meaning of every stored number. Not the code of the programs.
//!
//! It is a hash that the compiler makes of the declarations themselves: there is no number to be raised, and none to be
//! forgotten.

use crate::meaning::Meaning;

/// The version.
pub const ABI: u64 = {
    let hash = crate::wire::slot::meaning(Meaning::NONE);
    let hash = crate::wire::conn::meaning(crate::protocol::meaning(hash));
    let hash = crate::wire::loss::meaning(crate::label::meaning(hash));
    crate::wire::event::meaning(crate::stream::meaning(hash)).value()
};
