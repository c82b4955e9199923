//! The clients of one server: group after group of them connects, talks and leaves, every other
//! group by a reset. A group stays until the next one is there, so that somebody always is.

use std::convert::Infallible;
use std::fs::File;
use std::mem::replace;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Service;
use super::workload::Workload;

/// How often a group talks before the next one takes over.
const TALKS: u32 = 4;

/// Time between two steps of the clients.
const BEAT: Duration = Duration::from_secs(1);

/// The thread that drives the clients, until this is stopped.
pub(super) struct Clients {
    /// Nothing is ever sent: dropping it is the signal.
    stop: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts the clients of the server at the address `server`, in their pod.
    pub(super) fn start(
        service: &'static Service,
        mut command: Command,
        server: &str,
        log: File,
    ) -> Self {
        let [held, passing] = [service.held, service.passing].map(|number| number.to_string());
        command.args(["drive", "--protocol", service.protocol, "--connect", server]);
        command.args(["--long", &held, "--short", &passing]);
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || group_after_group(&mut command, &log, &stopped));
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Ends the clients and tells how they fared.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.stop = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread of the clients panicked"))?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Only after another error, which is the one to be told.
        let _ = self.stop();
    }
}

fn group_after_group(
    command: &mut Command,
    log: &File,
    stopped: &Receiver<Infallible>,
) -> Result<()> {
    let (mut group, _) = Workload::start(command, log)?;
    for farewell in ["close", "reset"].into_iter().cycle() {
        for _ in 0..TALKS {
            if pause(stopped) {
                return Ok(());
            }
            group.tell("talk")?;
        }
        let (next, _) = Workload::start(command, log)?;
        let mut leaving = replace(&mut group, next);
        leaving.tell(farewell)?;
        leaving.wait()?;
    }
    Ok(())
}

/// Waits for a beat; true if it is time to stop.
fn pause(stopped: &Receiver<Infallible>) -> bool {
    matches!(stopped.recv_timeout(BEAT), Err(RecvTimeoutError::Disconnected))
}
