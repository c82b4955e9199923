//! A server and a client that send what a test asks for, and the books of both ends held against that.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::support::{
    daemon::{self, Daemon},
    metrics::Expected,
    netns::Netns,
    pod::{Pod, check},
    process::Process,
    scale::patience,
};

/// Of a thousand messages.
pub(crate) const ALL: u64 = 1_000;
/// How long the traffic of one run may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Processors of the server and of the client.
pub(crate) type Placement = (Option<usize>, Option<usize>);

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) connections: u64,
    /// Messages of each.
    pub(crate) messages: u64,
    /// Their sizes.
    pub(crate) sizes: (usize, usize),
    /// Messages by one write.
    pub(crate) batch: usize,
    /// Nothing comes back.
    pub(crate) sink: bool,
    /// Messages that come by the same write as the answer to the request.
    pub(crate) behind: u64,
    /// What else the server and the client are told.
    pub(crate) server: &'static [&'static str],
    pub(crate) client: &'static [&'static str],
}

impl Load {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            connections: 1,
            messages: 0,
            sizes: (0, 0),
            batch: 1,
            sink: true,
            behind: 0,
            server: &[],
            client: &[],
        }
    }
}

/// A load, with the places that its ends are in.
pub(crate) struct Run<'a> {
    pub(crate) load: Load,
    pub(crate) placement: Placement,
    pub(crate) listen: SocketAddr,
    /// Of the client and of the server.
    pub(crate) namespaces: Option<[&'a Netns; 2]>,
}

/// What the client says that it has sent, and what has come back.
struct Sent {
    messages: u64,
    bytes: u64,
    back: u64,
}

impl Run<'_> {
    /// One that begins at this address of this namespace.
    fn command(&self, namespace: usize, cpu: Option<usize>) -> Command {
        let path = daemon::executable().with_file_name("examples").join("frames");
        assert!(path.exists(), "{} is missing: cargo builds it with the tests", path.display());
        let mut command = Command::new(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(namespaces) = self.namespaces {
            namespaces[namespace].enter(&mut command);
        }
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command
    }

    /// Starts the server; says where it is.
    pub(crate) fn serve(&self, pod: &Pod) -> Result<(Process, SocketAddr)> {
        let mut command = self.command(1, self.placement.0);
        command.args(["serve", "--listen", &self.listen.to_string()]).args(self.load.server);
        command.args(["--behind", &self.load.behind.to_string()]);
        if self.load.sink {
            command.arg("--sink");
        }
        let mut server = Process::new(pod.cgroup.spawn_in(&mut command), "the server");
        let mut address = String::new();
        BufReader::new(server.take_stdout()).read_line(&mut address)?;
        Ok((server, address.trim().parse().context("no address")?))
    }

    fn drive(&self, pod: &Pod, server: SocketAddr, seed: u64, more: &[&str]) -> Process {
        let Load { connections, messages, sizes, batch, sink, behind, client, .. } = self.load;
        let mut command = self.command(0, self.placement.1);
        command.args(["drive", "--connect", &server.to_string()]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--messages", &messages.to_string(), "--batch", &batch.to_string()]);
        command.args(["--sizes", &format!("{},{}", sizes.0, sizes.1), "--seed", &seed.to_string()]);
        command.args(["--behind", &behind.to_string()]).args(client).args(more);
        if sink {
            command.arg("--sink");
        }
        Process::new(pod.cgroup.spawn_in(&mut command), "the client")
    }

    /// Has the client, told this as well, send everything to a server, and waits for its end; returns how many bytes it has sent.
    pub(crate) fn send(&self, pod: &Pod, server: SocketAddr, more: &[&str]) -> Result<u64> {
        let mut client = self.drive(pod, server, 0, more);
        let sent = sent(&mut client)?.bytes;
        let ended = client.wait(patience(PATIENCE));
        ensure!(ended.success(), "the traffic itself failed: {ended}");
        Ok(sent)
    }

    /// Sends everything, and holds the books of both ends against it: all is exact, but that of the messages so many of a thousand
    /// have to be counted. Those that are not are of streams that have lost track.
    pub(crate) fn run(&self, daemon: &Daemon, seed: u64, per_mille: u64) -> Result<()> {
        let (server_pod, client_pod) = (Pod::new(), Pod::new());
        let lost_before = daemon.scrape().sum("observer_lost_total", &[]);
        let (_server, address) = self.serve(&server_pod)?;
        let mut client = self.drive(&client_pod, address, seed, &[]);
        let sent = sent(&mut client)?;
        let Load { connections, sink, behind, client: told, .. } = self.load;
        // One that stays says it before it ends: then nothing comes any more that could help.
        if !told.contains(&"--stay") {
            let ended = client.wait(patience(PATIENCE));
            ensure!(ended.success(), "the traffic itself failed: {ended}");
        }
        let back = behind * connections + if sink { 0 } else { sent.messages };

        let pod = |pod| [("pod", pod), ("role", "server")];
        let server = pod(server_pod.name.as_str());
        let mine = [server[0]];
        let direction = |direction| [server[0], ("direction", direction)];
        let sum = Expected::sum;
        let received = [server[0], server[1], ("direction", "received")];
        let to_client = [server[0], server[1], ("direction", "sent")];
        let client = [("pod", client_pod.name.as_str()), ("role", "client"), ("direction", "sent")];
        let mut expected = vec![
            sum("websocket_connections_total", &mine, connections),
            sum("websocket_messages_total", &direction("sent"), back),
            sum("websocket_errors_total", &mine, 0),
            sum("tcp_payload_bytes_total", &received, sent.bytes),
            sum("tcp_payload_bytes_total", &to_client, sent.back),
        ];
        if per_mille == ALL {
            let received = direction("received");
            expected.push(sum("websocket_messages_total", &received, sent.messages));
        }
        let from_server = [client[0], client[1], ("direction", "received")];
        let of_client = vec![
            sum("tcp_payload_bytes_total", &client, sent.bytes),
            sum("tcp_payload_bytes_total", &from_server, sent.back),
        ];
        check(daemon, &[(&server_pod, expected), (&client_pod, of_client)])?;
        let after = daemon.scrape();
        let lost = after.sum("observer_lost_total", &[]) - lost_before;
        ensure!(per_mille < ALL || lost == 0.0, "{lost} losses");
        let counted = after.sum("websocket_messages_total", &direction("received")) as u64;
        ensure!(
            counted <= sent.messages && 1_000 * counted >= per_mille * sent.messages,
            "{counted} of {} messages",
            sent.messages
        );
        Ok(())
    }
}

fn sent(client: &mut Process) -> Result<Sent> {
    let mut sent = String::new();
    BufReader::new(client.take_stdout()).read_line(&mut sent)?;
    let mut numbers = sent.split_whitespace().map(str::parse);
    let mut number = || numbers.next().context("the traffic itself failed")?.context("no number");
    Ok(Sent { messages: number()?, bytes: number()?, back: number()? })
}
