//! WebSocket frames of every size, in bulk, with exact books: what the test of the receive path sends.
//!
//! ```text
//! frames serve --listen 127.0.0.1:0 --cpu 0 [--sink]
//! frames drive --connect 127.0.0.1:1234 --cpu 1 --connections 4 --messages 20 --sizes 60000,3000000 --seed 7
//! ```
//!
//! The server prints its address, answers upgrades, and sends each message back, unless it is a sink. The client sends all
//! messages of a connection without waiting, by one write for each or for a batch of them (`--batch`), reads what comes back,
//! and prints what it has sent: `messages bytes`, its requests included. Plain threads and blocking sockets.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: frames.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLBMxihnOnP9Z2mvPBQ1Zgs0=\r\n\r\n";
/// FIN and opcode of a binary message.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// Bytes that are read or written at once at most.
const AT_ONCE: usize = 1 << 20;

/// Frames in bulk.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until killed.
    Serve {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// The processor to run on.
        #[arg(long)]
        cpu: Option<usize>,
        /// Send nothing back.
        #[arg(long)]
        sink: bool,
    },
    /// Send everything, and end.
    Drive {
        /// The server.
        #[arg(long, value_name = "ADDR:PORT")]
        connect: SocketAddr,
        /// The processor to run on.
        #[arg(long)]
        cpu: Option<usize>,
        /// Connections at once.
        #[arg(long)]
        connections: u64,
        /// Messages of each.
        #[arg(long)]
        messages: u64,
        /// Smallest and largest payload.
        #[arg(long, value_delimiter = ',', required = true)]
        sizes: Vec<usize>,
        /// Messages by one write.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// The server sends nothing back.
        #[arg(long)]
        sink: bool,
        /// Decides the sizes.
        #[arg(long)]
        seed: u64,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve { listen, cpu, sink } => {
            pin(cpu)?;
            serve(listen, sink)
        }
        Command::Drive { connect, cpu, connections, messages, sizes, batch, sink, seed } => {
            pin(cpu)?;
            let plan = Plan { connect, messages, sizes: (sizes[0], sizes[1]), batch, sink };
            let threads: Vec<_> = (0..connections)
                .map(|number| thread::spawn(move || plan.run(seed.wrapping_add(number))))
                .collect();
            let mut bytes = 0;
            for thread in threads {
                bytes += thread.join().expect("no thread panics")?;
            }
            println!("{} {bytes}", connections * messages);
            Ok(())
        }
    }
}

/// Keeps this process on a processor.
fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::this(), &set).context("cannot choose a processor")
}

fn serve(listen: SocketAddr, sink: bool) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("{}", listener.local_addr()?);
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = answer(connection, sink) {
                eprintln!("frames: {error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut connection: TcpStream, sink: bool) -> Result<()> {
    read_head(&mut connection)?;
    connection.write_all(SWITCHING)?;
    let mut buffer = vec![0; AT_ONCE];
    if sink {
        while connection.read(&mut buffer)? != 0 {}
        return Ok(());
    }
    let mut input = io::BufReader::with_capacity(AT_ONCE, connection.try_clone()?);
    while let Some(length) = read_frame(&mut input, &mut buffer)? {
        connection.write_all(&frame(length, false))?;
    }
    Ok(())
}

/// What each connection does.
#[derive(Clone, Copy)]
struct Plan {
    connect: SocketAddr,
    messages: u64,
    sizes: (usize, usize),
    batch: usize,
    sink: bool,
}

impl Plan {
    /// Sends everything of one connection; returns how many bytes.
    fn run(self, seed: u64) -> Result<u64> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut connection = TcpStream::connect(self.connect)?;
        connection.write_all(REQUEST)?;
        read_head(&mut connection)?;
        let echo = connection.try_clone()?;
        let (expected, sink) = (self.messages, self.sink);
        let reader = thread::spawn(move || read_back(echo, if sink { 0 } else { expected }));
        let mut bytes = REQUEST.len() as u64;
        let (mut batch, mut left) = (Vec::new(), self.messages);
        while left != 0 {
            batch.clear();
            for _ in 0..self.batch.min(usize::try_from(left)?) {
                batch.extend(frame(random.usize(self.sizes.0..=self.sizes.1), true));
                left -= 1;
            }
            connection.write_all(&batch)?;
            bytes += batch.len() as u64;
        }
        reader.join().expect("the reader does not panic")?;
        connection.shutdown(std::net::Shutdown::Write)?;
        ensure!(connection.read(&mut [0])? == 0, "the server has more to say");
        Ok(bytes)
    }
}

fn read_back(connection: TcpStream, messages: u64) -> Result<()> {
    let mut input = io::BufReader::with_capacity(AT_ONCE, connection);
    let mut buffer = vec![0; AT_ONCE];
    for _ in 0..messages {
        read_frame(&mut input, &mut buffer)?.context("the server has closed")?;
    }
    Ok(())
}

fn read_head(connection: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

/// A whole frame.
fn frame(length: usize, masked: bool) -> Vec<u8> {
    let mask = if masked { MASKED } else { 0 };
    let mut frame = vec![BINARY];
    match length {
        0..=125 => frame.push(mask | length as u8),
        126..=0xffff => {
            frame.push(mask + 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask + 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend([0; 4]);
    }
    // A payload that would be taken for the header of a reserved frame.
    frame.resize(frame.len() + length, 0x83);
    frame
}

/// Reads a frame and returns the length of its payload; nothing at the end.
fn read_frame(input: &mut impl Read, buffer: &mut [u8]) -> Result<Option<usize>> {
    let mut start = [0; 2];
    if input.read(&mut start[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut start[1..])?;
    let length = match start[1] & 127 {
        126 => {
            let mut length = [0; 2];
            input.read_exact(&mut length)?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            input.read_exact(&mut length)?;
            usize::try_from(u64::from_be_bytes(length))?
        }
        short => usize::from(short),
    };
    if start[1] & MASKED != 0 {
        input.read_exact(&mut [0; 4])?;
    }
    let mut left = length;
    while left != 0 {
        let part = left.min(buffer.len());
        input.read_exact(&mut buffer[..part])?;
        left -= part;
    }
    Ok(Some(length))
}
