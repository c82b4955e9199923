//! One end of a connection: the example `peer` in a cgroup, on strings.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{cgroup::TestCgroup, daemon, netns::Netns, process::Process, scale::patience};

/// How long a command may take; longer than the peer's own patience, which says what is missing.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running peer. It is killed when dropped.
pub(crate) struct Peer {
    stdin: ChildStdin,
    answers: Receiver<String>,
    process: Process,
}

impl Peer {
    /// Starts a peer in a cgroup, and in a namespace if one is given.
    pub(crate) fn start(cgroup: &TestCgroup, netns: Option<&Netns>) -> Self {
        let path = daemon::executable().with_file_name("examples").join("peer");
        assert!(
            path.exists(),
            "{} is missing: build it by `cargo build --package observer --example peer`",
            path.display()
        );
        let mut command = Command::new(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(netns) = netns {
            netns.enter(&mut command);
        }
        let mut process = Process::new(cgroup.spawn_in(&mut command), "a peer");
        let stdin = process.take_stdin();
        let stdout = process.take_stdout();
        let (sender, answers) = mpsc::channel();
        // A thread, so that an answer can be waited for with a deadline.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { stdin, answers, process }
    }

    /// Gives a command, whose [`answer`](Self::answer) is to be taken later.
    pub(crate) fn say(&mut self, command: &str) -> Result<()> {
        Ok(writeln!(self.stdin, "{command}")?)
    }

    /// The result of the oldest command whose answer was not taken yet.
    pub(crate) fn answer(&self) -> Result<String> {
        let answer =
            self.answers.recv_timeout(patience(PATIENCE)).context("the peer does not answer")?;
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", result) => Ok(result.to_owned()),
            (_, reason) => bail!("{reason}"),
        }
    }

    /// Gives a command and waits for its result.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        self.say(command)?;
        self.answer().with_context(|| command.chars().take(60).collect::<String>())
    }

    /// Kills it by SIGKILL: the kernel closes its connections.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Listens on a free port of `address`; returns it with the port.
    pub(crate) fn listen(&mut self, address: SocketAddr, deferred: bool) -> Result<SocketAddr> {
        let command = if deferred { "listen-deferred" } else { "listen" };
        Ok(self.ask(&format!("{command} {address}"))?.parse()?)
    }

    /// Starts to send bytes by one write; the answer is to be taken later.
    pub(crate) fn say_send(&mut self, bytes: &[u8]) -> Result<()> {
        let mut command = "send ".to_owned();
        for byte in bytes {
            write!(command, "{byte:02x}")?;
        }
        self.say(&command)
    }

    /// Receives exactly these bytes.
    pub(crate) fn expect(&mut self, bytes: &[u8]) -> Result<()> {
        let received = from_hex(&self.ask(&format!("receive {}", bytes.len()))?)?;
        ensure!(
            received == bytes,
            "the connection itself failed: {} bytes were to come, {} came: {:?}",
            bytes.len(),
            received.len(),
            String::from_utf8_lossy(&received[..received.len().min(80)]),
        );
        Ok(())
    }

    /// Receives the end of the peer's stream.
    pub(crate) fn expect_end(&mut self) -> Result<()> {
        let surplus = self.ask("receive 1")?;
        ensure!(
            surplus.is_empty(),
            "the connection itself failed: a byte {surplus} came, not the end"
        );
        Ok(())
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let byte = |pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?);
    text.as_bytes().chunks(2).map(byte).collect()
}
