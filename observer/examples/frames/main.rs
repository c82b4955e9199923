//! WebSocket frames of every size, in bulk, with exact books: what the test of the receive path sends.
//!
//! ```text
//! frames serve --listen 127.0.0.1:0 --cpu 0 [--sink]
//! frames drive --connect 127.0.0.1:1234 --cpu 1 --connections 4 --messages 20 --sizes 60000,3000000 --seed 7
//! ```
//!
//! The server prints its address. The client sends all messages of a connection without waiting, by one write for each or for a
//! batch of them (`--batch`), and prints what it has sent and received: `messages bytes bytes`, heads included. Plain threads and
//! blocking sockets.

mod client;
mod codec;
mod server;
mod socket;
mod way;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Frames in bulk.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The processor to run on.
    #[arg(long, global = true)]
    cpu: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until killed.
    Serve {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,
        #[command(flatten)]
        manner: server::Manner,
    },
    /// Send everything, and end.
    Drive {
        /// Connections at once.
        #[arg(long)]
        connections: u64,
        #[command(flatten)]
        plan: client::Plan,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    pin(cli.cpu)?;
    match cli.command {
        Command::Serve { listen, manner } => server::serve(listen, manner),
        Command::Drive { connections, plan } => plan.run(connections),
    }
}

/// Keeps this process on a processor.
fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::this(), &set).context("cannot choose a processor")
}
