//! The socket as its clients see it, and `observer tail`, which prints what comes.

use std::{
    borrow::Cow,
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::forms::Fields;
use crate::{
    cli::{FilterArgs, Form, TailArgs},
    exit::Code,
    format::plain,
    output,
    tail::{DEFAULT, line::Notice},
    view::{Filter, Request, Show},
};

/// How long the daemon may take to send what is left.
const LEFT: Duration = Duration::from_secs(10);

/// Why there is nothing to show.
#[derive(Debug, Error)]
pub enum TailError {
    /// Nobody listens.
    #[error(
        "no observer runs here, for nobody listens on {0}; start one with `observer run`, or say with --socket where it listens"
    )]
    NoDaemon(PathBuf),
    /// The socket is there, and not for this user.
    #[error("{0} is for root only; run this as root")]
    Forbidden(PathBuf),
    /// Something else is wrong with it.
    #[error("cannot use {path}: {reason}")]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the kernel said. Not the error's `source`, which would be printed once more.
        reason: io::Error,
    },
    /// The daemon does not do what is asked for.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// The daemon's answer is one of another version.
    #[error("cannot read what the daemon says: {0}; it is of another version than this program")]
    Foreign(String),
    /// The daemon has ended.
    #[error("the daemon has ended, or has turned this user away")]
    Ended,
}

impl TailError {
    fn of(path: &Path, reason: io::Error) -> Self {
        let path = path.to_owned();
        match reason.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::NoDaemon(path),
            ErrorKind::PermissionDenied => Self::Forbidden(path),
            _ => Self::Socket { path, reason },
        }
    }
}

/// Prints records until there are as many as asked for, or the time is up.
///
/// # Errors
/// If there is no daemon, or it ends.
pub fn tail(args: &TailArgs) -> anyhow::Result<Code> {
    let path = path(args.socket.as_deref());
    let mut lines = Lines::follow(&path, filter(&args.filter, &args.reason))?;
    let mut left = args.limit;
    let mut out = io::stdout().lock();
    let until = args.duration.map(|duration| Instant::now() + duration);
    while left != Some(0) {
        let Some(line) = lines.next(until)? else { break };
        let printed = match args.output {
            Form::Json => Cow::Borrowed(line),
            form => Cow::Owned(print(form, line)?.into_bytes()),
        };
        match out.write_all(&printed).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            written => written?,
        }
        if !line.starts_with(DROPPED) {
            left = left.map(|left| left - 1);
        }
    }
    Ok(Code::Success)
}

/// The line in another form.
fn print(form: Form, line: &[u8]) -> Result<String, TailError> {
    let fields = Fields::read(line).map_err(|error| TailError::Foreign(error.to_string()))?;
    Ok(match form {
        Form::Logfmt => fields.logfmt(),
        Form::Json | Form::Text => fields.text(),
    })
}

/// How a line begins that is no record.
const DROPPED: &[u8] = b"{\"event\":\"dropped\"";

/// Where the daemon listens.
pub(super) fn path(given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| DEFAULT.into(), Path::to_owned)
}

/// The filter that the options make.
pub(super) fn filter(args: &FilterArgs, reason: &[String]) -> Filter {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    Filter {
        pod: args.pod.clone(),
        namespace: args.namespace.clone(),
        container: args.container.clone(),
        workload: args.workload.clone(),
        role: args.role.clone(),
        protocol: args.protocol.clone(),
        port: args.port.clone(),
        peer: args.peer.clone(),
        reason: reason.to_vec(),
        min_lifetime: seconds(args.min_lifetime),
        max_lifetime: seconds(args.max_lifetime),
        min_idle: seconds(args.min_idle),
        max_idle: seconds(args.max_idle),
    }
}

/// What the daemon sends.
pub(super) struct Lines<'a> {
    path: &'a Path,
    from: BufReader<UnixStream>,
    line: Vec<u8>,
    /// Whether the daemon was told that it is enough.
    enough: bool,
}

impl<'a> Lines<'a> {
    /// Asks for something.
    pub(super) fn ask(path: &'a Path, request: &Request) -> Result<Self, TailError> {
        let error = |reason| TailError::of(path, reason);
        let mut stream = UnixStream::connect(path).map_err(error)?;
        let request = serde_json::to_string(request).map_err(|reason| error(reason.into()))? + "\n";
        stream.write_all(request.as_bytes()).map_err(error)?;
        Ok(Self { path, from: BufReader::new(stream), line: Vec::new(), enough: false })
    }

    /// Asks for records, waits until the daemon agrees, and passes on what it says of the filter.
    fn follow(path: &'a Path, filter: Filter) -> Result<Self, TailError> {
        let mut lines = Self::ask(path, &Request { show: Show::Records, filter })?;
        let answer = lines.next(None)?.unwrap_or_default();
        match serde_json::from_slice(answer) {
            Ok(Notice::Following { hints, known }) => {
                output::say(format_args!("following {}", path.display()));
                for hint in hints {
                    output::say(format_args!("{hint}; waiting for it"));
                }
                for text in known {
                    output::say(plain(&text));
                }
                Ok(lines)
            }
            Ok(Notice::Refused { message }) => Err(TailError::Refused(message)),
            _ => Err(TailError::Ended),
        }
    }

    /// The next line. At `until` the daemon is told that it is enough, and then sends what is left; `None` after that.
    pub(super) fn next(&mut self, until: Option<Instant>) -> Result<Option<&[u8]>, TailError> {
        let error = |reason| TailError::of(self.path, reason);
        self.line.clear();
        loop {
            let patience = if self.enough {
                Some(LEFT)
            } else {
                until.map(|until| until.saturating_duration_since(Instant::now()))
            };
            let over = patience == Some(Duration::ZERO);
            if !over {
                self.from.get_ref().set_read_timeout(patience).map_err(error)?;
                // What has come of a line stays there when the time is up.
                match self.from.read_until(b'\n', &mut self.line) {
                    Ok(_) if self.line.ends_with(b"\n") => return Ok(Some(&self.line)),
                    Ok(_) if self.enough => return Ok(None),
                    Ok(_) => return Err(TailError::Ended),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error)
                        if !self.enough
                            && matches!(
                                error.kind(),
                                ErrorKind::WouldBlock | ErrorKind::TimedOut
                            ) => {}
                    Err(reason) => return Err(error(reason)),
                }
            }
            self.enough = true;
            self.from.get_ref().shutdown(Shutdown::Write).map_err(error)?;
        }
    }
}
