//! The books: what one end of the workload counted.

use std::{
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;

use serde_json::{Value, json};

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one and returns how many there were before.
    pub(crate) fn increment(&self) -> u64 {
        self.add(1)
    }

    /// Counts some and returns how many there were before.
    pub(crate) fn add(&self, count: u64) -> u64 {
        // The books are read after the tasks that write them were joined, or polled: no ordering
        // between counters is relied on.
        self.0.fetch_add(count, Ordering::Relaxed)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Times from a message to its answer, to within a hundredth.
pub(crate) struct RoundTrips(Mutex<Histogram<u64>>);

impl Default for RoundTrips {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new(2).expect("two digits are possible")))
    }
}

impl RoundTrips {
    pub(crate) fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Only what exceeds the largest number is refused.
        times.record(nanoseconds).expect("it grows with what is recorded");
    }

    /// In microseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// The counters of one server or one driver.
#[derive(Default)]
pub(crate) struct Books {
    /// Connections tried (driver only).
    pub(crate) attempted: Counter,
    /// Connections accepted by a server, established by a driver.
    pub(crate) opened: Counter,
    /// Of those, the ones that this end has closed, in whichever way.
    pub(crate) closed: Counter,
    /// HTTP requests received (server only): upgrades, GETs or gRPC calls; none for plain TCP.
    pub(crate) requests: Counter,
    /// Application messages received: WebSocket messages, HTTP or gRPC requests (responses, at
    /// the driver), binary records. A driver counts only the ones that are what they should be.
    pub(crate) messages_in: Counter,
    /// Application messages sent.
    pub(crate) messages_out: Counter,
    /// Connections that went otherwise than they should have (driver only).
    pub(crate) failures: Counter,
    /// Of messages that were sent one at a time (driver only).
    pub(crate) round_trips: RoundTrips,
}

impl Books {
    /// Connections that are open now.
    pub(crate) fn active(&self) -> u64 {
        self.opened.get().saturating_sub(self.closed.get())
    }

    /// The books as a server prints them.
    pub(crate) fn of_server(&self) -> Value {
        json!({
            "accepted": self.opened.get(),
            "closed": self.closed.get(),
            "requests": self.requests.get(),
            "messages_in": self.messages_in.get(),
            "messages_out": self.messages_out.get(),
        })
    }

    /// The books as a driver prints them; `ready` says whether the long connections are up.
    pub(crate) fn of_driver(&self, ready: bool) -> Value {
        json!({
            "ready": ready,
            "attempted": self.attempted.get(),
            "opened": self.opened.get(),
            "closed": self.closed.get(),
            "active": self.active(),
            "messages_in": self.messages_in.get(),
            "messages_out": self.messages_out.get(),
            "failures": self.failures.get(),
            "round_trip_us": {
                "p50": self.round_trips.quantile(0.50),
                "p99": self.round_trips.quantile(0.99),
            },
        })
    }
}

/// Prints one JSON line and flushes it, since a program reads it at the other end of a pipe.
pub(crate) fn print(line: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
