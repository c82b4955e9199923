//! A TCP that does as it is told: it retransmits nothing and orders nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, ensure};

use super::{
    packet::{ACK, FIN, PSH, RST, SYN, Segment, parse, unreachable},
    tun::Tun,
};

/// Where our stream starts: soon to wrap around.
const FIRST: u32 = u32::MAX - 100;

/// Our end of a connection.
pub(crate) struct Raw<'a> {
    tun: &'a Tun,
    ours: (IpAddr, u16),
    theirs: (IpAddr, u16),
    /// Bytes of our stream that count as sent: where a FIN or RST stands.
    sent: u32,
    /// The sequence number that the kernel uses next.
    next: u32,
    /// Whether IPv6 packets carry an extension header.
    pub(crate) extended: bool,
}

impl<'a> Raw<'a> {
    /// A port that no connection of this process has had on our side.
    pub(crate) fn free_port() -> u16 {
        static PORTS: AtomicU16 = AtomicU16::new(20_000);
        PORTS.fetch_add(1, Ordering::Relaxed)
    }

    /// Connects to a real server, up to the SYN/ACK or, with `acknowledge`, completely.
    pub(crate) fn connect(
        tun: &'a Tun,
        ours: IpAddr,
        server: SocketAddr,
        acknowledge: bool,
    ) -> Result<Self> {
        let ours = (ours, Self::free_port());
        let theirs = (server.ip(), server.port());
        let mut raw = Self { tun, ours, theirs, sent: 0, next: 0, extended: false };
        raw.put(FIRST.wrapping_sub(1), SYN, &[])?;
        raw.next = tun.get(|packet| {
            let segment = raw.parse(packet)?;
            (segment.flags & (SYN | ACK) == SYN | ACK).then(|| segment.seq.wrapping_add(1))
        })?;
        if acknowledge {
            raw.put(FIRST, ACK, &[])?;
        }
        Ok(raw)
    }

    /// Accepts a real client's connection.
    pub(crate) fn accept(tun: &'a Tun, ours: IpAddr, port: u16) -> Result<Self> {
        let raw = Self::called(tun, ours, port)?;
        raw.put(FIRST.wrapping_sub(1), SYN | ACK, &[])?;
        raw.tun.get(|packet| (raw.parse(packet)?.flags & ACK != 0).then_some(()))?;
        Ok(raw)
    }

    /// Takes a real client's SYN for one of an older connection, and answers so: the client resets that, and tries again
    /// (RFC 9293 section 3.5.1).
    pub(crate) fn mistake(tun: &'a Tun, ours: IpAddr, port: u16) -> Result<()> {
        let mut raw = Self::called(tun, ours, port)?;
        raw.next = raw.next.wrapping_sub(1000);
        raw.acknowledge()?;
        raw.tun.get(|packet| (raw.parse(packet)?.flags & RST != 0).then_some(()))
    }

    /// Our end of a connection that a real client begins.
    fn called(tun: &'a Tun, ours: IpAddr, port: u16) -> Result<Self> {
        let ours = (ours, port);
        let (theirs, seq) = tun.get(|packet| {
            let segment = parse(packet)?;
            (segment.target == ours && segment.flags & (SYN | ACK) == SYN)
                .then_some((segment.source, segment.seq))
        })?;
        Ok(Self { tun, ours, theirs, sent: 0, next: seq.wrapping_add(1), extended: false })
    }

    /// Answers a real client's SYN as a router would that cannot reach us.
    pub(crate) fn refuse_as_unreachable(tun: &Tun, ours: IpAddr, port: u16) -> Result<()> {
        let syn = tun.get(|packet| {
            let segment = parse(packet)?;
            (segment.target == (ours, port) && segment.flags & SYN != 0).then(|| packet.to_vec())
        })?;
        tun.put(&unreachable(&syn))
    }

    /// Sends bytes as the part of our stream that starts at `offset`.
    pub(crate) fn send(&mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        self.sent = self.sent.max((offset + bytes.len()) as u32);
        self.put(FIRST.wrapping_add(offset as u32), ACK | PSH, bytes)
    }

    /// Sends bytes that the kernel refuses: far behind the end of its window.
    pub(crate) fn stray(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.put(FIRST.wrapping_add(offset as u32), ACK | PSH, bytes)
    }

    /// Sends an ACK without data.
    pub(crate) fn acknowledge(&self) -> Result<()> {
        self.put(FIRST.wrapping_add(self.sent), ACK, &[])
    }

    /// Sends a keep-alive probe: the byte before the next one, once more, whatever it be.
    pub(crate) fn probe(&self) -> Result<()> {
        self.put(FIRST.wrapping_add(self.sent).wrapping_sub(1), ACK, b"G")
    }

    /// Receives exactly these bytes in order, and acknowledges them.
    pub(crate) fn expect(&mut self, bytes: &[u8]) -> Result<()> {
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            let more = self.tun.get(|packet| {
                let segment = self.parse(packet)?;
                (segment.seq == self.next && !segment.payload.is_empty())
                    .then(|| segment.payload.to_vec())
            })?;
            self.next = self.next.wrapping_add(more.len() as u32);
            received.extend(more);
            self.acknowledge()?;
        }
        ensure!(received == bytes, "the connection itself failed: other bytes came");
        Ok(())
    }

    /// Ends our stream.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.put(FIRST.wrapping_add(self.sent), ACK | FIN, &[])?;
        self.sent += 1;
        Ok(())
    }

    /// Receives the end of the kernel's stream, and acknowledges it.
    pub(crate) fn expect_finish(&mut self) -> Result<()> {
        self.tun.get(|packet| {
            let segment = self.parse(packet)?;
            (segment.seq == self.next && segment.flags & FIN != 0).then_some(())
        })?;
        self.next = self.next.wrapping_add(1);
        self.acknowledge()
    }

    /// Resets the connection. Only a reset right behind what the kernel has received without a gap
    /// is obeyed (RFC 5961 section 3).
    pub(crate) fn reset(&self, offset: usize) -> Result<()> {
        self.put(FIRST.wrapping_add(offset as u32), ACK | RST, &[])
    }

    fn put(&self, seq: u32, flags: u8, payload: &[u8]) -> Result<()> {
        self.tun.put(&self.segment(seq, flags, payload))
    }

    fn segment(&self, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (source, target) = (self.ours, self.theirs);
        Segment { source, target, seq, ack: self.next, flags, payload }.packet(self.extended)
    }

    /// A packet's segment if it belongs to this connection.
    fn parse<'p>(&self, packet: &'p [u8]) -> Option<Segment<'p>> {
        parse(packet).filter(|s| s.source == self.theirs && s.target == self.ours)
    }
}
