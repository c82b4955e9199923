//! The log: on standard error, as text or JSON, level by `RUST_LOG`.
//!
//! Whoever logs may hold a lock that scrapes wait for, so nobody waits for the reader of standard error: lines stand in
//! bounded queues ([`queue`]), of which the connection log has its own, lest it push out the rest.

mod queue;

use std::{
    env, io,
    io::IsTerminal as _,
    sync::{Arc, atomic::AtomicU64},
};

use tracing::{Metadata, level_filters::LevelFilter, warn};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, fmt},
};

use crate::{cli::LogFormat, records};
use queue::{Queue, Writer};

/// Without `RUST_LOG`. What the client of the API server says at each attempt is said once by `kube`, and counted.
const DEFAULT: &str = "info,kube_client=off,kube_runtime=off";
/// The variable that sets the level.
const VARIABLE: &str = "RUST_LOG";

/// Lines of the log that wait for standard error: some hundred KiB.
const LINES: usize = 1 << 10;
/// Lines of the connection log that wait: some MiB, as a node has them in half a second.
const CONNECTIONS: usize = 1 << 13;

/// The running log. Dropped, it writes what is waiting, if anybody reads.
pub struct Log {
    // The order is that of their ends.
    connections: Queue,
    lines: Queue,
}

impl Log {
    /// How many lines were dropped, by what they were; the numbers go on counting.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, Arc<AtomicU64>); 2] {
        [("log", self.lines.dropped()), ("connections", self.connections.dropped())]
    }
}

/// Starts logging; later calls change nothing.
///
/// # Errors
/// If there can be no more threads.
pub fn start(format: LogFormat) -> io::Result<Log> {
    let connections = Queue::start("connection log", CONNECTIONS)?;
    let lines = Queue::start("log", LINES)?;
    let writers = Writers { connections: connections.writer(), lines: lines.writer() };
    let (filter, trouble) = filter(env::var(VARIABLE).ok().as_deref());
    let builder =
        fmt().with_env_filter(filter).with_writer(writers).with_ansi(io::stderr().is_terminal());
    // `init` also takes over the `log` crate's records, which is where the kernel programs' lines arrive.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if let Some(trouble) = trouble {
        warn!("{trouble}");
    }
    Ok(Log { connections, lines })
}

/// What `RUST_LOG` asks for; the default, and what to say about it, if that cannot be meant.
fn filter(asked: Option<&str>) -> (EnvFilter, Option<String>) {
    let default = || EnvFilter::new(DEFAULT);
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
        return (default(), None);
    };
    // A word alone is taken for a target of that name, whose lines are all there are then: `ifno` would be silence.
    let words = || asked.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let no_level = |word: &&str| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err();
    let trouble = match (words().find(no_level), EnvFilter::builder().parse(asked)) {
        (None, Ok(filter)) => return (filter, None),
        (Some(word), _) => format!("{word:?} is no level"),
        (None, Err(error)) => error.to_string(),
    };
    let trouble = format!(
        "{VARIABLE}={asked:?} is not used: {trouble}; give error, warn, info, debug, trace or off, or target=level, with commas between several"
    );
    (default(), Some(trouble))
}

/// Which queue a line goes to.
struct Writers {
    connections: Writer,
    lines: Writer,
}

impl<'a> MakeWriter<'a> for Writers {
    type Writer = &'a Writer;

    fn make_writer(&'a self) -> &'a Writer {
        &self.lines
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> &'a Writer {
        if line.target() == records::TARGET { &self.connections } else { &self.lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_that_can_be_meant() {
        for asked in [
            "debug",
            "INFO",
            "off",
            "0",
            "observer=debug",
            "info,kube_client=debug",
            "warn, info",
            "info,",
            "[scrape]=debug",
            "connection=info",
        ] {
            let (filter, trouble) = filter(Some(asked));
            assert_eq!(trouble, None, "{asked}");
            assert_ne!(filter.to_string(), EnvFilter::new(DEFAULT).to_string(), "{asked}");
        }
        for blank in [None, Some(""), Some(" ")] {
            let (filter, trouble) = filter(blank);
            assert_eq!((filter.to_string(), trouble), (EnvFilter::new(DEFAULT).to_string(), None));
        }
    }

    #[test]
    fn levels_that_cannot_be_meant_are_told_and_silence_nothing() {
        for asked in ["ifno", "info,observer", "observer=loud", "info,a=b=c", "verbose,debug"] {
            let (filter, trouble) = filter(Some(asked));
            assert_eq!(filter.to_string(), EnvFilter::new(DEFAULT).to_string(), "{asked}");
            let trouble = trouble.unwrap_or_default();
            assert!(trouble.contains(asked) && trouble.contains(VARIABLE), "{asked}: {trouble}");
            assert!(!trouble.contains('\n'), "{trouble}");
        }
    }
}
