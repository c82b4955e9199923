//! Reads the IP and TCP headers of a segment at the `cgroup_skb` hooks, where the packet starts at its IP header.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use observer_common::{CHUNK, source::Source, wire::loss::Loss};

use super::{job::Job, scratch::Scratches};
use crate::{accounting::losses::lost, maps::Scratch, memory::registers};

/// TCP flag bits.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const IPPROTO_TCP: u8 = 6;
/// IPv6 extension headers that are skipped at most (RFC 8200 names six kinds).
const MAX_EXTENSIONS: usize = 6;

/// What the segment programs need of a TCP segment.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Sequence number of the first payload byte.
    pub(crate) seq: u32,
    /// Bytes of payload.
    pub(crate) payload: u32,
    /// Offset of the TCP header from the IP header.
    pub(crate) tcp: u32,
    /// Offset of the payload from the IP header.
    pub(crate) offset: u32,
    /// TCP flags.
    pub(crate) flags: u8,
}

/// The byte at `data + offset`; the caller has compared the range with the packet's end.
///
/// # Safety
/// `data + offset` lies within the linear part of the packet, as the verifier can see.
#[inline(always)]
unsafe fn byte(data: usize, offset: usize) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { *((data + offset) as *const u8) }
}

/// Reads the headers; `None` for what is not TCP.
///
/// Headers are in the linear part here: the stack has pulled them on the way in and built them on the way out. The
/// length comes from the buffer, since BIG TCP leaves the IP header's length field at 0.
#[inline(always)]
pub(crate) fn segment(skb: *mut __sk_buff) -> Option<Segment> {
    // SAFETY: context fields, rewritten by the verifier.
    let (data, end, length) =
        unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
    if data + 20 > end {
        return None;
    }
    // SAFETY: 20 bytes were compared with the end.
    let first = unsafe { byte(data, 0) };
    let ip = if first >> 4 == 4 {
        // SAFETY: as above.
        if unsafe { byte(data, 9) } != IPPROTO_TCP {
            return None;
        }
        usize::from(first & 0x0f) << 2
    } else {
        if data + 40 > end {
            return None;
        }
        // SAFETY: 40 bytes were compared with the end.
        match unsafe { byte(data, 6) } {
            IPPROTO_TCP => 40,
            next => extensions(skb, next)?,
        }
    };
    let tcp = data + ip;
    if tcp + 20 > end {
        lost(Loss::Malformed);
        return None;
    }
    // SAFETY: 20 bytes from `tcp` were compared with the end.
    let (seq, words, flags) =
        unsafe { (u32::from_be(registers::word(tcp, 4)), byte(tcp, 12) >> 4, byte(tcp, 13)) };
    let offset = ip as u32 + (u32::from(words) << 2);
    // A SYN takes a sequence number of its own, before what it carries.
    let seq = seq.wrapping_add(u32::from(flags & SYN != 0));
    Some(Segment { seq, payload: length.saturating_sub(offset), tcp: ip as u32, offset, flags })
}

/// Loads `wanted` bytes, 1 to `MAX` (a power of two), from `offset` to `to`; false if the packet has no such range.
///
/// Kernels before 6.8 do not learn from a comparison with zero that a length is at least 1, and the compiler folds every
/// clearer bound into one; so it is kept from seeing where the number comes from, and a mask bounds it.
///
/// # Safety
/// `to` has room for `MAX` bytes.
#[inline(always)]
pub(crate) unsafe fn load<const MAX: u32>(
    skb: *mut __sk_buff,
    offset: u32,
    to: *mut u8,
    wanted: u32,
) -> bool {
    let bounded = registers::hidden(u64::from(wanted.wrapping_sub(1)));
    let length = (bounded as u32 & (MAX - 1)) + 1;
    // SAFETY: the helper checks the packet's range; the caller promises the room.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), length) } != 0;
    if failed {
        lost(Loss::Malformed);
    }
    !failed
}

/// The offset of the TCP header behind IPv6 extension headers; `None` if there is none.
#[inline(always)]
fn extensions(skb: *mut __sk_buff, first: u8) -> Option<usize> {
    let mut next = first;
    let mut offset = 40_u32;
    for _ in 0..MAX_EXTENSIONS {
        // Hop-by-hop, routing, destination options; an authentication header counts in words of four.
        if next != 0 && next != 43 && next != 60 && next != 51 {
            break;
        }
        let mut header = [0_u8; 2];
        // SAFETY: the helper checks the offset and writes two bytes.
        if unsafe { bpf_skb_load_bytes(skb.cast(), offset, header.as_mut_ptr().cast(), 2) } != 0 {
            return None;
        }
        offset += if next == 51 {
            (u32::from(header[1]) + 2) << 2
        } else {
            (u32::from(header[1]) + 1) << 3
        };
        next = header[0];
    }
    // The largest chain of six is below 16 KiB; the mask shows the verifier the bound.
    if next == IPPROTO_TCP { Some(offset as usize & 0x3fff) } else { None }
}

/// The port, and the last four bytes of the address, that a segment comes from: what tells two peers of a listener apart.
#[inline(always)]
pub(crate) fn peer(skb: *mut __sk_buff, segment: &Segment) -> u64 {
    let load = |offset: u32| {
        let mut bytes = [0_u8; 4];
        // SAFETY: the helper checks the offset and writes four bytes, zeroes if it fails.
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), 4) };
        u32::from_be_bytes(bytes)
    };
    let v4 = load(0) >> 28 == 4;
    let address = load(if v4 { 12 } else { 20 });
    u64::from(address) << 16 | u64::from(load(segment.tcp) >> 16)
}

/// A packet's payload, the position being the job's in the control buffer.
pub(crate) struct Packet(pub(crate) *mut __sk_buff);

impl Source for Packet {
    #[inline(always)]
    fn left(&self) -> u32 {
        Job::left(self.0)
    }

    #[inline(always)]
    fn advance(&mut self, bytes: u32) {
        Job::advance(self.0, bytes);
    }

    #[inline(always)]
    fn peek(&self, wanted: u32) -> Option<[u64; 2]> {
        let mut words = MaybeUninit::<[u64; 2]>::uninit();
        let start: *mut u64 = words.as_mut_ptr().cast();
        // SAFETY: two words on the stack; written one by one, since LLVM would call a loop for an array. Together
        // they have room for 16 bytes.
        unsafe {
            start.write_volatile(0);
            start.add(1).write_volatile(0);
            load::<16>(self.0, Job::offset(self.0), start.cast(), wanted)
                .then(|| words.assume_init())
        }
    }
}

impl Scratches for Packet {
    #[inline(always)]
    fn fill(&self, scratch: *mut Scratch, wanted: u32) -> bool {
        // SAFETY: the scratch has CHUNK bytes.
        unsafe {
            load::<{ CHUNK as u32 }>(
                self.0,
                Job::offset(self.0),
                (&raw mut (*scratch).bytes).cast(),
                wanted,
            )
        }
    }
}
