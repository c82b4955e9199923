//! What a command prints for its user. A reader that has seen enough and has closed the pipe, as `head` does, is no error
//! and ends nothing: the exit code still tells the outcome.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints a line on standard output.
///
/// # Errors
/// If it cannot be written for another reason than that nobody reads.
pub fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Says something on standard error. If that fails there is nobody left to tell.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "observer: {text}");
}
