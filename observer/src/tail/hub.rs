//! The one reader of the ring buffer, and who else hears of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use observer_common::wire::loss::Loss;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::{
    Filter,
    line::{Clock, Dropped, line},
};
use crate::{
    collect::{Collector, lock},
    records::Record,
};

/// How often the ring buffer is read while somebody listens.
const POLL: Duration = Duration::from_millis(100);
/// Records that are read before the scrapes get their turn.
const TURN: usize = 4_096;
/// Lines that wait for a reader: at 20,000 connections a second those of a fifth of a second.
const QUEUE: usize = 4_096;

/// What is asked of the hub.
enum Command {
    Join { filter: Filter, joined: oneshot::Sender<Seat> },
    Flush { done: oneshot::Sender<()> },
}

/// What a reader gets.
pub(super) struct Seat {
    /// The lines it wants.
    pub(super) lines: mpsc::Receiver<Arc<str>>,
    /// What it has missed.
    pub(super) dropped: watch::Receiver<Dropped>,
}

/// A way to ask for records. The hub ends with the last of them.
#[derive(Clone)]
pub struct Hub(Sender<Command>);

impl Hub {
    /// Begins to listen; `None` if the hub has ended.
    pub(super) async fn join(&self, filter: Filter) -> Option<Seat> {
        let (joined, seat) = oneshot::channel();
        self.0.send(Command::Join { filter, joined }).ok()?;
        seat.await.ok()
    }

    /// Returns when all that has happened until now is in the queues.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Command::Flush { done }).is_ok() {
            // If the hub has ended there is nothing to wait for.
            let _ = flushed.await;
        }
    }
}

/// Somebody who listens through a socket.
struct Reader {
    filter: Filter,
    lines: mpsc::Sender<Arc<str>>,
    dropped: watch::Sender<Dropped>,
    /// What the ring buffer had dropped before.
    ring_before: u64,
    /// What did not fit into the queue.
    queue: u64,
}

/// Starts to read `records`; each ended connection is logged if `log` says so.
///
/// # Errors
/// If there can be no more threads.
pub fn spawn(
    collector: Arc<Mutex<Collector>>,
    records: RingBuf<MapData>,
    log: bool,
) -> std::io::Result<Hub> {
    let (sender, commands) = channel();
    let readers = Vec::new();
    let mut worker = Worker { collector, records, log, readers, clock: Clock::now() };
    thread::Builder::new().name("records".to_owned()).spawn(move || worker.run(&commands))?;
    Ok(Hub(sender))
}

struct Worker {
    collector: Arc<Mutex<Collector>>,
    records: RingBuf<MapData>,
    log: bool,
    readers: Vec<Reader>,
    clock: Clock,
}

impl Worker {
    fn run(&mut self, commands: &Receiver<Command>) {
        self.want(self.log);
        loop {
            let command = if self.log || !self.readers.is_empty() {
                commands.recv_timeout(POLL)
            } else {
                commands.recv().map_err(Into::into)
            };
            match command {
                Ok(Command::Join { filter, joined }) => self.join(filter, joined),
                Ok(Command::Flush { done }) => {
                    self.read();
                    // The reader may be gone.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.read(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Adds a reader, who gets what happens from now on.
    fn join(&mut self, filter: Filter, joined: oneshot::Sender<Seat>) {
        self.read();
        let (lines, queue) = mpsc::channel(QUEUE);
        let (dropped, missed) = watch::channel(Dropped::default());
        let ring_before = ring_full(&mut self.collector());
        self.readers.push(Reader { filter, lines, dropped, ring_before, queue: 0 });
        self.want(true);
        // A reader that is gone already is found out when it gets its first line.
        let _ = joined.send(Seat { lines: queue, dropped: missed });
    }

    /// Reads all that is there.
    fn read(&mut self) {
        self.clock.adjust();
        while self.turn() == TURN {}
        let ring = ring_full(&mut self.collector());
        for reader in &mut self.readers {
            let now = Dropped { ring: ring - reader.ring_before, queue: reader.queue };
            reader.dropped.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
        self.readers.retain(|reader| !reader.lines.is_closed());
        if self.readers.is_empty() && !self.log {
            self.want(false);
        }
    }

    /// Reads up to [`TURN`] records; returns how many it were.
    fn turn(&mut self) -> usize {
        let collector = Arc::clone(&self.collector);
        let mut collector = lock(&collector);
        for count in 0..TURN {
            let Some(bytes) = self.records.next() else { return count };
            let record = match Record::try_from(&*bytes) {
                Ok(record) => record,
                Err(error) => {
                    warn!(%error, "unreadable record");
                    continue;
                }
            };
            // A cgroup that is younger than the last walk.
            collector.look_for([record.cgroup]);
            let identity = collector.identity(record.cgroup);
            if self.log {
                record.log(&identity);
            }
            let mut text = None;
            for reader in &mut self.readers {
                if reader.filter.wants(&record, &identity) {
                    let text =
                        text.get_or_insert_with(|| line(&record, &identity, self.clock).into());
                    reader.offer(text);
                }
            }
        }
        TURN
    }

    /// Tells the kernel whether anybody listens.
    fn want(&self, wanted: bool) {
        if let Err(error) = self.collector().probes().want_records(wanted) {
            warn!(%error, wanted, "cannot tell the programs whether records are wanted");
        }
    }

    fn collector(&self) -> MutexGuard<'_, Collector> {
        lock(&self.collector)
    }
}

impl Reader {
    fn offer(&mut self, line: &Arc<str>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(Arc::clone(line)) {
            self.queue += 1;
        }
    }
}

/// How many records the ring buffer has dropped.
fn ring_full(collector: &mut Collector) -> u64 {
    collector.probes().losses()[Loss::RingFull as usize]
}
