//! The daemon's side of the socket.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{MissedTickBehavior, timeout},
};
use tracing::{debug, warn};

use super::{
    Hub,
    hub::Seat,
    line::{Clock, Dropped, Notice, line},
};
use crate::view::{EVERY, Filter, Listing, MOST, Request, Show, Sort, Views};

/// Where the socket is unless the user says otherwise.
pub const DEFAULT: &str = "/run/observer/observer.sock";

/// Lines that are written at once.
const BATCH: usize = 128;
/// The longest request.
const REQUEST: u64 = 64 * 1024;
/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another daemon has it.
    #[error("{0} belongs to another observer that runs; give this one another with --socket")]
    Taken(PathBuf),
    /// The file system or the kernel refuses.
    #[error("cannot listen on {path}: {reason}; choose another place with --socket")]
    Refused {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said. Not the error's `source`, which would be printed once more.
        reason: io::Error,
    },
}

/// A socket that only this user and root may use.
#[derive(Debug)]
pub struct Socket {
    listener: StdListener,
    file: File,
}

/// The socket's name; it goes when this is dropped.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Whose it is.
    owner: u32,
}

/// Listens at `path`, whose directory is made if it is not there. What a killed daemon has left behind is replaced.
///
/// # Errors
/// If another daemon listens there, or the place cannot be used.
pub fn listen(path: &Path) -> Result<Socket, SocketError> {
    let refused = |reason| SocketError::Refused { path: path.to_owned(), reason };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(refused)?;
    }
    let listener = match StdListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if StdStream::connect(path).is_ok() {
                return Err(SocketError::Taken(path.to_owned()));
            }
            fs::remove_file(path).and_then(|()| StdListener::bind(path))
        }
        bound => bound,
    }
    .map_err(refused)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refused)?;
    let owner = fs::metadata(path).map_err(refused)?.uid();
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(Socket { listener, file: File { path: path.to_owned(), owner } })
}

impl Drop for File {
    fn drop(&mut self) {
        // It may be gone already, with its directory.
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves readers until the task is aborted.
pub async fn serve(Socket { listener, file }: Socket, hub: Hub, views: Arc<Views>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "cannot serve readers of records"),
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others will be freed.
                warn!(%error, "cannot accept a reader of records");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // The permissions are set after the socket is there; this closes the gap.
        let user = stream.peer_cred().map(|peer| peer.uid());
        if !user.as_ref().is_ok_and(|&user| user == 0 || user == file.owner) {
            warn!(?user, "a user who may not read records was turned away");
            continue;
        }
        let (hub, views) = (hub.clone(), Arc::clone(&views));
        tokio::spawn(async move {
            if let Err(error) = attend(stream, &hub, &views).await {
                debug!(%error, "a reader of records is gone");
            }
        });
    }
}

/// Answers one client, until it has what it wants, closes its direction or goes away.
async fn attend(stream: UnixStream, hub: &Hub, views: &Arc<Views>) -> io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let request = match timeout(PATIENCE, request(&mut from)).await {
        Ok(Ok(request)) => request,
        Ok(Err(message)) => return refuse(&mut to, message).await,
        Err(_) => return Ok(()),
    };
    match request.show {
        Show::Records => {
            let hints = views.hints(&request.filter).await;
            let notice = Notice::Following { hints, known: views.timers(&request.filter) };
            records(from, to, hub, request.filter, &notice).await
        }
        Show::Table { follow } => table(from, to, views, follow).await,
        Show::Connections { sort, limit } => {
            connections(to, views, request.filter, sort, limit.min(MOST)).await
        }
    }
}

async fn refuse(to: &mut OwnedWriteHalf, message: String) -> io::Result<()> {
    to.write_all(Notice::Refused { message }.line().as_bytes()).await
}

/// Writes to a client that reads; one that does not is left.
async fn write(to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    timeout(PATIENCE, to.write_all(bytes)).await.map_err(io::Error::from)?
}

/// Sends the table, once or once a second.
async fn table(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    views: &Arc<Views>,
    follow: bool,
) -> io::Result<()> {
    let mut turns = tokio::time::interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            // Whatever else a client may say, nobody listens.
            read = from.read(&mut byte) => match read? {
                0 if follow => return to.shutdown().await,
                _ if follow => continue,
                _ => {}
            },
        }
        match views.table().await {
            Ok(sheet) => write(&mut to, &sheet.json()).await?,
            Err(error) => return refuse(&mut to, error.to_string()).await,
        }
        if !follow {
            return to.shutdown().await;
        }
    }
}

/// Sends the connections that are open, a line for each, and how many there are.
async fn connections(
    mut to: OwnedWriteHalf,
    views: &Arc<Views>,
    filter: Filter,
    sort: Sort,
    limit: usize,
) -> io::Result<()> {
    let Listing { records, wanted, unlisted, refused } =
        match views.connections(filter, sort, limit).await {
            Ok(listing) => listing,
            Err(error) => return refuse(&mut to, format!("{error:#}")).await,
        };
    let clock = Clock::now();
    for batch in records.chunks(BATCH) {
        let lines: String =
            batch.iter().map(|(record, identity)| line(record, identity, clock)).collect();
        write(&mut to, lines.as_bytes()).await?;
    }
    let end = Notice::Listed { connections: wanted, unlisted, refused };
    write(&mut to, end.line().as_bytes()).await?;
    to.shutdown().await
}

/// Sends records until the client closes its direction.
async fn records(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    hub: &Hub,
    filter: Filter,
    notice: &Notice,
) -> io::Result<()> {
    let Some(Seat { mut lines, mut dropped }) = hub.join(filter).await else { return Ok(()) };
    to.write_all(notice.line().as_bytes()).await?;
    let (mut enough, mut byte, mut told) = (false, [0], Dropped::default());
    loop {
        let mut batch = Vec::new();
        let over = tokio::select! {
            count = lines.recv_many(&mut batch, BATCH) => count == 0,
            Ok(()) = dropped.changed() => false,
            // Whatever else a client may say, nobody listens.
            read = from.read(&mut byte), if !enough => {
                if read? == 0 {
                    enough = true;
                    hub.flush().await;
                    lines.close();
                }
                false
            }
        };
        let mut text = batch.concat();
        let missed = *dropped.borrow_and_update();
        if missed != told {
            told = missed;
            text.push_str(&Notice::Dropped(missed).line());
        }
        to.write_all(text.as_bytes()).await?;
        if over {
            return to.shutdown().await;
        }
    }
}

/// Reads what the client wants; an error is meant for the client.
async fn request(from: &mut OwnedReadHalf) -> Result<Request, String> {
    let mut line = String::new();
    let read = BufReader::new(from.take(REQUEST)).read_line(&mut line).await;
    read.map_err(|error| error.to_string())?;
    let request = Request::read(&line)
        .map_err(|error| format!("this daemon does not understand the request: {error}"))?;
    match request.filter.impossible() {
        Some(value) => Err(format!("no record has {value:?}")),
        None => Ok(request),
    }
}
