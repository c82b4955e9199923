//! `observer ps`: the connections that are open.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Instant,
};

use serde::Deserialize;

use super::{
    PATIENCE,
    tail::{Lines, TailError, filter, path},
};
use crate::{
    cli::PsArgs,
    exit::Code,
    format::{Align, bytes, count, plain, table, time},
    output,
    tail::line::Notice,
    view::{Filter, Request, Show, Sort, Unlisted},
};

/// A connection, as far as the table shows it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Open {
    namespace: String,
    pod: String,
    role: String,
    protocol: String,
    local_address: IpAddr,
    local_port: u16,
    peer_address: IpAddr,
    peer_port: u16,
    lifetime_seconds: f64,
    idle_seconds: f64,
    received_bytes: u64,
    sent_bytes: u64,
    retransmits: u32,
    /// Absent for one that is older than the programs.
    opened: Option<String>,
}

impl Open {
    /// Whose it is, and how long it has been open.
    pub(super) fn age(&self) -> String {
        let Self { namespace, pod, protocol, .. } = self;
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let at_least = if self.opened.is_none() { "more than " } else { "" };
        format!("{place}{pod} ({protocol}), open for {at_least}{}", time(self.lifetime_seconds))
    }
}

/// The columns of the table.
pub(super) const COLUMNS: [(&str, Align); 10] = [
    ("POD", Align::Left),
    ("ROLE", Align::Left),
    ("PROTOCOL", Align::Left),
    ("LOCAL", Align::Left),
    ("PEER", Align::Left),
    ("AGE", Align::Right),
    ("IDLE", Align::Right),
    ("IN", Align::Right),
    ("OUT", Align::Right),
    ("RETR", Align::Right),
];

/// What the daemon has listed.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) open: Vec<Open>,
    /// How many there are, shown or not.
    pub(super) connections: u64,
    pub(super) unlisted: Vec<Unlisted>,
    pub(super) refused: Vec<String>,
}

/// Asks for connections; `see` gets each line.
fn ask(
    path: &Path,
    request: &Request,
    mut see: impl FnMut(&[u8]) -> Result<(), TailError>,
) -> Result<(u64, Vec<Unlisted>, Vec<String>), TailError> {
    let mut lines = Lines::ask(path, request)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let line = lines.next(Some(until))?.ok_or(TailError::Ended)?;
        match serde_json::from_slice(line) {
            Ok(Notice::Listed { connections, unlisted, refused }) => {
                return Ok((connections, unlisted, refused));
            }
            Ok(Notice::Refused { message }) => return Err(TailError::Refused(message)),
            Ok(other) => return Err(TailError::Foreign(other.line())),
            // It is a connection.
            Err(_) => see(line)?,
        }
    }
}

/// Lists connections.
pub(super) fn list(
    path: &Path,
    filter: Filter,
    sort: Sort,
    limit: usize,
) -> Result<Listed, TailError> {
    let request = Request { show: Show::Connections { sort, limit }, filter };
    let mut open = Vec::new();
    let (connections, unlisted, refused) = ask(path, &request, |line| {
        let read = serde_json::from_slice(line);
        open.push(read.map_err(|error| TailError::Foreign(error.to_string()))?);
        Ok(())
    })?;
    Ok(Listed { open, connections, unlisted, refused })
}

/// Lists the connections that are open.
///
/// # Errors
/// If there is no daemon, or the kernel lists no sockets.
pub fn ps(args: &PsArgs) -> anyhow::Result<Code> {
    let (path, limit) = (path(args.socket.as_deref()), args.limit as usize);
    let filter = filter(&args.filter, &[]);
    let (shown, connections, unlisted, refused) = if args.json {
        let request = Request { show: Show::Connections { sort: args.sort, limit }, filter };
        let mut rows: Vec<Vec<u8>> = Vec::new();
        let (connections, unlisted, refused) = ask(&path, &request, |line| {
            rows.push(line.trim_ascii_end().to_vec());
            Ok(())
        })?;
        rows.iter().try_for_each(|row| output::line(String::from_utf8_lossy(row)))?;
        (rows.len(), connections, unlisted, refused)
    } else {
        let Listed { open, connections, unlisted, refused } =
            list(&path, filter, args.sort, limit)?;
        let rows: Vec<_> = open.iter().map(cells).collect();
        output::line(table(&COLUMNS, &rows).trim_end())?;
        (open.len(), connections, unlisted, refused)
    };
    if (shown as u64) < connections {
        output::say(format_args!("{shown} of {connections} connections; --limit shows more"));
    }
    tell_unlisted(&unlisted, &refused);
    Ok(Code::Success)
}

/// The cells of a connection's line.
pub(super) fn cells(open: &Open) -> Vec<String> {
    // An adopted one is older than is known.
    let older = if open.opened.is_none() { ">" } else { "" };
    let address = |ip, port| SocketAddr::new(ip, port).to_string();
    let pod = if open.namespace.is_empty() {
        plain(&open.pod)
    } else {
        plain(&format!("{}/{}", open.namespace, open.pod))
    };
    vec![
        pod,
        open.role.clone(),
        open.protocol.clone(),
        address(open.local_address, open.local_port),
        address(open.peer_address, open.peer_port),
        format!("{older}{}", time(open.lifetime_seconds)),
        time(open.idle_seconds),
        bytes(open.received_bytes),
        bytes(open.sent_bytes),
        open.retransmits.to_string(),
    ]
}

/// Says how many connections could not be listed, and why.
fn tell_unlisted(unlisted: &[Unlisted], refused: &[String]) {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for reason in refused {
        // The same for each namespace, but for its path.
        let reason = reason.rsplit_once(": ").map_or(reason.as_str(), |(_, reason)| reason);
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, namespaces) in reasons {
        output::say(format_args!(
            "{namespaces} network namespaces could not be entered ({reason}): their connections are told by numbers only; with CAP_SYS_ADMIN the daemon lists them"
        ));
    }
    for Unlisted { namespace, pod, role, protocol, connections } in unlisted {
        let of = plain(&format!("{namespace}/{pod}"));
        let of = of.trim_start_matches('/');
        output::say(format_args!(
            "not listed: {} {protocol} of {of} ({role})",
            count(*connections)
        ));
    }
}
