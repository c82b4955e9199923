//! What a family is: its name, its type, and how its samples are made.

use observer_common::{
    counters::{Counter, Level, Rows, Zeros},
    protocol::Protocol,
};
use prometheus_client::metrics::MetricType;

use super::{
    out::Out,
    rows::{Own, Row, Total},
};
use crate::{
    aggregate::{Cut, Ends},
    collect::{NamedPod, Trust},
};

/// A family: what stands above its samples, and how they are made.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Without prefix, and without the suffix of its type.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) level: Level,
    pub(super) samples: Samples,
}

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    /// What the name of a sample has behind the family's.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
            Kind::Info => Self::Info,
        }
    }
}

/// What has samples in a family, and which.
#[derive(Clone, Copy)]
pub(super) enum Samples {
    /// A counter of the tables.
    Counter(&'static Counter, Rows, Zeros),
    /// Each series, by role, port and protocol.
    Series(fn(&mut Out<'_, '_>, &Row)),
    /// Each series in which a connection has ever stayed.
    Present(fn(&mut Out<'_, '_>, &Row)),
    /// Each replica, with the counts of its servers that speak the protocol, all ports and containers together.
    Replicas(Protocol, fn(&mut Out<'_, '_>, &Row)),
    /// Each pod that the API server has named, with the node's name.
    Pods(fn(&mut Out<'_, '_>, &NamedPod, &str)),
    /// Each workload, by role and protocol.
    Totals(fn(&mut Out<'_, '_>, &Total)),
    /// Each pod of which something is not known.
    Trust(fn(&mut Out<'_, '_>, &Trust)),
    /// Each timer that cuts silent connections of a replica.
    Cuts(fn(&mut Out<'_, '_>, &Ends, &Cut)),
    /// The daemon.
    Own(fn(&mut Out<'_, '_>, &Own)),
}

/// Which families are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Those of the workloads.
    Workloads,
    /// Those of the observer itself.
    Own,
}

impl Family {
    /// Whether the part of a scrape has it.
    pub(super) const fn belongs_to(&self, part: Part) -> bool {
        match part {
            Part::All => true,
            Part::Workloads => !self.is_own(),
            Part::Own => self.is_own(),
        }
    }

    /// Whether it tells what the observer knows, and not what workloads do: then its name has no prefix, and nothing is left out.
    pub(super) const fn is_about_knowing(&self) -> bool {
        matches!(self.samples, Samples::Own(_) | Samples::Trust(_))
    }

    /// Whether it tells of the observer itself.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self.samples, Samples::Own(_))
    }
}
