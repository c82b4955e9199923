//! A TUN device in a network namespace: packets in and out of a file.

use std::{
    fs::File,
    io::{self, Read, Write},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    libc,
    sched::{CloneFlags, setns},
};

use crate::support::{
    netns::{Netns, ip},
    poll::poll,
};

// Ranges for documentation (RFC 5737, RFC 3849), others than those of the namespaces' cables.
/// The one side, where a [`Raw`](super::Raw) host stands, behind the device.
pub(crate) const RIGHT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// The other side, the kernel's, at the device.
pub(crate) const LEFT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// As [`RIGHT_V4`].
pub(crate) const RIGHT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));
/// As [`LEFT_V4`].
pub(crate) const LEFT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));

/// How long a packet may take to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest packet, unless a device is made for others.
pub(super) const MTU: usize = 1500;

/// The device's file; the device goes with it.
pub(crate) struct Tun {
    file: File,
    mtu: usize,
}

impl Tun {
    /// Makes `tun0` in the namespace; the kernel gets the left side's addresses.
    pub(crate) fn new(netns: &Netns) -> Self {
        Self::with(netns, LEFT_V4, LEFT_V6, MTU)
    }

    /// Makes `tun0` in the namespace; the kernel gets these addresses.
    pub(super) fn with(netns: &Netns, ipv4: IpAddr, ipv6: IpAddr, mtu: usize) -> Self {
        let namespace = File::open(netns.path()).expect("the namespace is there");
        // A device belongs to the namespace of the thread that opens the file, so a thread goes there.
        let opened = thread::scope(|scope| {
            let opener = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                open("tun0")
            });
            opener.join().expect("the thread does not panic")
        });
        let file = opened.unwrap_or_else(|error| panic!("cannot make a TUN device: {error}"));
        let name = netns.name();
        ip(&format!("-n {name} address add {ipv4}/24 dev tun0"));
        // Duplicate address detection would keep the address unusable for a second or two.
        ip(&format!("-n {name} address add {ipv6}/64 dev tun0 nodad"));
        ip(&format!("-n {name} link set tun0 mtu {mtu} up"));
        Self { file, mtu }
    }

    /// Puts a packet on the wire, towards the kernel.
    pub(crate) fn put(&self, packet: &[u8]) -> Result<()> {
        let written = (&self.file).write(packet).context("cannot write to the TUN device")?;
        assert_eq!(written, packet.len(), "a packet is written as a whole");
        Ok(())
    }

    /// The next packet that comes from the kernel, if there is one.
    pub(super) fn next(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; self.mtu];
        // An error says that there is none.
        let length = (&self.file).read(&mut packet).ok()?;
        packet.truncate(length);
        Some(packet)
    }

    /// The first thing that `want` makes of the packets that come from the kernel.
    pub(crate) fn get<T>(&self, mut want: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
        let mut packet = vec![0; self.mtu];
        poll(PATIENCE, || {
            // All that is there, before the next pause; an error says that there is no more.
            while let Ok(length) = (&self.file).read(&mut packet) {
                if let Some(wanted) = want(&packet[..length]) {
                    return Some(wanted);
                }
            }
            None
        })
        .context("the kernel did not send what was to come")
    }
}

fn open(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all zeroes are a valid `ifreq`, a structure of numbers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request reads and writes an `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
