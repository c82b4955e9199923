//! Much data in both directions at once.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
};

/// Bytes of one write: several segments, and not a whole number of them.
const PIECE: usize = 10_000;

/// Sends so many bytes and meanwhile receives so many; returns how many came before the peer ended.
pub(crate) fn exchange(stream: &TcpStream, send: usize, receive: usize) -> io::Result<usize> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let piece = [0xab; PIECE];
            let mut left = send;
            while left > 0 {
                left -= (&*stream).write(&piece[..left.min(PIECE)])?;
            }
            io::Result::Ok(())
        });
        let mut piece = [0; PIECE];
        let mut received = 0;
        while received < receive {
            match (&*stream).read(&mut piece[..PIECE.min(receive - received)])? {
                0 => break,
                more => received += more,
            }
        }
        sender.join().expect("the sender does not panic")?;
        Ok(received)
    })
}
