//! The server: does to each connection what its client asks for.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;
use nix::{
    libc::linger,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{Backlog, setsockopt, sockopt::Linger},
};

use crate::{
    Ending,
    books::{Books, Reason},
    obey, say_ready,
};

const THREADS: usize = 2;
/// Connections that a thread has at a time.
const BATCH: usize = 64;
/// How often a thread looks whether it is to end, in milliseconds.
const LOOK: u16 = 50;
/// More than all clients have at a time: a full queue drops what a client takes for established.
const BACKLOG: i32 = 4096;

/// Serves until stdin ends and no connection waits.
pub(crate) fn run(address: SocketAddr, books: &Books) -> Result<bool> {
    let listener = TcpListener::bind(address)?;
    // Once more, for the length alone.
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    listener.set_nonblocking(true)?;
    say_ready(listener.local_addr()?)?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(|| serve(&listener, &ended, books)));
        let obeyed = obey(books, &RwLock::default());
        ended.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        obeyed
    })?;
    Ok(true)
}

fn serve(listener: &TcpListener, ended: &AtomicBool, books: &Books) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        while batch.len() < BATCH {
            match listener.accept() {
                Ok((stream, _)) => {
                    books.open();
                    batch.push(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The client has gone before it was accepted, which Linux does not tell; or there are too many files.
                Err(error) => return Err(error),
            }
        }
        if batch.is_empty() {
            // Looked at before the last wait for connections, so that none is left in the queue.
            let last = ended.load(Ordering::Relaxed);
            let waiting = poll(
                &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
                PollTimeout::from(LOOK),
            )?;
            if last && waiting == 0 {
                return Ok(());
            }
            continue;
        }
        // All are answered before the end of one is awaited: clients have several at a time.
        let answered: Vec<_> = batch.drain(..).filter_map(|stream| answer(stream, books)).collect();
        for stream in answered {
            await_end(stream, books);
        }
    }
}

/// Does what the client asks for; returns the connection if its end is up to the client.
fn answer(mut stream: TcpStream, books: &Books) -> Option<TcpStream> {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => {
            books.close(Reason::Peer);
            return None;
        }
        Ok(_) => {}
        Err(_) => {
            books.close(Reason::ResetPeer);
            return None;
        }
    }
    match Ending::of(byte[0]) {
        Some(Ending::ServerResets) => {
            reset(stream);
            books.close(Reason::ResetLocal);
            None
        }
        Some(Ending::ServerAborts) => {
            drop(stream);
            books.close(Reason::Aborted);
            None
        }
        Some(ending) => {
            // The client may have been killed meanwhile: the end tells.
            let _ = stream.write(&byte);
            if ending == Ending::Server {
                drop(stream);
                books.close(Reason::Local);
                return None;
            }
            Some(stream)
        }
        None => {
            books.fail(&format_args!("a client sent {byte:?}"));
            Some(stream)
        }
    }
}

fn await_end(mut stream: TcpStream, books: &Books) {
    match stream.read(&mut [0]) {
        Ok(0) => books.close(Reason::Peer),
        Ok(_) => books.fail(&"a byte came instead of the end"),
        Err(_) => books.close(Reason::ResetPeer),
    }
}

/// Closes by a reset.
pub(crate) fn reset(stream: TcpStream) {
    setsockopt(&stream, Linger, &linger { l_onoff: 1, l_linger: 0 })
        .expect("a socket takes SO_LINGER");
    drop(stream);
}
