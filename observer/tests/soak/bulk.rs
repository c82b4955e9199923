//! WebSocket messages of all sizes, by the example `frames`: one way or echoed, in all the ways in which a program can hand bytes to
//! the kernel, by one thread or several in turn, with the ends on different processors, on one, or wandering.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use fastrand::Rng;

use crate::{
    accounts::{Account, Closed},
    held::Place,
    support::{
        daemon,
        netns::Netns,
        pod::Pod,
        process::Process,
        scale::{is_slow, patience},
    },
};

const PATIENCE: Duration = Duration::from_mins(1);
/// What all connections of a load send, about.
const BYTES: usize = 24 << 20;
/// Messages of a load, at most.
const MESSAGES: u64 = 4_000;
const LARGEST: usize = 3_000_000;
const WAYS: [&str; 5] = ["write", "more", "sendfile", "splice", "zerocopy"];

/// A server and a client that have sent each other everything.
pub(crate) struct Bulk {
    /// The server's and the client's.
    pub(crate) accounts: [Account; 2],
    pub(crate) pods: [Pod; 2],
    pub(crate) messages: u64,
}

impl Bulk {
    /// Sends something, whatever it be.
    pub(crate) fn run(place: Place<'_>, random: &mut Rng) -> Self {
        let pods = [Pod::new(), Pod::new()];
        let (address, server_in, client_in): (SocketAddr, _, _) = match place {
            Place::Loopback(netns) => (([127, 0, 0, 1], 0).into(), netns, netns),
            Place::Cable(server, client) => ((server.ipv6(), 0).into(), server, client),
        };
        // From tiny to large, as many of the one as of the other.
        let (all, largest) = if is_slow() { (BYTES / 16, LARGEST / 16) } else { (BYTES, LARGEST) };
        let largest = largest.min(1 << random.u32(1..22));
        let smallest = random.usize(0..=largest) / 2;
        let connections = random.u64(1..=4);
        let each = (all / (largest + 16)) as u64 / connections;
        let messages = each.clamp(2, MESSAGES / connections);
        let echo = random.bool();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let cpus = match random.u8(0..3) {
            0 => [None, None],
            1 => [Some(0), Some(0)],
            _ => [Some(0), Some(1 % processors)],
        };

        let mut serve = frames(server_in, cpus[0]);
        serve.args(["serve", "--listen", &address.to_string()]);
        let mut drive = frames(client_in, cpus[1]);
        drive.args(["drive", "--connections", &connections.to_string()]);
        drive.args(["--messages", &messages.to_string(), "--seed", &random.u64(..).to_string()]);
        drive.args(["--sizes", &format!("{smallest},{largest}")]);
        drive.args(["--way", WAYS[random.usize(..WAYS.len())]]);
        drive.args(["--threads", &random.u8(1..=3).to_string()]);
        let batch = if largest < 1_000 { random.u64(1..200) } else { 1 };
        drive.args(["--batch", &batch.to_string()]);
        if cpus[1].is_none() && random.bool() {
            drive.arg("--wander");
        }
        if !echo {
            serve.arg("--sink");
            drive.arg("--sink");
        }
        println!("  {drive:?}");
        let mut server = Process::new(pods[0].cgroup.spawn_in(&mut serve), "the server");
        let mut line = String::new();
        BufReader::new(server.take_stdout()).read_line(&mut line).expect("an address");
        drive.args(["--connect", line.trim()]);
        let mut client = Process::new(pods[1].cgroup.spawn_in(&mut drive), "the client");
        let mut output = BufReader::new(client.take_stdout());
        let ended = client.wait(patience(PATIENCE));
        assert!(ended.success(), "the bulk itself went wrong: {ended}");
        line.clear();
        output.read_line(&mut line).expect("books");
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [sent, bytes, back] = numbers[..] else { panic!("no books: {line}") };

        let netns = [server_in, client_in].map(|netns| netns.name().to_owned());
        let account = |end: usize, role, why, bytes| Account {
            pod: pods[end].name.clone(),
            role,
            netns: [netns[end].clone(), netns[1 - end].clone()],
            taken_for: &["http1", "websocket"],
            opened: connections,
            adopted: false,
            closed: Closed::all(why, connections),
            messages: if end == 0 { [sent, if echo { sent } else { 0 }] } else { [0; 2] },
            bytes: Some(bytes),
        };
        let accounts = [
            account(0, "server", "peer", [bytes, back]),
            account(1, "client", "local", [back, bytes]),
        ];
        Self { accounts, pods, messages: sent }
    }
}

fn frames(netns: &Netns, cpu: Option<usize>) -> Command {
    let path = daemon::executable().with_file_name("examples").join("frames");
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    netns.enter(&mut command);
    if let Some(cpu) = cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    command
}
