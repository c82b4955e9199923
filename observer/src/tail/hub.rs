//! The one reader of the ring buffer, and who else hears of it.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    line::{Clock, Dropped, Line, line},
    source::{Kernel, Source},
};
use crate::{
    attribute::Identity,
    collect::Collector,
    records::{Event, Record},
    view::Filter,
};

/// How often the ring buffer is read while somebody listens.
const POLL: Duration = Duration::from_millis(100);
/// How often it is read when only what is found in records needs them, and how often that is asked.
const LOOK: Duration = Duration::from_millis(500);
/// Records that are named before the scrapes get their turn.
const TURN: usize = 4_096;
/// Lines that wait for a reader: at 20,000 connections a second those of a fifth of a second.
const QUEUE: usize = 4_096;

/// What is asked of the hub.
enum Command {
    Join { filter: Box<Filter>, joined: oneshot::Sender<Seat> },
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
        self.0.send(Command::Join { filter: Box::new(filter), joined }).ok()?;
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

/// Starts to read `records`, a ring buffer of `size` bytes; each ended connection is logged if `log` says so.
///
/// # Errors
/// If there can be no more threads.
pub fn spawn(
    collector: Arc<Mutex<Collector>>,
    records: RingBuf<MapData>,
    size: u32,
    log: bool,
) -> std::io::Result<Hub> {
    start(Kernel { collector, records, size: size as usize }, log)
}

fn start(source: impl Source, log: bool) -> std::io::Result<Hub> {
    let (sender, commands) = channel();
    let (readers, clock) = (Vec::new(), Clock::now());
    let mut worker = Worker { source, log, needed: false, wanted: false, readers, clock };
    thread::Builder::new().name("records".to_owned()).spawn(move || worker.run(&commands))?;
    Ok(Hub(sender))
}

struct Worker<S> {
    source: S,
    log: bool,
    /// Whether records are needed for what is found in them.
    needed: bool,
    /// Whether the kernel was told to write records.
    wanted: bool,
    readers: Vec<Reader>,
    clock: Clock,
}

impl<S: Source> Worker<S> {
    fn run(&mut self, commands: &Receiver<Command>) {
        // What an earlier daemon had wanted is over.
        self.source.want(self.log);
        self.wanted = self.log;
        let mut more = false;
        loop {
            let is_followed = self.log || !self.readers.is_empty();
            let pause = match (more, is_followed) {
                (true, _) => Duration::ZERO,
                (false, true) => POLL,
                (false, false) => LOOK,
            };
            let command = commands.recv_timeout(pause);
            more = match command {
                Ok(Command::Join { filter, joined }) => self.join(*filter, joined),
                Ok(Command::Flush { done }) => {
                    let more = self.read();
                    // The reader may be gone.
                    let _ = done.send(());
                    more
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Adds a reader, who gets what happens from now on; whether there may be more to read.
    fn join(&mut self, filter: Filter, joined: oneshot::Sender<Seat>) -> bool {
        let more = self.read();
        let (lines, queue) = mpsc::channel(QUEUE);
        let (dropped, missed) = watch::channel(Dropped::default());
        let ring_before = self.source.dropped();
        self.readers.push(Reader { filter, lines, dropped, ring_before, queue: 0 });
        self.settle();
        // A reader that is gone already is found out when it gets its first line.
        let _ = joined.send(Seat { lines: queue, dropped: missed });
        more
    }

    /// Reads all that is there now, but not for ever what comes meanwhile; whether there may be more.
    fn read(&mut self) -> bool {
        self.clock.adjust();
        let mut left = self.source.capacity();
        let mut records = Vec::new();
        let more = loop {
            let turn = left.min(TURN);
            let taken = self.source.take(turn, &mut records);
            for (record, identity) in records.drain(..) {
                self.pass_on(&record, &identity);
            }
            left -= taken;
            if taken < turn {
                break false;
            }
            if left == 0 {
                break true;
            }
        };
        let ring = self.source.dropped();
        for reader in &mut self.readers {
            let now = Dropped { ring: ring - reader.ring_before, queue: reader.queue };
            reader.dropped.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
        self.readers.retain(|reader| !reader.lines.is_closed());
        self.settle();
        more
    }

    /// Reads if there can be records; whether there may be more.
    fn look(&mut self) -> bool {
        self.needed = self.source.is_needed();
        let had = self.wanted;
        self.settle();
        (had || self.wanted) && self.read()
    }

    /// Tells the kernel whether records are wanted, if that has changed.
    fn settle(&mut self) {
        let wanted = self.log || self.needed || !self.readers.is_empty();
        if wanted != self.wanted {
            self.source.want(wanted);
            self.wanted = wanted;
        }
    }

    fn pass_on(&mut self, record: &Record, identity: &Identity) {
        if self.log && matches!(record.event, Event::Ended { .. }) {
            Line::of(record, identity, self.clock).log();
        }
        let mut text = None;
        for reader in &mut self.readers {
            if reader.filter.wants(record, identity) {
                reader.offer(text.get_or_insert_with(|| line(record, identity, self.clock).into()));
            }
        }
    }
}

impl Reader {
    fn offer(&mut self, line: &Arc<str>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(Arc::clone(line)) {
            self.queue += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use observer_common::{
        label::{Reason, Role},
        protocol::Protocol,
    };
    use tokio::time::timeout;

    use super::*;
    use crate::attribute::identify;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Records that come faster than they are read, as long as anybody wants them.
    struct Flood {
        wanted: Arc<AtomicBool>,
        /// Whether they are needed by the daemon itself.
        needed: Arc<AtomicBool>,
        /// How many were taken.
        taken: Arc<AtomicUsize>,
        identity: Arc<Identity>,
    }

    impl Source for Flood {
        fn capacity(&self) -> usize {
            TURN + 1
        }

        fn take(&mut self, limit: usize, records: &mut Vec<(Record, Arc<Identity>)>) -> usize {
            let record = Record {
                event: Event::Ended { reason: Reason::Peer, reset: None },
                cgroup: 1,
                role: Role::Server,
                protocol: Protocol::Tcp,
                local: "127.0.0.1:80".parse().unwrap(),
                peer: "127.0.0.1:40000".parse().unwrap(),
                at: Duration::from_secs(2),
                lifetime: Duration::from_secs(1),
                adopted: false,
                idle: Duration::ZERO,
                bytes: [0, 0],
                retransmits: 0,
            };
            self.taken.fetch_add(limit, Ordering::AcqRel);
            records.extend((0..limit).map(|_| (record.clone(), Arc::clone(&self.identity))));
            limit
        }

        fn dropped(&mut self) -> u64 {
            0
        }

        fn is_needed(&mut self) -> bool {
            self.needed.load(Ordering::Acquire)
        }

        fn want(&mut self, wanted: bool) {
            self.wanted.store(wanted, Ordering::Release);
        }
    }

    #[tokio::test]
    async fn what_the_daemon_needs_itself_is_read_without_a_reader() {
        let (wanted, needed): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let taken: Arc<AtomicUsize> = Arc::default();
        let identity = Arc::new(identify("/system.slice/nginx.service"));
        let flood = Flood {
            wanted: Arc::clone(&wanted),
            needed: Arc::clone(&needed),
            taken: Arc::clone(&taken),
            identity,
        };
        let _hub = start(flood, false).unwrap();
        let until = |done: Box<dyn Fn() -> bool>| async move {
            while !done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(!wanted.load(Ordering::Acquire));
        needed.store(true, Ordering::Release);
        let read = Arc::clone(&taken);
        timeout(PATIENCE, until(Box::new(move || read.load(Ordering::Acquire) > 0)))
            .await
            .expect("they are read");
        assert!(wanted.load(Ordering::Acquire));
        needed.store(false, Ordering::Release);
        timeout(PATIENCE, until(Box::new(move || !wanted.load(Ordering::Acquire))))
            .await
            .expect("they are not wanted any more");
    }

    #[tokio::test]
    async fn who_comes_and_goes_need_not_wait_for_a_pause() {
        let wanted = Arc::new(AtomicBool::new(false));
        let identity = Arc::new(identify("/system.slice/nginx.service"));
        let (needed, taken) = (Arc::default(), Arc::default());
        let flood = Flood { wanted: Arc::clone(&wanted), needed, taken, identity };
        let hub = start(flood, false).unwrap();
        let join = || timeout(PATIENCE, hub.join(Filter::default()));
        let mut first = join().await.expect("joined in time").expect("the hub runs");
        let second = join().await.expect("joined in time").expect("the hub runs");
        timeout(PATIENCE, hub.flush()).await.expect("flushed in time");
        assert!(first.lines.recv().await.is_some());
        assert!(wanted.load(Ordering::Acquire));
        drop((first, second));
        let gone = async {
            while wanted.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("nobody listens any more");
    }
}
