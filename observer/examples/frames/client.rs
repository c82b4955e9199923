//! Sends messages without waiting, and reads what comes back.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{SockaddrStorage, connect, setsockopt, sockopt},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::{
    codec::{AT_ONCE, REQUEST, frame, length, read_frame, read_head},
    socket,
    way::{Sender, Way},
};

/// What each connection does.
#[derive(Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "options of a command line")]
pub(crate) struct Plan {
    /// The server.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// Messages of each connection.
    #[arg(long)]
    messages: u64,
    /// Smallest and largest payload.
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [0, 0])]
    sizes: Vec<usize>,
    /// Messages by one write.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Messages by the same write as the request; more than there are, none.
    #[arg(long, default_value_t = 0)]
    with_request: u64,
    /// Send the first write with the SYN.
    #[arg(long)]
    fast_open: bool,
    /// The server sends nothing back.
    #[arg(long)]
    sink: bool,
    /// Do not mask messages, as only servers may.
    #[arg(long)]
    unmasked: bool,
    /// Messages that the server sends by the same write as its answer.
    #[arg(long, default_value_t = 0)]
    behind: u64,
    /// How messages are handed to the kernel.
    #[arg(long, value_enum, default_value_t = Way::Write)]
    way: Way,
    /// Threads that take turns to send on a connection.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Each thread goes to another processor before it sends.
    #[arg(long)]
    wander: bool,
    /// Decides the sizes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Say what was sent before the end, and end with the input.
    #[arg(long)]
    stay: bool,
    /// In place of a request and messages: bytes, in hexadecimal.
    #[arg(long, value_parser = hexadecimal)]
    bytes: Option<std::sync::Arc<[u8]>>,
}

fn hexadecimal(text: &str) -> Result<std::sync::Arc<[u8]>, std::num::ParseIntError> {
    let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16));
    bytes.collect()
}

impl Plan {
    /// All connections at once.
    pub(crate) fn run(self, connections: u64) -> Result<()> {
        let threads: Vec<_> = (0..connections)
            .map(|number| {
                let plan = self.clone();
                thread::spawn(move || plan.send(number))
            })
            .collect();
        let (mut bytes, mut back, mut open) = (0, 0, Vec::new());
        for thread in threads {
            let (connection, sent, received) = thread.join().expect("no thread panics")?;
            bytes += sent;
            back += received;
            open.push(connection);
        }
        let say = || println!("{} {bytes} {back}", connections * self.messages);
        if self.stay {
            say();
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        for mut connection in open {
            connection.shutdown(Shutdown::Write)?;
            let mut rest = Vec::new();
            connection.read_to_end(&mut rest)?;
            ensure!(rest.is_empty() || self.bytes.is_some(), "the server has more to say");
        }
        if !self.stay {
            say();
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        let socket = socket::new(self.connect)?;
        if self.fast_open {
            setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
        }
        connect(socket.as_raw_fd(), &SockaddrStorage::from(self.connect))?;
        Ok(socket.into())
    }

    /// Sends everything of one connection; returns it, and how many bytes went and came.
    fn send(self, number: u64) -> Result<(TcpStream, u64, u64)> {
        let mut connection = self.connect()?;
        if let Some(bytes) = &self.bytes {
            connection.write_all(bytes)?;
            return Ok((connection, bytes.len() as u64, 0));
        }
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_add(number));
        let mut messages = |count: u64| -> Vec<u8> {
            let sizes = self.sizes[0]..=self.sizes[1];
            (0..count).flat_map(|_| frame(random.usize(sizes.clone()), !self.unmasked)).collect()
        };
        let mut left = self.messages;
        let mut batch = REQUEST.to_vec();
        batch.extend(messages(self.with_request));
        left -= self.with_request;
        connection.write_all(&batch)?;
        let mut bytes = batch.len() as u64;
        let head = read_head(&mut connection)?;
        let back = self.behind + if self.sink { 0 } else { self.messages };
        let echo = connection.try_clone()?;
        let reader = thread::spawn(move || read_back(echo, back));
        let mut sender = Sender::new(connection.try_clone()?, self.way)?;
        let mut batches = std::iter::from_fn(|| {
            let count = self.batch.min(left);
            left -= count;
            (count != 0).then(|| messages(count))
        });
        if self.threads == 1 {
            for batch in batches {
                if self.wander {
                    wander(&mut fastrand::Rng::new())?;
                }
                bytes += batch.len() as u64;
                sender.send(batch)?;
            }
        } else {
            let turn = Mutex::new((&mut sender, batches.by_ref()));
            thread::scope(|scope| -> Result<()> {
                let threads: Vec<_> = (0..self.threads)
                    .map(|_| scope.spawn(|| take_turns(&turn, self.wander)))
                    .collect();
                for thread in threads {
                    bytes += thread.join().expect("no thread panics")?;
                }
                Ok(())
            })?;
        }
        let back = head + reader.join().expect("the reader does not panic")?;
        Ok((connection, bytes, back))
    }
}

/// Sends what is next, as long as there is something; returns how many bytes that were.
fn take_turns(
    turn: &Mutex<(&mut Sender, impl Iterator<Item = Vec<u8>>)>,
    wanders: bool,
) -> Result<u64> {
    let mut bytes = 0;
    loop {
        if wanders {
            wander(&mut fastrand::Rng::new())?;
        }
        let mut turn = turn.lock().expect("no thread panics");
        let Some(batch) = turn.1.next() else { return Ok(bytes) };
        bytes += batch.len() as u64;
        turn.0.send(batch)?;
        drop(turn);
        thread::yield_now();
    }
}

/// Goes to any processor.
fn wander(random: &mut fastrand::Rng) -> Result<()> {
    let processors = sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1);
    let mut set = CpuSet::new();
    set.set(random.usize(..usize::try_from(processors)?))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Reads so many messages; returns how many bytes they have.
fn read_back(connection: TcpStream, messages: u64) -> Result<u64> {
    let mut input = io::BufReader::with_capacity(AT_ONCE, connection);
    let mut buffer = vec![0; AT_ONCE];
    let mut bytes = 0;
    for _ in 0..messages {
        bytes += length(read_frame(&mut input, &mut buffer)?.context("the server has closed")?);
    }
    Ok(bytes)
}
