//! The version of everything that two builds must agree on to share what is pinned in bpffs: the layout of the shared types,
//! the geometry of the maps, and the meaning of every stored number. Not the code of the programs, and nothing that belongs
//! to one build alone: tables of parsers, what one program hands to the next, records.
//!
//! It is a hash that the compiler makes of the declarations themselves: there is no number to be raised. What no declaration
//! tells are the [`RULES`].

use crate::meaning::Meaning;

/// Who counts what. During an update programs of two builds see the events of one connection: if each left it to another hook
/// than the other does, it would be counted twice or not at all.
const RULES: &str = "an opening, an end and a failed attempt: who changes the phase first. \
    A reset that is sent: its tracepoint, or the end if that was skipped. A reset that is received, a time-out: the end. \
    Payload, messages, a change of protocol: who has claimed the stream.";

/// The version.
pub const ABI: u64 = {
    let hash = crate::wire::slot::meaning(Meaning::NONE);
    let hash = crate::wire::conn::meaning(crate::protocol::meaning(hash));
    let hash = crate::wire::loss::meaning(crate::label::meaning(hash));
    let hash = crate::wire::kept::meaning(crate::stream::meaning(hash));
    crate::wire::replica::meaning(hash).text(RULES).value()
};
