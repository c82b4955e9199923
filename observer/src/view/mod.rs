//! What people look at: one table of what this node counts, the connections that are open, and the names that a filter can
//! mean. `observer top`, `ps`, `doctor` and `tail` ask for it through the socket, the page over HTTP.
//!
//! ```text
//!   collector ─▶ table ─┬─▶ socket ─▶ observer top, doctor
//!                       └─▶ HTTP   ─▶ the page
//!   sock_diag ─▶ living ──▶ socket ─▶ observer ps
//! ```
//!
//! However many look, the cells are read once a second for all of them. Nothing here holds up the counting, which the kernel
//! does, and a listing of connections keeps no more of them than it shows.

mod filter;
mod findings;
mod living;
mod near;
mod ports;
mod request;
mod symptoms;
mod table;

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    aggregate::{Cut, Ends, sentence},
    collect::{Collector, lock},
};

pub use filter::Filter;
pub use findings::{Finding, Mark};
pub use living::{Listing, Unlisted};
pub use ports::HttpPort;
pub use request::{MOST, Request, Show, Sort};
pub use table::{Daemon, IdleCut, Names, Probe, Row, Table};

/// Timers that are told to a reader at most.
const TIMERS: usize = 3;
/// So old is a table at most.
pub const EVERY: Duration = Duration::from_secs(1);
/// One that is asked for regularly is not found a moment too young.
const SLACK: Duration = Duration::from_millis(50);

/// A table as it is sent.
#[derive(Debug)]
pub struct Sheet {
    at: Instant,
    json: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Sheet {
    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.json.clone()
    }

    /// The same, compressed.
    pub fn gzip(&self) -> Bytes {
        let packed = || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            // Writing to memory does not fail.
            let _ = io::Write::write_all(&mut encoder, &self.json);
            encoder.finish().unwrap_or_default().into()
        };
        self.gzip.get_or_init(packed).clone()
    }
}

/// Which namespaces are shown.
type Wanted = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// What people may look at.
pub struct Views {
    collector: Arc<Mutex<Collector>>,
    daemon: Daemon,
    wanted: Wanted,
    /// The last table. Who finds it too old makes a new one; the others wait for that.
    sheet: AsyncMutex<Option<Arc<Sheet>>>,
    /// One listing at a time.
    listing: AsyncMutex<()>,
}

impl Views {
    /// Views of what the collector counts, as far as the namespaces are `wanted`.
    #[must_use]
    pub fn new(
        collector: Arc<Mutex<Collector>>,
        daemon: Daemon,
        wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let wanted = Box::new(wanted);
        Self {
            collector,
            daemon,
            wanted,
            sheet: AsyncMutex::default(),
            listing: AsyncMutex::default(),
        }
    }

    /// The table, no older than [`EVERY`].
    ///
    /// # Errors
    /// If the cells cannot be read.
    pub async fn table(self: &Arc<Self>) -> io::Result<Arc<Sheet>> {
        let mut last = self.sheet.lock().await;
        if let Some(sheet) = &*last
            && sheet.at.elapsed() + SLACK < EVERY
        {
            return Ok(Arc::clone(sheet));
        }
        let views = Arc::clone(self);
        let sheet = tokio::task::spawn_blocking(move || views.sheet()).await??;
        let sheet = Arc::new(sheet);
        *last = Some(Arc::clone(&sheet));
        Ok(sheet)
    }

    fn sheet(&self) -> io::Result<Sheet> {
        let (at, time) = (Instant::now(), SystemTime::now());
        let (snapshot, since) = {
            let mut collector = lock(&self.collector);
            let snapshot = collector.snapshot()?;
            (snapshot, collector.probes().since())
        };
        let table = Table::new(&snapshot, &self.daemon, (time, since), &*self.wanted);
        let mut json = serde_json::to_vec(&table)?;
        json.push(b'\n');
        Ok(Sheet { at, json: json.into(), gzip: OnceLock::new() })
    }

    /// The connections that are open now and that `filter` wants: up to `limit`, the first of them by `sort`.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub async fn connections(
        self: &Arc<Self>,
        filter: Filter,
        sort: Sort,
        limit: usize,
    ) -> anyhow::Result<Listing> {
        let _turn = self.listing.lock().await;
        let views = Arc::clone(self);
        let list = move || living::list(&views.collector, &filter, sort, limit);
        tokio::task::spawn_blocking(list).await?
    }

    /// The timers that are known to cut what `filter` wants: a few of them, in words.
    #[must_use]
    pub fn timers(&self, filter: &Filter) -> Vec<String> {
        let cuts = lock(&self.collector).cuts();
        let wanted = cuts.into_iter().filter(|(whose, _)| filter.wants_ends(whose));
        let text = |(whose, cut): (Ends, Cut)| {
            let (pod, role) = (&whose.pod, whose.role.label());
            format!("{pod} ({role}): {}", sentence(&whose, cut))
        };
        wanted.map(text).take(TIMERS).collect()
    }

    /// What is to be said of a filter whose names nothing on this node has.
    pub async fn hints(self: &Arc<Self>, filter: &Filter) -> Vec<String> {
        if !filter.has_names() {
            return Vec::new();
        }
        let (views, filter) = (Arc::clone(self), filter.clone());
        let look = move || {
            let mut collector = lock(&views.collector);
            collector.refresh();
            near::hints(&filter, &collector.identities())
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}
