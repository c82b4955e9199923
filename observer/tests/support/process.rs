//! Child processes that are waited for with a deadline and never left behind.

use std::{
    io::Read,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::poll::poll;

/// A child process that is killed when dropped, unless it has ended by then.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Takes charge of `child`; `name` is for messages.
    pub(crate) fn new(child: Child, name: impl Into<String>) -> Self {
        Self { child, name: name.into() }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its piped stdin; once.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin was piped and is taken once")
    }

    /// Its piped stdout; once.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was piped and is taken once")
    }

    /// Its piped stderr; once.
    pub(crate) fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("stderr was piped and is taken once")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // The child has not been waited for, or `Child` would know: its id is still its own.
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Waits for the end; panics if it does not come within `deadline`.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        poll(deadline, || {
            self.child.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name))
        })
        .unwrap_or_else(|| panic!("{} did not end within {deadline:?}", self.name))
    }

    /// Kills it and waits for the end. Nothing happens if it has ended already.
    pub(crate) fn kill(&mut self) {
        // Both fail only if the process is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that is expected to end by itself; panics if it does not within `deadline`.
pub(crate) fn run_to_end(command: &mut Command, deadline: Duration) -> Output {
    let name = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    let mut process = Process::new(child, name);
    let stdout = read_all(process.take_stdout());
    let stderr = read_all(process.take_stderr());
    let status = process.wait(deadline);
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("a reader's end"));
    Output { status, stdout, stderr }
}

/// Reads a pipe to its end on a thread, so that it never fills up.
fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
