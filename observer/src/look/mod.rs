//! The commands that look: `observer top`, `ps`, `doctor`, `tail`. They ask the daemon through its socket and attach nothing themselves.

mod doctor;
mod forms;
mod ps;
mod tail;
mod top;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    tail::line::Notice,
    view::{Filter, Request, Show, Table},
};

pub use doctor::doctor;
pub use ps::ps;
pub use tail::{TailError, tail};
pub use top::top;

use tail::Lines;

/// How long the daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for the table once.
fn table(path: &Path) -> Result<Table, TailError> {
    let show = Show::Table { follow: false };
    let mut lines = Lines::ask(path, &Request { show, filter: Filter::default() })?;
    let until = Instant::now() + PATIENCE;
    read_table(lines.next(Some(until))?.unwrap_or_default())
}

/// Reads a table, or why there is none.
fn read_table(line: &[u8]) -> Result<Table, TailError> {
    match serde_json::from_slice(line) {
        Ok(table) => Ok(table),
        Err(error) => match serde_json::from_slice(line) {
            Ok(Notice::Refused { message }) => Err(TailError::Refused(message)),
            _ if line.is_empty() => Err(TailError::Ended),
            _ => Err(TailError::Foreign(error.to_string())),
        },
    }
}
