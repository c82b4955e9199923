//! `observer top`: what each pod counts, live.

mod draw;
mod screen;
mod state;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    path::Path,
    time::Instant,
};

use observer_common::label::Path as InPod;

use super::{
    PATIENCE, read_table,
    tail::{Lines, TailError, path},
};
use crate::{
    cli::TopArgs,
    exit::Code,
    format::{Align, bytes, plain, table},
    output,
    view::{Filter, Request, Row, Show, Table},
};

/// Shows the table.
///
/// # Errors
/// If there is no daemon, or it ends, or the terminal cannot be used.
pub fn top(args: &TopArgs) -> anyhow::Result<Code> {
    let path = path(args.socket.as_deref());
    match (args.once, args.json) {
        (true, true) => output::line(serde_json::to_string(&super::table(&path)?)?)?,
        (true, false) => output::line(once(&super::table(&path)?).trim_end())?,
        (false, true) => follow(&path)?,
        (false, false) => {
            anyhow::ensure!(
                io::stdout().is_terminal() && io::stdin().is_terminal(),
                "this is no terminal: use --once or --json"
            );
            screen::run(path)?;
        }
    }
    Ok(Code::Success)
}

/// Prints a line for each look until nobody reads any more.
fn follow(path: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut lines = tables(path)?;
    let mut out = io::stdout().lock();
    loop {
        let line = lines.next(Some(Instant::now() + PATIENCE))?.ok_or(TailError::Ended)?;
        read_table(line)?;
        match out.write_all(line).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
}

/// Asks for a table each second.
fn tables(path: &Path) -> Result<Lines<'_>, TailError> {
    let show = Show::Table { follow: true };
    Lines::ask(path, &Request { show, filter: Filter::default() })
}

/// The pod as it is shown: with its namespace, if it has any.
fn pod(row: &Row) -> String {
    let namespace = plain(&row.namespace);
    let pod = plain(&row.pod);
    if namespace.is_empty() { pod } else { format!("{namespace}/{pod}") }
}

/// The protocol; in parentheses if the other ends are in the same pod.
fn protocol(row: &Row) -> String {
    if row.path == InPod::Internal.label() {
        format!("({})", row.protocol)
    } else {
        row.protocol.clone()
    }
}

fn ports(row: &Row) -> String {
    let mut ports: Vec<String> = row.ports.iter().take(3).map(u16::to_string).collect();
    if row.ports.len() > 3 {
        ports.push("…".to_owned());
    }
    ports.join(",")
}

/// After how much silence, and how often: `60s×41`.
fn cut(row: &Row) -> String {
    row.idle_cut.as_ref().map_or_else(String::new, |cut| format!("{}s×{}", cut.seconds, cut.ends))
}

const ONCE: [(&str, Align); 12] = [
    ("POD", Align::Left),
    ("ROLE", Align::Left),
    ("PROTOCOL", Align::Left),
    ("PORTS", Align::Left),
    ("ACTIVE", Align::Right),
    ("OPENED", Align::Right),
    ("ENDED", Align::Right),
    ("BAD", Align::Right),
    ("<1s", Align::Right),
    ("IN", Align::Right),
    ("OUT", Align::Right),
    ("IDLE CUT", Align::Left),
];

/// One look, with the counts as they are.
fn once(looked: &Table) -> String {
    let rows: Vec<Vec<String>> = looked
        .rows
        .iter()
        .map(|row| {
            vec![
                pod(row),
                row.role.clone(),
                protocol(row),
                ports(row),
                row.active.to_string(),
                row.opened.to_string(),
                row.ended().to_string(),
                row.bad().to_string(),
                row.short.to_string(),
                bytes(row.received_bytes),
                bytes(row.sent_bytes),
                cut(row),
            ]
        })
        .collect();
    let lost: u64 = looked.lost.values().sum();
    let mut text = format!(
        "{}  {}  {} active in {} pods, units and containers  lost {lost}  since {}\n\n",
        plain(&looked.node),
        looked.time,
        looked.active,
        looked.replicas(),
        looked.since
    );
    text.push_str(&table(&ONCE, &rows));
    if looked.rows_left_out != 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} more rows have no place", looked.rows_left_out);
    }
    text
}
