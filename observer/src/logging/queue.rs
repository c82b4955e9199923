//! A bounded queue in front of standard error, emptied by a thread of its own.
//!
//! Not tracing-appender's: that one says on standard error that standard error takes nothing, and so waits for it at the
//! end.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

/// How long the last lines may take to be written.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often there may be room for the last word.
const POLL: Duration = Duration::from_millis(10);

enum Message {
    Line(Vec<u8>),
    /// All before this is written: an answer comes.
    Written(SyncSender<()>),
}

/// The queue. Dropped, it waits a while for what is in it to be written.
pub(super) struct Queue(Writer);

/// Puts lines into the queue, or drops and counts them.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// A queue of so many lines before standard error; `name` is what they are.
    pub(super) fn start(name: &'static str, lines: usize) -> io::Result<Self> {
        let tell = move |dropped| {
            warn!(lines = dropped, "lines of the {name} were dropped: standard error was not read");
        };
        Self::before(io::stderr(), name, lines, tell)
    }

    /// A queue before `out`; `tell` hears of lines that were dropped, as soon as there is room.
    fn before(
        out: impl Write + Send + 'static,
        name: &str,
        lines: usize,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, messages) = sync_channel(lines);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || empty(&messages, out, &counted, tell))?;
        Ok(Self(Writer { queue, dropped }))
    }

    pub(super) fn writer(&self) -> Writer {
        self.0.clone()
    }

    /// How many lines were dropped up to now.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.dropped)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let began = Instant::now();
        let (written, answer) = sync_channel(1);
        let mut last = Message::Written(written);
        while let Err(TrySendError::Full(message)) = self.0.queue.try_send(last) {
            if began.elapsed() > PATIENCE {
                return;
            }
            last = message;
            thread::sleep(POLL);
        }
        // Nobody reads, then.
        let _ = answer.recv_timeout(PATIENCE.saturating_sub(began.elapsed()));
    }
}

impl Write for &Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_owned())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn empty(
    messages: &Receiver<Message>,
    mut out: impl Write,
    dropped: &AtomicU64,
    tell: impl Fn(u64),
) {
    let mut told = 0;
    loop {
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let now = dropped.load(Ordering::Relaxed);
                if now != told {
                    tell(now - told);
                    told = now;
                }
                let Ok(message) = messages.recv() else { return };
                message
            }
        };
        match message {
            // If that fails there is nobody left to tell.
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Written(answer) => drop(answer.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd as _, OwnedFd},
        sync::Mutex,
    };

    use super::*;

    /// A pipe whose reader does not read.
    fn stalled() -> (io::PipeReader, io::PipeWriter) {
        io::pipe().expect("a pipe")
    }

    #[test]
    fn nobody_waits_for_who_does_not_read_and_what_is_dropped_is_counted() {
        let (reader, writer) = stalled();
        let told = Arc::new(Mutex::new(0));
        let sum = Arc::clone(&told);
        let tell = move |dropped| *sum.lock().unwrap() += dropped;
        let queue = Queue::before(writer, "test", 16, tell).unwrap();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let (began, all) = (Instant::now(), 1_000_u64);
        for _ in 0..all {
            (&queue.writer()).write_all(&line).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

        // Once somebody reads, all is there that was not dropped.
        let reading = thread::spawn(move || {
            let mut read = Vec::new();
            io::Read::read_to_end(&mut { reader }, &mut read).map(|_| read.len() as u64)
        });
        drop(queue);
        let read = reading.join().unwrap().unwrap() / line.len() as u64;
        let dropped = *told.lock().unwrap();
        assert!(dropped > 0 && read > 0, "{read} read, {dropped} dropped");
        assert_eq!(read + dropped, all);
    }

    #[test]
    fn the_end_waits_for_the_last_lines_but_not_for_ever() {
        let (mut reader, writer) = stalled();
        let queue = Queue::before(writer, "test", 16, |_| ()).unwrap();
        (&queue.writer()).write_all(b"last\n").unwrap();
        drop(queue);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!(read, "last\n");

        let (reader, writer) = stalled();
        let full: OwnedFd = writer.as_fd().try_clone_to_owned().unwrap();
        let queue = Queue::before(writer, "test", 16, |_| ()).unwrap();
        for _ in 0..100 {
            (&queue.writer()).write_all(&b"x".repeat(65_536)).unwrap();
        }
        let began = Instant::now();
        drop(queue);
        assert!(began.elapsed() < 3 * PATIENCE, "{:?}", began.elapsed());
        drop((reader, full));
    }
}
