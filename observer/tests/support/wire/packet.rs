//! IPv4, IPv6 and TCP headers (RFC 791, 8200, 9293), as few of their features as will do.

use std::net::IpAddr;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// An option of a SYN: the largest segment we take is 1400 bytes.
const MSS: [u8; 4] = [2, 4, 0x05, 0x78];

/// A TCP segment, within our interests.
#[derive(Clone, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) source: (IpAddr, u16),
    pub(crate) target: (IpAddr, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    /// The packet that carries it, with valid checksums. `extended` puts a destination-options
    /// header between IPv6 and TCP; it makes no difference to IPv4.
    pub(crate) fn packet(&self, extended: bool) -> Vec<u8> {
        let tcp = self.tcp();
        match (self.source.0, self.target.0) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let length = 20 + tcp.len() as u16;
                // Don't fragment, time to live 64.
                let mut ip = vec![0x45, 0];
                ip.extend(length.to_be_bytes());
                ip.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
                ip.extend(source.octets());
                ip.extend(target.octets());
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                [ip, tcp].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                // Eight bytes: the next header, no further ones, and a padding option of six.
                let options: &[u8] = if extended { &[TCP, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
                let length = (options.len() + tcp.len()) as u16;
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(length.to_be_bytes());
                ip.extend([if extended { DESTINATION_OPTIONS } else { TCP }, 64]);
                ip.extend(source.octets());
                ip.extend(target.octets());
                [&ip, options, &tcp].concat()
            }
            _ => panic!("addresses of two families"),
        }
    }

    fn tcp(&self) -> Vec<u8> {
        let options: &[u8] = if self.flags & SYN == 0 { &[] } else { &MSS };
        let mut tcp = Vec::new();
        tcp.extend(self.source.1.to_be_bytes());
        tcp.extend(self.target.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(20 + options.len() as u8) << 2, self.flags]);
        // The window; checksum and urgent pointer follow.
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(self.payload);
        let addresses = [self.source.0, self.target.0].map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let sum = checksum(&pseudo(&addresses.concat(), TCP, &tcp));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }
}

/// Takes a packet of the kernel's apart; `None` for what is not TCP.
pub(crate) fn parse(packet: &[u8]) -> Option<Segment<'_>> {
    let (source, target, tcp): (IpAddr, IpAddr, &[u8]) = if packet.first()? >> 4 == 4 {
        if packet[9] != TCP {
            return None;
        }
        let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
        let header = usize::from(packet[0] & 0xf) * 4;
        (address(12)?.into(), address(16)?.into(), packet.get(header..)?)
    } else {
        if packet.len() < 40 || packet[6] != TCP {
            return None;
        }
        let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
        (address(8)?.into(), address(24)?.into(), &packet[40..])
    };
    let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    Some(Segment {
        source: (source, short(0)?),
        target: (target, short(2)?),
        seq: long(4)?,
        ack: long(8)?,
        flags: *tcp.get(13)?,
        payload: tcp.get(usize::from(tcp[12] >> 4) * 4..)?,
    })
}

/// The ICMP message (RFC 792, RFC 4443) of a router that cannot deliver `packet`, from its target's address.
pub(crate) fn unreachable(packet: &[u8]) -> Vec<u8> {
    // Addresses change places; host unreachable, or address unreachable; the checksum follows, then four bytes unused.
    if packet[0] >> 4 == 4 {
        let mut icmp = [&[3, 1, 0, 0, 0, 0, 0, 0], &packet[..28]].concat();
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let length = 20 + icmp.len() as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, ICMP, 0, 0]);
        ip.extend([&packet[16..20], &packet[12..16]].concat());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [ip, icmp].concat()
    } else {
        let addresses = [&packet[24..40], &packet[8..24]].concat();
        let mut icmp = [&[1, 3, 0, 0, 0, 0, 0, 0], packet].concat();
        let sum = checksum(&pseudo(&addresses, ICMPV6, &icmp));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((icmp.len() as u16).to_be_bytes());
        ip.extend([ICMPV6, 64]);
        [ip, addresses, icmp].concat()
    }
}

/// What a checksum covers beside the message itself.
fn pseudo(addresses: &[u8], protocol: u8, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [addresses, &length, &[0, 0, 0, protocol], message].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
