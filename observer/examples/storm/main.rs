//! As many short connections a second as the machine gives, and exact books of how each of them ended.
//!
//! ```text
//! storm serve --listen 0.0.0.0:0
//! storm drive --connect 127.0.0.1:1234 --seed 7
//! ```
//!
//! Both speak JSON lines on stdout and take lines on stdin, like the example `workload`: `books` prints the books as
//! they stand, the end of stdin ends the program after what is under way, and prints them for the last time. The server
//! first prints `{"ready":"0.0.0.0:1234"}`. The client also obeys `hold`: no connection is being opened from the moment
//! that it prints its books until `go on`.
//!
//! The client of each connection decides by its first byte how it is to end (see [`Ending`]), and each end counts it
//! under what the kernel must have seen there. Plain threads and blocking sockets: nothing costs less.

mod books;
mod client;
mod server;

use std::{io, net::SocketAddr, process::ExitCode, sync::RwLock};

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::json;

use books::Books;

/// Opens and ends as many connections as it can.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until stdin ends.
    Serve {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
    /// Open connections until stdin ends.
    Drive {
        /// The server; of 127.0.0.1 all of 127.0.0.0/16 is used, since one address has too few ports.
        #[arg(long, value_name = "ADDR:PORT")]
        connect: SocketAddr,
        /// Decides how each connection ends.
        #[arg(long)]
        seed: u64,
    },
}

/// How a connection ends. The number is the first byte that the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Ending {
    /// The client closes without a word: no byte tells.
    Silent = 0,
    /// After an answer the client closes.
    Client = 0x80,
    /// After an answer the client resets.
    ClientResets,
    /// The client closes with the answer unread.
    ClientAborts,
    /// The server answers and closes.
    Server,
    /// The server resets instead of an answer.
    ServerResets,
    /// The server closes with the second byte unread.
    ServerAborts,
}

impl Ending {
    /// What a client asks for, the common ones more often.
    const MIX: [Self; 10] = [
        Self::Silent,
        Self::Silent,
        Self::Client,
        Self::Client,
        Self::Client,
        Self::ClientResets,
        Self::ClientAborts,
        Self::Server,
        Self::ServerResets,
        Self::ServerAborts,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::MIX.into_iter().find(|ending| *ending as u8 == byte)
    }
}

fn main() -> Result<ExitCode> {
    let books = Books::default();
    let well = match Cli::parse().command {
        Command::Serve { listen } => server::run(listen, &books)?,
        Command::Drive { connect, seed } => client::run(connect, seed, &books)?,
    };
    books.print()?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Obeys stdin until its end. `opening` is read by whoever opens a connection.
fn obey(books: &Books, opening: &RwLock<()>) -> io::Result<()> {
    let mut held = None;
    for line in io::stdin().lines() {
        match line?.as_str() {
            "books" => books.print()?,
            "hold" => {
                held = opening.write().ok();
                books.print()?;
            }
            "go on" => held = None,
            other => return Err(io::Error::other(format!("no command: {other}"))),
        }
    }
    drop(held);
    Ok(())
}

fn say_ready(address: SocketAddr) -> io::Result<()> {
    books::print(&json!({ "ready": address }))
}
