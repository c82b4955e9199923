//! What is exported, as the reference of metrics in `docs/metrics.md` tells it.

use observer_common::counters::Level;

use super::{encode::FAMILIES, family::Kind};

/// A family, for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The name that Prometheus stores, but for the suffixes of a histogram's series.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// The first level of detail that has it, or `None` for those of the observer itself, which every level has.
    pub level: Option<Level>,
}

/// All families, in the order in which they are sent.
pub fn describe() -> impl Iterator<Item = Described> {
    FAMILIES.iter().map(|family| Described {
        name: format!("{}{}", family.name, family.kind.suffix()),
        kind: match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        },
        help: family.help,
        level: (!family.is_own()).then_some(family.level),
    })
}
