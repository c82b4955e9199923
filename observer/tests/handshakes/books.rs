//! What a scenario must look like in the metrics, at each of its ends.

use crate::support::{metrics::Expected, pod::Pod};

/// All protocols that a connection can be found to speak.
const PROTOCOLS: [&str; 6] = ["tls", "http1", "http2", "grpc", "websocket", "upgrade"];

/// What the connections of a scenario speak, and say.
#[derive(Clone, Copy)]
pub(crate) struct Spoken {
    /// The protocols that each connection is found to speak, in order; none for plain TCP.
    pub(crate) protocols: &'static [&'static str],
    /// WebSocket messages from client to server, and back.
    pub(crate) messages: (u64, u64),
    /// WebSocket frames that break the protocol.
    pub(crate) errors: u64,
}

/// The expected books of one end.
pub(crate) struct Books<'a> {
    pub(crate) pod: &'a Pod,
    /// `server` or `client`.
    pub(crate) role: &'static str,
    /// The server's port.
    pub(crate) port: u16,
    pub(crate) spoken: Spoken,
}

impl Books<'_> {
    /// While the connection is open.
    pub(crate) fn open(&self) -> Vec<Expected> {
        let mut expected = self.always();
        expected.push(self.sum("tcp_connections_active", &[("protocol", self.last())], 1));
        expected.push(self.sum("tcp_connections_active", &[], 1));
        expected.push(self.sum("tcp_connections_closed_total", &[], 0));
        expected
    }

    /// When it is over.
    pub(crate) fn over(&self) -> Vec<Expected> {
        let mut expected = self.always();
        expected.push(self.sum("tcp_connections_closed_total", &[("protocol", self.last())], 1));
        expected.push(self.sum("tcp_connections_closed_total", &[], 1));
        expected.push(self.sum("tcp_connections_active", &[], 0));
        expected.push(self.sum("tcp_connection_duration_seconds_count", &[], 1));
        expected
    }

    /// What must hold both before and after the end.
    fn always(&self) -> Vec<Expected> {
        let port = self.port.to_string();
        let here = [("role", self.role), ("port", &port)];
        let mut expected = vec![
            self.sum("tcp_connections_opened_total", &here, 1),
            self.sum("tcp_connections_opened_total", &[], 1),
        ];
        let spoken = &self.spoken;
        for protocol in PROTOCOLS {
            let count = u64::from(spoken.protocols.contains(&protocol));
            let labels = [here[0], here[1], ("protocol", protocol)];
            expected.push(self.sum("tcp_connections_identified_total", &labels, count));
        }
        // The users' families are the servers' alone.
        let serves = u64::from(self.role == "server");
        for (family, protocol) in [("websocket", "websocket"), ("grpc", "grpc")] {
            let count = serves * u64::from(spoken.protocols.contains(&protocol));
            expected.push(self.sum(&format!("{family}_connections_total"), &[], count));
        }
        for (direction, count) in [("received", spoken.messages.0), ("sent", spoken.messages.1)] {
            let labels = [("direction", direction)];
            expected.push(self.sum("websocket_messages_total", &labels, serves * count));
        }
        let labels = [("cause", "invalid_frame")];
        expected.push(self.sum("websocket_errors_total", &labels, serves * spoken.errors));
        expected
    }

    fn last(&self) -> &'static str {
        self.spoken.protocols.last().copied().unwrap_or("tcp")
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)], sum: u64) -> Expected {
        let mut all = vec![("pod", self.pod.name.as_str())];
        all.extend(labels);
        Expected::sum(name, &all, sum)
    }
}
