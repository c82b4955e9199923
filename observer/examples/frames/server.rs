//! Answers upgrades, and sends each message back, unless it is a sink.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::Result;
use nix::{
    libc, setsockopt_impl, sockopt_impl,
    sys::socket::{Backlog, SockaddrStorage, bind, listen, setsockopt, sockopt},
};

use crate::{
    codec::{AT_ONCE, SWITCHING, frame, read_frame, read_head},
    socket,
};

sockopt_impl!(
    /// Connections are accepted when they have sent something, within so many seconds.
    DeferAccept, SetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32
);
sockopt_impl!(
    /// Connections may send something with their SYN; so many may wait.
    FastOpen, SetOnly, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, u32
);

/// How it serves.
#[derive(Clone, Copy, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "options of a command line")]
pub(crate) struct Manner {
    /// Send nothing back.
    #[arg(long)]
    sink: bool,
    /// Answer nothing at all, not even a request.
    #[arg(long)]
    deaf: bool,
    /// Let the kernel accept connections when they have sent something.
    #[arg(long)]
    defer_accept: bool,
    /// Let connections send something with their SYN.
    #[arg(long)]
    fast_open: bool,
    /// Messages that are sent by the same write as the answer to the request.
    #[arg(long, default_value_t = 0)]
    behind: usize,
}

pub(crate) fn serve(address: SocketAddr, manner: Manner) -> Result<()> {
    let socket = socket::new(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if manner.defer_accept {
        setsockopt(&socket, DeferAccept, &5)?;
    }
    if manner.fast_open {
        setsockopt(&socket, FastOpen, &128)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(512)?)?;
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr()?);
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = answer(connection, manner) {
                eprintln!("frames: {error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut connection: TcpStream, manner: Manner) -> Result<()> {
    let mut buffer = vec![0; AT_ONCE];
    if !manner.deaf {
        read_head(&mut connection)?;
        let mut answer = SWITCHING.to_vec();
        answer.extend((0..manner.behind).flat_map(|length| frame(length, false)));
        connection.write_all(&answer)?;
    }
    if manner.sink || manner.deaf {
        while connection.read(&mut buffer)? != 0 {}
        return Ok(());
    }
    let mut input = io::BufReader::with_capacity(AT_ONCE, connection.try_clone()?);
    while let Some(length) = read_frame(&mut input, &mut buffer)? {
        connection.write_all(&frame(length, false))?;
    }
    Ok(())
}
