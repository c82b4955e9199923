//! Pages of a scrape on their way to the scraper: the next is written when there is room for it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// A page is sent when it has this many bytes.
const PAGE: usize = 64 * 1024;
/// Pages that wait for the scraper.
const WAITING: usize = 2;
/// A scraper that takes no page for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A scraper that reads takes a page within this time.
const READS: Duration = Duration::from_secs(1);
/// Scrapes under way at a time: each has its rows in memory. A further one breaks the oldest off, whose scraper does not read.
const UNDER_WAY: usize = 8;

/// The scrapes under way.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<VecDeque<oneshot::Sender<()>>>);

impl Turns {
    /// Begins one; what comes back ends when it is broken off.
    fn begin(&self) -> oneshot::Receiver<()> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|scrape| !scrape.is_closed());
        if under_way.len() >= UNDER_WAY {
            under_way.pop_front();
        }
        let (begun, ends) = oneshot::channel();
        under_way.push_back(begun);
        ends
    }
}

/// Where pages go; made on the runtime, used by a thread that may block.
pub(super) struct Pages {
    ends: oneshot::Receiver<()>,
    page: BytesMut,
    to: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

/// A writer of pages, and what comes out of it.
pub(super) fn pages(turns: &Turns) -> (Pages, mpsc::Receiver<io::Result<Bytes>>) {
    let (to, from) = mpsc::channel(WAITING);
    let page = BytesMut::with_capacity(PAGE);
    (Pages { ends: turns.begin(), page, to, runtime: Handle::current() }, from)
}

impl Pages {
    /// Writes a scrape by `write`, compressed if `gzip`; what goes wrong breaks the answer off.
    pub(super) fn fill(
        mut self,
        gzip: bool,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let to = self.to.clone();
        let written = if gzip {
            let mut encoder = GzEncoder::new(self, Compression::fast());
            write(&mut encoder).and_then(|()| encoder.finish()?.flush())
        } else {
            write(&mut self).and_then(|()| self.flush())
        };
        written.inspect_err(|error| {
            let _ = to.try_send(Err(io::Error::new(error.kind(), "broken off")));
        })
    }

    fn send(&mut self) -> io::Result<()> {
        if self.page.is_empty() {
            return Ok(());
        }
        let page = self.page.split().freeze();
        let room = self.runtime.block_on(async {
            // Whoever reads is never broken off.
            if let Ok(room) = timeout(READS, self.to.reserve()).await {
                return Some(room);
            }
            tokio::select! {
                room = timeout(PATIENCE, self.to.reserve()) => room.ok(),
                _ = &mut self.ends => None,
            }
        });
        match room {
            Some(Ok(room)) => {
                room.send(Ok(page));
                Ok(())
            }
            Some(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the scraper has gone")),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "the scraper does not read")),
        }
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.page.extend_from_slice(bytes);
        if self.page.len() >= PAGE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    /// All that a scraper gets, and the largest page.
    async fn scraped(gzip: bool) -> (Vec<u8>, usize) {
        let (pages, mut from) = pages(&Turns::default());
        let writer = tokio::task::spawn_blocking(move || {
            pages.fill(gzip, |to| (0..200_000).try_for_each(|line| writeln!(to, "line {line}")))
        });
        let (mut all, mut largest) = (Vec::new(), 0);
        while let Some(page) = from.recv().await {
            let page = page.unwrap();
            largest = largest.max(page.len());
            all.extend_from_slice(&page);
        }
        writer.await.unwrap().unwrap();
        (all, largest)
    }

    #[tokio::test]
    async fn all_arrives_in_pages() {
        let (plain, largest) = scraped(false).await;
        assert!(plain.ends_with(b"line 199999\n") && largest < 2 * PAGE, "{largest}");
        let (packed, _) = scraped(true).await;
        let mut unpacked = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain && packed.len() * 3 < plain.len());
    }

    #[tokio::test]
    async fn who_does_not_read_makes_room_for_who_does() {
        let turns = Turns::default();
        let begin = || {
            let (pages, from) = pages(&turns);
            let fill = move |to: &mut dyn Write| {
                to.write_all(&vec![0; 9 * PAGE]).and_then(|()| to.flush())
            };
            (
                tokio::task::spawn_blocking(move || {
                    pages.fill(false, |to| (0..9).try_for_each(|_| fill(to)))
                }),
                from,
            )
        };
        let idle: Vec<_> = (0..UNDER_WAY).map(|_| begin()).collect();
        let (reader, mut from) = begin();
        while from.recv().await.is_some() {}
        reader.await.unwrap().unwrap();
        let mut idle = idle.into_iter();
        let (oldest, _from) = idle.next().unwrap();
        assert_eq!(oldest.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(idle.all(|(scrape, _)| !scrape.is_finished()), "the others wait");
    }

    #[tokio::test]
    async fn who_has_gone_ends_the_scrape() {
        let (pages, from) = pages(&Turns::default());
        drop(from);
        let filled = tokio::task::spawn_blocking(move || {
            pages.fill(false, |to| to.write_all(&vec![0; 2 * PAGE]))
        });
        assert_eq!(filled.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
