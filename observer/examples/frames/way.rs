//! The ways by which a program can hand bytes to a socket.

use std::{
    fs::File,
    io::Write as _,
    net::TcpStream,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{SpliceFFlags, splice},
    libc, setsockopt_impl, sockopt_impl,
    sys::{
        memfd::{MFdFlags, memfd_create},
        sendfile::sendfile,
        socket::{MsgFlags, send, setsockopt},
    },
    unistd::pipe,
};

sockopt_impl!(
    /// The kernel may send from the program's memory.
    ZeroCopy, SetOnly, libc::SOL_SOCKET, libc::SO_ZEROCOPY, bool
);

/// How bytes are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    #[default]
    Write,
    /// In two parts, the first with `MSG_MORE`.
    More,
    Sendfile,
    Splice,
    /// `MSG_ZEROCOPY`.
    Zerocopy,
}

/// A connection, and what a way needs beside it.
pub(crate) struct Sender {
    connection: TcpStream,
    way: Way,
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// What the kernel may still have to send.
    lent: Vec<Vec<u8>>,
}

impl Sender {
    pub(crate) fn new(connection: TcpStream, way: Way) -> Result<Self> {
        let pipe = (way == Way::Splice).then(pipe).transpose()?;
        if way == Way::Zerocopy {
            setsockopt(&connection, ZeroCopy, &true)?;
        }
        Ok(Self { connection, way, pipe, lent: Vec::new() })
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        match self.way {
            Way::Write => self.connection.write_all(&bytes)?,
            Way::More => {
                let half = bytes.len() / 2;
                self.send_with(&bytes[..half], MsgFlags::from_bits_retain(libc::MSG_MORE))?;
                self.send_with(&bytes[half..], MsgFlags::empty())?;
            }
            Way::Sendfile => {
                // One for each time: what is sent are the file's pages, which are the other end's until it has read them.
                let mut file = memfd_create("frames", MFdFlags::MFD_CLOEXEC).map(File::from)?;
                file.write_all(&bytes)?;
                let (mut offset, end) = (0, bytes.len() as i64);
                while offset != end {
                    let left = usize::try_from(end - offset)?;
                    sendfile(&self.connection, file.as_fd(), Some(&mut offset), left)?;
                }
            }
            Way::Splice => {
                let (from, to) = self.pipe.as_ref().context("no pipe")?;
                // Less than a pipe holds.
                for part in bytes.chunks(32 << 10) {
                    let mut left = nix::unistd::write(to, part)?;
                    ensure!(left == part.len(), "the pipe is full");
                    while left != 0 {
                        let flags = SpliceFFlags::empty();
                        left -= splice(from, None, &self.connection, None, left, flags)?;
                    }
                }
            }
            Way::Zerocopy => {
                self.send_with(&bytes, MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY))?;
                self.lent.push(bytes);
            }
        }
        Ok(())
    }

    fn send_with(&self, mut bytes: &[u8], mut flags: MsgFlags) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.connection.as_raw_fd(), bytes, flags) {
                Ok(sent) => bytes = &bytes[sent..],
                // Too much is lent already.
                Err(Errno::ENOBUFS) => flags = MsgFlags::empty(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
