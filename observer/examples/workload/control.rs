//! Commands: the lines of stdin.

use std::{io, thread};

use tokio::sync::mpsc::{self, UnboundedReceiver};

/// The lines of stdin as they come; ends with stdin.
///
/// A plain thread reads them: unlike a blocking task of the runtime it does not keep the process
/// from ending while it waits for a line.
pub(crate) fn lines() -> UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { break };
            if sender.send(line.trim().to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}
