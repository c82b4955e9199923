//! Heads and frames.

use std::{io::Read, net::TcpStream};

use anyhow::Result;

pub(crate) const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: frames.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub(crate) const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLBMxihnOnP9Z2mvPBQ1Zgs0=\r\n\r\n";
/// FIN and opcode of a binary message.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// Bytes that are read or written at once at most.
pub(crate) const AT_ONCE: usize = 1 << 20;

/// Reads a head; returns its length.
pub(crate) fn read_head(connection: &mut TcpStream) -> Result<u64> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head.len() as u64)
}

/// Bytes of a server's frame.
pub(crate) const fn length(payload: usize) -> u64 {
    let header = match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    header + payload as u64
}

/// A whole frame.
pub(crate) fn frame(length: usize, masked: bool) -> Vec<u8> {
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
pub(crate) fn read_frame(input: &mut impl Read, buffer: &mut [u8]) -> Result<Option<usize>> {
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
