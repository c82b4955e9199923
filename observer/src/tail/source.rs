//! Where records come from: the kernel's ring buffer, with the names that the collector knows.

use std::sync::{Arc, Mutex};

use aya::maps::{MapData, RingBuf};
use observer_common::wire::{event::ConnRecord, loss::Loss};
use tracing::warn;

use crate::{
    attribute::Identity,
    collect::{Collector, lock},
    records::Record,
};

/// What the hub reads.
pub(super) trait Source: Send + 'static {
    /// How many records can be waiting.
    fn capacity(&self) -> usize;

    /// Takes up to `limit` records, and appends those that can be read; returns how many it took.
    fn take(&mut self, limit: usize, records: &mut Vec<(Record, Arc<Identity>)>) -> usize;

    /// How many records were dropped, ever, because too many were waiting.
    fn dropped(&mut self) -> u64;

    /// Whether records are needed for what is found in them.
    fn is_needed(&mut self) -> bool;

    /// Says whether anybody wants records.
    fn want(&mut self, wanted: bool);
}

/// The kernel's.
pub(super) struct Kernel {
    pub(super) collector: Arc<Mutex<Collector>>,
    pub(super) records: RingBuf<MapData>,
    /// The ring buffer's size in bytes.
    pub(super) size: usize,
}

/// What the kernel puts before each record (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;

impl Source for Kernel {
    fn capacity(&self) -> usize {
        self.size / (size_of::<ConnRecord>() + HEADER) + 1
    }

    fn take(&mut self, limit: usize, records: &mut Vec<(Record, Arc<Identity>)>) -> usize {
        let mut taken = 0;
        let mut read = Vec::new();
        while taken < limit
            && let Some(bytes) = self.records.next()
        {
            taken += 1;
            match Record::try_from(&*bytes) {
                Ok(record) => read.push(record),
                Err(error) => warn!(%error, "unreadable record"),
            }
        }
        let mut collector = lock(&self.collector);
        // Cgroups that are younger than the last walk; one walk names all of them.
        collector.look_for(read.iter().map(|record| record.cgroup));
        records.extend(read.into_iter().map(|record| {
            let identity = collector.identity(record.cgroup);
            collector.note(&record, &identity);
            (record, identity)
        }));
        taken
    }

    fn dropped(&mut self) -> u64 {
        lock(&self.collector).probes().losses()[Loss::RingFull as usize]
    }

    fn is_needed(&mut self) -> bool {
        lock(&self.collector).watches()
    }

    fn want(&mut self, wanted: bool) {
        if let Err(error) = lock(&self.collector).probes().want_records(wanted) {
            warn!(%error, wanted, "cannot tell the programs whether records are wanted");
        }
    }
}
