//! What one end counted.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

/// How a connection ended, as this end's kernel must have seen it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reason {
    Local,
    Peer,
    ResetLocal,
    ResetPeer,
    Aborted,
}

/// In the order of [`Reason`], with the observer's words.
const REASONS: [&str; 5] = ["local", "peer", "reset_local", "reset_peer", "aborted"];

/// The counters, shared by all threads.
#[derive(Default)]
pub(crate) struct Books {
    opened: AtomicU64,
    closed: [AtomicU64; REASONS.len()],
    failures: AtomicU64,
}

impl Books {
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn close(&self, reason: Reason) {
        self.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Something went otherwise than it should have; the first ones are described.
    pub(crate) fn fail(&self, what: &dyn std::fmt::Display) {
        if self.failures.fetch_add(1, Ordering::Relaxed) < 10 {
            eprintln!("storm: {what}");
        }
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        let closed: serde_json::Map<_, _> = REASONS
            .iter()
            .zip(&self.closed)
            .map(|(reason, count)| ((*reason).to_owned(), count.load(Ordering::Relaxed).into()))
            .collect();
        print(&json!({
            "opened": self.opened.load(Ordering::Relaxed),
            "closed": closed,
            "failures": self.failures.load(Ordering::Relaxed),
        }))
    }
}

/// Prints one line and flushes it, since a program reads it at the other end of a pipe.
pub(crate) fn print(line: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
