//! Sockets that do what few programs do: raw ones that speak TCP by themselves, ones that connect again after they were
//! disconnected, and listeners that outlive the cell that their children are born into.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    fs, io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    process,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind,
        connect, listen, sendto, socket,
    },
};
use support::{cgroup, daemon::Daemon, lock::SystemLock, metrics::Expected, pod::Pod, poll::poll};

const PATIENCE: Duration = Duration::from_secs(30);
/// Ports on which a pod listens: more than it keeps cells for while they are idle.
const LISTENERS: u64 = 20;

/// Makes sockets that are the pod's: a socket belongs to the cgroup that its maker is in.
fn in_pod<T>(pod: &Pod, make: impl FnOnce() -> T) -> T {
    let memberships = fs::read_to_string("/proc/self/cgroup").expect("it can be read");
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2");
    pod.cgroup.take_in(process::id());
    let sockets = make();
    let back = cgroup::ROOT.join(own).join("cgroup.procs");
    fs::write(&back, process::id().to_string()).expect("we were there before");
    sockets
}

fn of(pod: &Pod, name: &str, labels: &[(&str, &str)], count: u64) -> Expected {
    Expected::sum(name, &[&[("pod", pod.name.as_str())], labels].concat(), count)
}

/// A listener on loopback, and its address.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

fn sockaddr(address: SocketAddr) -> SockaddrIn {
    let SocketAddr::V4(address) = address else { panic!("{address} is no IPv4 address") };
    address.into()
}

/// A SYN to a port, without options, as a raw socket sends it behind an IP header of the kernel's.
fn syn(to: SocketAddr) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39];
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0]);
    segment
}

#[test]
fn raw_sockets_are_no_connections() -> nix::Result<()> {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let pod = Pod::new();
    let (server, address) = listener();
    let raw = in_pod(&pod, || {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp)
    })?;
    for _ in 0..5 {
        let sent = sendto(raw.as_raw_fd(), &syn(address), &sockaddr(address), MsgFlags::empty())?;
        assert_eq!(sent, syn(address).len());
    }
    // A connection of the same pod, after which all of the above has passed.
    let client = in_pod(&pod, || TcpStream::connect(address)).expect("it is listened to");
    drop((client, server));
    let metrics = daemon.wait_for(
        PATIENCE,
        &[
            of(&pod, "tcp_connections_opened_total", &[], 1),
            of(&pod, "tcp_connections_closed_total", &[], 1),
            of(&pod, "tcp_connections_active", &[], 0),
            of(&pod, "tcp_connect_failures_total", &[], 0),
        ],
    );
    drop(raw);
    assert_eq!(metrics.select("tcp_connect_failures_total", &[("pod", &pod.name)]).len(), 0);
    daemon.wait_for(PATIENCE, &[of(&pod, "tcp_connect_failures_total", &[], 0)]);
    daemon.stop();
    Ok(())
}

/// Ends whatever the socket does, and makes it one that may connect again (`tcp_disconnect`).
fn disconnect(socket: &OwnedFd) {
    let nowhere =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: a socket that is open, and an address of the length that is told.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn tcp_socket(pod: &Pod, flags: SockFlag) -> nix::Result<OwnedFd> {
    in_pod(pod, || socket(AddressFamily::Inet, SockType::Stream, flags, None))
}

#[test]
fn a_socket_that_connects_again_is_another_connection() -> nix::Result<()> {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let (given_up, cut) = (Pod::new(), Pod::new());
    let (server, address) = listener();

    // An attempt that is given up: nobody accepts, and the queue, of one, is full.
    let deaf = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    bind(deaf.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    listen(&deaf, Backlog::new(0)?)?;
    let full: SockaddrIn = nix::sys::socket::getsockname(deaf.as_raw_fd())?;
    let held = TcpStream::connect(SocketAddr::from((full.ip(), full.port()))).expect("one fits");
    let first = tcp_socket(&given_up, SockFlag::SOCK_NONBLOCK)?;
    assert_eq!(connect(first.as_raw_fd(), &full), Err(nix::Error::EINPROGRESS));
    disconnect(&first);
    assert_eq!(connect(first.as_raw_fd(), &sockaddr(address)), Err(nix::Error::EINPROGRESS));
    let first = TcpStream::from(first);
    poll(PATIENCE, || first.peer_addr().ok()).expect("it connects");

    // A connection that is cut, and another one by the same socket.
    let second = tcp_socket(&cut, SockFlag::empty())?;
    connect(second.as_raw_fd(), &sockaddr(address))?;
    disconnect(&second);
    connect(second.as_raw_fd(), &sockaddr(address))?;

    let established = |pod, opened| {
        [
            of(pod, "tcp_connections_opened_total", &[], opened),
            of(pod, "tcp_connections_active", &[], 1),
        ]
    };
    daemon.wait_for(PATIENCE, &established(&given_up, 1));
    daemon.wait_for(PATIENCE, &established(&cut, 2));
    let second = TcpStream::from(second);
    for stream in [&first, &second] {
        stream.shutdown(Shutdown::Both).expect("it is connected");
    }
    drop((first, second, server, held, deaf));
    daemon.wait_for(
        PATIENCE,
        &[
            of(&given_up, "tcp_connect_failures_total", &[("reason", "cancelled")], 1),
            of(&given_up, "tcp_connect_failures_total", &[], 1),
            of(&given_up, "tcp_connections_opened_total", &[], 1),
            of(&given_up, "tcp_connections_closed_total", &[], 1),
            of(&given_up, "tcp_connections_active", &[], 0),
            of(&cut, "tcp_connect_failures_total", &[], 0),
            of(&cut, "tcp_connections_opened_total", &[], 2),
            of(&cut, "tcp_connections_closed_total", &[("reason", "reset_local")], 1),
            of(&cut, "tcp_connections_closed_total", &[], 2),
            of(&cut, "tcp_connections_active", &[], 0),
        ],
    );
    daemon.stop();
    Ok(())
}

/// Connects to each of the listeners, and ends the connections.
fn visit(listeners: &[(TcpListener, SocketAddr)]) {
    for (listener, address) in listeners {
        let client = TcpStream::connect(address).expect("it is listened to");
        let (server, _) = listener.accept().expect("a connection");
        drop(client);
        drop(server);
    }
}

#[test]
fn children_of_a_listener_whose_cell_was_freed_are_counted_in_another() {
    let _lock = SystemLock::acquire();
    let (pod, other) = (Pod::new(), Pod::new());
    let pods = pod.cgroup.path().ancestors().nth(3).expect("a slice of pods");
    let daemon =
        Daemon::start(&["--cell-age", "2s", "--cgroup-root", pods.to_str().expect("ASCII")]);
    let listeners: Vec<_> = (0..LISTENERS).map(|_| in_pod(&pod, listener)).collect();
    visit(&listeners);
    let closed = |pod, count| of(pod, "tcp_connections_closed_total", &[], count);
    daemon.wait_for(PATIENCE, &[closed(&pod, LISTENERS)]);
    // The listeners still hold the indexes of cells that are freed now, and that others take.
    daemon.wait_until(PATIENCE, |metrics| {
        let ports = metrics.select("tcp_connections_opened_total", &[("pod", &pod.name)]);
        ports.iter().all(|sample| sample.labels["port"] == "0")
    });
    let others: Vec<_> = (0..LISTENERS).map(|_| in_pod(&other, listener)).collect();
    visit(&others);
    visit(&listeners);
    let metrics =
        daemon.wait_for(PATIENCE, &[closed(&pod, 2 * LISTENERS), closed(&other, LISTENERS)]);
    for (pod, listeners) in [(&pod, &listeners), (&other, &others)] {
        for (_, address) in listeners {
            let port = address.port().to_string();
            let labels = [("pod", pod.name.as_str()), ("port", port.as_str())];
            let opened = metrics.sum("tcp_connections_opened_total", &labels);
            assert_eq!(opened as u64, 1, "{port}");
        }
    }
    daemon.stop();
}
