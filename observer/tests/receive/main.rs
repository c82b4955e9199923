//! Every received byte, exactly: WebSocket frames of 0 bytes to 3 MB, with both ends on different processors, on one, and
//! wherever the scheduler puts them; over a cable that loses, doubles and reorders; messages by direction, payload bytes and
//! errors equal to what the programs have sent, and nothing lost.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use support::{
    daemon::{self, Daemon},
    lock::SystemLock,
    metrics::Expected,
    netns::{Netns, NetnsPair},
    pod::{Pod, check},
    process::Process,
    scale::{is_slow, patience},
    scenarios::Failures,
    wire::{
        cable::{Cable, Condition},
        tun::RIGHT_V4,
    },
};

/// How long the traffic of one run may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Processors of the server and of the client.
type Placement = (Option<usize>, Option<usize>);

/// What is sent.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    connections: u64,
    messages: u64,
    sizes: (usize, usize),
    batch: usize,
    sink: bool,
}

/// Large messages that come back; small ones one way; more tiny ones by one write than a segment of 64 KiB holds.
const LOADS: [Load; 5] = [
    Load {
        name: "60 kB to 3 MB, echoed",
        connections: 4,
        messages: 20,
        sizes: (60_000, 3_000_000),
        batch: 1,
        sink: false,
    },
    Load {
        name: "0 to 1,500 bytes",
        connections: 8,
        messages: 1_500,
        sizes: (0, 1_500),
        batch: 1,
        sink: true,
    },
    Load {
        name: "0 to 1,500 bytes, echoed",
        connections: 4,
        messages: 500,
        sizes: (0, 1_500),
        batch: 1,
        sink: false,
    },
    Load {
        name: "empty, 20,000 by one write",
        connections: 2,
        messages: 60_000,
        sizes: (0, 0),
        batch: 20_000,
        sink: true,
    },
    Load {
        name: "10 to 11 bytes, 4,000 by one write",
        connections: 2,
        messages: 40_000,
        sizes: (10, 11),
        batch: 4_000,
        sink: true,
    },
];

/// A server and a client of a load, with the namespaces that they are in.
struct Run<'a> {
    load: Load,
    placement: Placement,
    listen: SocketAddr,
    namespaces: Option<[&'a Netns; 2]>,
}

impl Run<'_> {
    fn command(&self, namespace: usize) -> Command {
        let path = daemon::executable().with_file_name("examples").join("frames");
        assert!(path.exists(), "{} is missing: cargo builds it with the tests", path.display());
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(namespaces) = self.namespaces {
            namespaces[namespace].enter(&mut command);
        }
        command
    }

    /// Sends everything, and holds the books of both ends against it. Messages of streams that have lost track are missing, and
    /// never more than `lost_track` of those; everything else is exact.
    fn run(&self, daemon: &Daemon, seed: u64, lost_track: u64) -> Result<()> {
        let (server_pod, client_pod) = (Pod::new(), Pod::new());
        let gaps_before = daemon.scrape().sum("observer_lost_total", &[("kind", "gap")]);
        let Load { connections, messages, sizes, batch, sink, .. } = self.load;
        let mut serve = self.command(1);
        serve.args(["serve", "--listen", &self.listen.to_string()]);
        let mut drive = self.command(0);
        drive.args(["drive", "--connections", &connections.to_string()]);
        drive.args(["--messages", &messages.to_string(), "--batch", &batch.to_string()]);
        drive.args(["--sizes", &format!("{},{}", sizes.0, sizes.1), "--seed", &seed.to_string()]);
        for (command, cpu) in [(&mut serve, self.placement.0), (&mut drive, self.placement.1)] {
            if let Some(cpu) = cpu {
                command.args(["--cpu", &cpu.to_string()]);
            }
            if sink {
                command.arg("--sink");
            }
        }
        let mut server = Process::new(server_pod.cgroup.spawn_in(&mut serve), "the server");
        let mut address = String::new();
        BufReader::new(server.take_stdout()).read_line(&mut address)?;
        drive.args(["--connect", address.trim()]);
        let mut client = Process::new(client_pod.cgroup.spawn_in(&mut drive), "the client");
        let mut answer = BufReader::new(client.take_stdout());
        let ended = client.wait(patience(PATIENCE));
        anyhow::ensure!(ended.success(), "the traffic itself failed: {ended}");
        let mut sent = String::new();
        answer.read_line(&mut sent)?;
        let (sent, bytes) = sent.trim().split_once(' ').context("no books")?;
        let (sent, bytes): (u64, u64) = (sent.parse()?, bytes.parse()?);

        let pod = |pod| [("pod", pod), ("role", "server")];
        let server = pod(server_pod.name.as_str());
        let mine = [server[0]];
        let direction = |direction| [server[0], ("direction", direction)];
        let sum = Expected::sum;
        let received = [server[0], server[1], ("direction", "received")];
        let client = [("pod", client_pod.name.as_str()), ("role", "client"), ("direction", "sent")];
        let mut expected = vec![
            sum("websocket_connections_total", &mine, connections),
            sum("websocket_messages_total", &direction("sent"), if sink { 0 } else { sent }),
            sum("websocket_errors_total", &mine, 0),
            sum("tcp_payload_bytes_total", &received, bytes),
        ];
        let messages = sum("websocket_messages_total", &direction("received"), sent);
        if lost_track == 0 {
            expected.push(messages);
        }
        let of_client = vec![sum("tcp_payload_bytes_total", &client, bytes)];
        check(daemon, &[(&server_pod, expected), (&client_pod, of_client)])?;
        let after = daemon.scrape();
        let gaps = after.sum("observer_lost_total", &[("kind", "gap")]) - gaps_before;
        anyhow::ensure!(gaps <= lost_track as f64, "{gaps} streams have lost track");
        let counted = after.sum("websocket_messages_total", &direction("received"));
        anyhow::ensure!(
            counted <= sent as f64 && (gaps > 0.5 || counted >= sent as f64),
            "{counted} of {sent} messages, and {gaps} streams have lost track"
        );
        Ok(())
    }
}

#[test]
fn wherever_the_ends_run() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let mut failures = Failures::default();
    let listen = ([127, 0, 0, 1], 0).into();
    for (where_, placement) in [
        ("on different processors", (Some(0), Some(1))),
        ("on one processor", (Some(0), Some(0))),
        ("anywhere", (None, None)),
    ] {
        if placement.1 == Some(1) && std::thread::available_parallelism().is_ok_and(|n| n.get() < 2)
        {
            continue;
        }
        for load in LOADS {
            // A slow machine has neither the time nor a second processor at the same time.
            if is_slow() && load.sizes.1 > 100_000 {
                continue;
            }
            let run = Run { load, placement, listen, namespaces: None };
            for seed in 0..2 {
                let name = format!("{}, {where_}, seed {seed}", load.name);
                failures.run(&daemon, &name, || run.run(&daemon, seed, 0));
            }
        }
    }
    failures.report();
    daemon.stop();
}

/// One segment in 31 is lost, one in 17 comes twice, one in 7 comes late. Now and then a stream still loses track: that is counted,
/// and no byte is wrong and no error invented.
#[test]
fn over_a_faulty_cable() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let namespaces = NetnsPair::new();
    let cable = Cable::new(&namespaces);
    cable.set(Condition::Faulty);
    let mut failures = Failures::default();
    for (name, connections, messages, sizes) in [
        ("small messages", 20, 200, (0, 1_500)),
        ("tiny messages", 4, 2_000, (0, 20)),
        ("large messages", 2, 10, (60_000, 200_000)),
    ] {
        let load = Load { name, connections, messages, sizes, batch: 1, sink: true };
        let run = Run {
            load,
            placement: (None, None),
            listen: (RIGHT_V4, 0).into(),
            namespaces: Some([&namespaces.a, &namespaces.b]),
        };
        failures.run(&daemon, name, || run.run(&daemon, 7, 2));
    }
    cable.set(Condition::Sound);
    failures.report();
    daemon.stop();
}
