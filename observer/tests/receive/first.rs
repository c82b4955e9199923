//! Bytes that come before the socket: in the segment that completes the handshake, which the kernel waits for if it is told so
//! (`TCP_DEFER_ACCEPT`), and in the SYN (TCP Fast Open, RFC 7413).

use std::{fs, net::SocketAddr, process::Command};

use anyhow::Result;

use crate::{
    load::{ALL, Load, Run},
    support::{
        daemon::Daemon,
        lock::SystemLock,
        metrics::Expected,
        netns::NetnsPair,
        pod::{Pod, check},
        poll::poll,
        process::Process,
        scenarios::Failures,
    },
};

/// Of `net.ipv4.tcp_fastopen`: for clients and servers, and both without a cookie.
const FAST_OPEN: &str = "519";
const CONNECTIONS: u64 = 20;

const WEBSOCKETS: [Load; 3] = [
    Load {
        connections: CONNECTIONS,
        messages: 10,
        sizes: (0, 1_500),
        behind: 3,
        server: &["--defer-accept"],
        client: &["--with-request", "3"],
        ..Load::new("accepted with data")
    },
    Load {
        connections: CONNECTIONS,
        messages: 4,
        sizes: (0, 200),
        server: &["--fast-open"],
        client: &["--fast-open", "--with-request", "2"],
        ..Load::new("data in the SYN")
    },
    Load {
        connections: CONNECTIONS,
        messages: 300,
        sizes: (0, 2_000),
        server: &["--fast-open"],
        client: &["--fast-open", "--with-request", "300"],
        ..Load::new("more data than the SYN takes")
    },
];

/// The first bytes of a connection, in hexadecimal, and what it is found to speak.
const FIRST: [(&str, &str); 3] = [
    // The start of a `ClientHello`.
    (
        "160301002f0100002b0303000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
         00000213010100 0000",
        "tls",
    ),
    // The preface of HTTP/2, empty SETTINGS, and HEADERS of a gRPC call.
    (
        "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000000040000000000000017010400000001\
         838644 012f 5f10 6170706c69636174696f6e2f67727063",
        "grpc",
    ),
    // A plain request.
    ("474554202f20485454502f312e310d0a486f73743a20780d0a0d0a", "http1"),
];

#[test]
fn before_the_socket() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let namespaces = NetnsPair::new();
    for namespace in [&namespaces.a, &namespaces.b] {
        namespace.set("ipv4/tcp_fastopen", FAST_OPEN);
    }
    let ends = Some([&namespaces.a, &namespaces.b]);
    let listen: SocketAddr = (namespaces.b.ipv4(), 0).into();
    let mut failures = Failures::default();
    for load in WEBSOCKETS {
        let run = Run { load, placement: (None, None), listen, namespaces: ends };
        failures.run(&daemon, load.name, || run.run(&daemon, 1, ALL));
    }
    for (bytes, protocol) in FIRST {
        for (how, server, client) in [
            ("with its SYN", &["--deaf", "--fast-open"][..], &["--fast-open"][..]),
            ("accepted with data", &["--deaf", "--defer-accept"], &[]),
        ] {
            let load = Load { connections: CONNECTIONS, server, client, ..Load::new(protocol) };
            let run = Run { load, placement: (None, None), listen, namespaces: ends };
            failures.run(&daemon, &format!("{protocol} {how}"), || {
                identified(&daemon, &run, bytes, protocol)
            });
        }
    }
    failures.run(&daemon, "nginx that is told to wait", || nginx(&daemon));
    failures.report();
    daemon.stop();
}

/// Connections that say these bytes at once are found to speak that, and all bytes are in the books of both ends.
fn identified(daemon: &Daemon, run: &Run<'_>, bytes: &str, protocol: &str) -> Result<()> {
    let bytes = bytes.replace(' ', "");
    let (server_pod, client_pod) = (Pod::new(), Pod::new());
    let (_server, address) = run.serve(&server_pod)?;
    let sent = run.send(&client_pod, address, &["--bytes", &bytes])?;
    let books = |pod: &str, role, direction| {
        let labels = [("pod", pod), ("role", role)];
        let identified = [labels[0], labels[1], ("protocol", protocol)];
        let payload = [labels[0], labels[1], ("direction", direction)];
        vec![
            Expected::sum("tcp_connections_identified_total", &identified, CONNECTIONS),
            Expected::sum("tcp_connections_closed_total", &identified, CONNECTIONS),
            Expected::sum("tcp_payload_bytes_total", &payload, sent),
        ]
    };
    let server = books(&server_pod.name, "server", "received");
    let client = books(&client_pod.name, "client", "sent");
    check(daemon, &[(&server_pod, server), (&client_pod, client)])
}

/// nginx with `listen … deferred`.
fn nginx(daemon: &Daemon) -> Result<()> {
    let (server_pod, client_pod) = (Pod::new(), Pod::new());
    let directory = tempfile::tempdir()?;
    let path = directory.path().display();
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
        .concat();
    let configuration = directory.path().join("nginx.conf");
    fs::write(
        &configuration,
        format!(
            "daemon off; user root; worker_processes 1; pid {path}/pid; error_log stderr crit;
            events {{ worker_connections 100; }}
            http {{
                access_log off;
                {temporary}
                server {{ listen 127.0.0.1:{port} deferred; location / {{ return 204; }} }}
            }}"
        ),
    )?;
    let mut command = Command::new("nginx");
    // Before it has read the configuration it would write to the distribution's own log.
    command.args(["-e", "stderr", "-c"]).arg(&configuration);
    let _nginx = Process::new(server_pod.cgroup.spawn_in(&mut command), "nginx");
    let pid = directory.path().join("pid");
    anyhow::ensure!(
        poll(std::time::Duration::from_secs(10), || pid.exists().then_some(())).is_some(),
        "nginx does not start"
    );
    let load = Load { connections: CONNECTIONS, ..Load::new("nginx") };
    let listen = ([127, 0, 0, 1], port).into();
    let run = Run { load, placement: (None, None), listen, namespaces: None };
    let (get, _) = FIRST[2];
    let sent = run.send(&client_pod, listen, &["--bytes", get])?;
    let labels = [("pod", server_pod.name.as_str()), ("role", "server")];
    let identified = [labels[0], labels[1], ("protocol", "http1")];
    let payload = [labels[0], labels[1], ("direction", "received")];
    let expected = vec![
        Expected::sum("tcp_connections_opened_total", &labels, CONNECTIONS),
        Expected::sum("tcp_connections_identified_total", &identified, CONNECTIONS),
        Expected::sum("tcp_payload_bytes_total", &payload, sent),
    ];
    check(daemon, &[(&server_pod, expected)])
}
