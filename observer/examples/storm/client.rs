//! The client: opens some connections, asks for their ends, sees to them; again and again.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;
use fastrand::Rng;

use crate::{
    Ending,
    books::{Books, Reason},
    obey,
    server::reset,
};

const THREADS: u64 = 2;
/// Connections that a thread has at a time.
const BATCH: usize = 64;

/// Opens connections until stdin ends, or the server does.
pub(crate) fn run(server: SocketAddr, seed: u64, books: &Books) -> Result<bool> {
    let ended = AtomicBool::new(false);
    let opening = RwLock::default();
    let obeyed = thread::scope(|scope| {
        let (ended, opening) = (&ended, &opening);
        for thread in 0..THREADS {
            let mut random = Rng::with_seed(seed.wrapping_add(thread));
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) && batch(server, &mut random, books, opening) {
                }
            });
        }
        let obeyed = obey(books, opening);
        ended.store(true, Ordering::Relaxed);
        obeyed
    });
    obeyed?;
    Ok(true)
}

/// Opens a batch and ends it; false if the server is not there any more.
fn batch(server: SocketAddr, random: &mut Rng, books: &Books, opening: &RwLock<()>) -> bool {
    let mut open = Vec::with_capacity(BATCH);
    let mut connect = || {
        let ending = Ending::MIX[random.usize(..Ending::MIX.len())];
        let mut stream = {
            let _opening = opening.read().ok()?;
            let stream = TcpStream::connect(somewhere(server, random)).ok()?;
            books.open();
            stream
        };
        if ending == Ending::Silent {
            drop(stream);
            books.close(Reason::Local);
        } else {
            ask(&mut stream, ending);
            open.push((stream, ending));
        }
        Some(())
    };
    let there = (0..BATCH).all(|_| connect().is_some());
    for (stream, ending) in open {
        end(stream, ending, books);
    }
    there
}

/// One of the server's addresses.
fn somewhere(server: SocketAddr, random: &mut Rng) -> SocketAddr {
    match server {
        SocketAddr::V4(address) if *address.ip() == Ipv4Addr::LOCALHOST => {
            (Ipv4Addr::new(127, 0, random.u8(..), random.u8(1..255)), address.port()).into()
        }
        other => other,
    }
}

fn ask(stream: &mut TcpStream, ending: Ending) {
    let byte = ending as u8;
    // Errors come when the server was killed; the end tells.
    let _ = match ending {
        Ending::ServerAborts => stream.write(&[byte, byte]),
        _ => stream.write(&[byte]),
    };
}

fn end(mut stream: TcpStream, ending: Ending, books: &Books) {
    let mut byte = [0];
    match ending {
        Ending::ClientAborts => {
            let came = stream.peek(&mut byte);
            drop(stream);
            books.close(match came {
                Ok(1) => Reason::Aborted,
                Ok(_) => Reason::Peer,
                Err(_) => Reason::ResetPeer,
            });
        }
        Ending::Client | Ending::ClientResets => match stream.read(&mut byte) {
            Ok(1) if ending == Ending::ClientResets => {
                reset(stream);
                books.close(Reason::ResetLocal);
            }
            Ok(1) => {
                drop(stream);
                books.close(Reason::Local);
            }
            Ok(_) => books.close(Reason::Peer),
            Err(_) => books.close(Reason::ResetPeer),
        },
        _ => loop {
            match stream.read(&mut byte) {
                Ok(0) => break books.close(Reason::Peer),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break books.close(Reason::ResetPeer),
            }
        },
    }
}
