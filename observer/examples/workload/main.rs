//! A real client and a real server that keep exact books of what they did.
//!
//! The system tests compare the observer's figures with these books, without tolerance, and the
//! demo uses the same program to have something to show. Four protocols, each by the library that
//! production code uses for it: WebSocket by tokio-tungstenite, gRPC by tonic (cleartext HTTP/2),
//! HTTP/1.1 keep-alive and a binary echo over plain TCP by hand.
//!
//! ```text
//! workload serve --protocol ws --listen 127.0.0.1:0
//! workload drive --protocol ws --connect 127.0.0.1:1234 --short 1000 --long 50
//! ```
//!
//! Both speak JSON lines on stdout and take commands on stdin, see [`serve`] and [`drive`]. Both
//! end when stdin does, so nothing outlives the process that started them.
//!
//! - [`books`]: the counters and how they are printed
//! - [`net`]: sockets: listening, connecting, closing, and the counted connection
//! - [`control`]: commands from stdin
//! - [`serve`], [`drive`]: the two subcommands that speak, the same for every protocol
//! - [`relay`]: the one that only passes on
//! - [`ws`], [`http1`], [`grpc`], [`tcp`]: one protocol each, server and client side

mod books;
mod control;
mod drive;
mod grpc;
mod http1;
mod net;
mod relay;
mod serve;
mod tcp;
mod ws;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// Opens and serves real connections, and counts them.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve one protocol until stdin ends or SIGTERM arrives.
    Serve(serve::Args),
    /// Open short and long connections to a server.
    Drive(drive::Args),
    /// Pass connections on to another address.
    Relay(relay::Args),
}

/// What is spoken on the connections.
#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    /// WebSocket text messages, echoed.
    Ws,
    /// HTTP/1.1 requests on a kept-alive connection.
    Http1,
    /// gRPC health checks over cleartext HTTP/2.
    Grpc,
    /// Binary records, echoed; they resemble neither HTTP nor TLS.
    Tcp,
}

// One thread is enough for a few thousand connections, and leaves the other core to the peer.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    net::raise_file_limit()?;
    let all_well = match cli.command {
        Command::Serve(args) => serve::run(&args).await?,
        Command::Drive(args) => drive::run(&args).await?,
        Command::Relay(args) => relay::run(&args).await?,
    };
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
