//! What is loaded, where it is attached, and whether observer can do without: one table.

use observer_common::stream::{mode, program};

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets towards the sockets below a cgroup.
    CgroupIngress,
    /// Packets from the sockets below a cgroup.
    CgroupEgress,
    /// The callbacks of the sockets below a cgroup.
    SocketCallbacks,
    /// A raw tracepoint whose arguments the verifier knows.
    Tracepoint(&'static str),
    /// Called by another program, through this slot of the program array.
    Parser(u32),
    /// Run by the daemon over all objects of this kind: the section of an object file, `iter/` and the kind.
    Iterator(&'static str),
}

impl Hook {
    /// The name that users meet.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CgroupIngress => "cgroup_skb/ingress",
            Self::CgroupEgress => "cgroup_skb/egress",
            Self::SocketCallbacks => "cgroup/sock_ops",
            Self::Tracepoint(name) | Self::Iterator(name) => name,
            Self::Parser(_) => "cgroup_skb (parser)",
        }
    }

    /// The name of the link that keeps this hook, whatever the program is called that runs there.
    #[must_use]
    pub const fn link(&self) -> Option<&'static str> {
        match self {
            Self::CgroupIngress => Some("ingress"),
            Self::CgroupEgress => Some("egress"),
            Self::SocketCallbacks => Some("sock_ops"),
            Self::Tracepoint(name) => Some(name),
            Self::Parser(_) | Self::Iterator(_) => None,
        }
    }

    /// Whether the program is attached as long as observer counts.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        !matches!(self, Self::Iterator(_))
    }
}

/// Whether observer can do without a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it nothing is right.
    Mandatory,
    /// Without it something is missing, and a metric says so.
    Optional,
    /// As [`Need::Optional`], and the program named here, which tells less, is only used where this one is refused.
    Instead(&'static str),
}

/// One kernel program.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    /// The program's name in the object.
    pub program: &'static str,
    /// Where it runs.
    pub hook: Hook,
    /// Whether observer can do without it.
    pub need: Need,
    /// What it tells.
    pub tells: &'static str,
}

/// What is attached to a tracepoint in place of the programs for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dispatcher {
    /// The tracepoint.
    pub(super) tracepoint: &'static str,
    /// The program that is attached.
    pub(super) program: &'static str,
    /// The array of one place that holds the program that it calls.
    pub(super) array: &'static str,
}

/// All of them.
pub(super) const DISPATCHERS: [Dispatcher; 5] = [
    Dispatcher { tracepoint: "inet_sock_set_state", program: "dispatch_state", array: "AT_STATE" },
    Dispatcher { tracepoint: "tcp_destroy_sock", program: "dispatch_destroy", array: "AT_DESTROY" },
    Dispatcher {
        tracepoint: "tcp_receive_reset",
        program: "dispatch_reset_in",
        array: "AT_RESET_IN",
    },
    Dispatcher {
        tracepoint: "tcp_send_reset",
        program: "dispatch_reset_out",
        array: "AT_RESET_OUT",
    },
    Dispatcher { tracepoint: "inet_sk_error_report", program: "dispatch_error", array: "AT_ERROR" },
];

/// The program that gives sockets from before the start their state.
pub(super) const ADOPT: &str = "adopt_socket";
/// The program that counts the states of sockets.
pub(super) const RECONCILED: &str = "count_state";

/// Every program, in the order of attachment.
pub const PROBES: &[Probe] = &[
    Probe {
        program: "parse_http1",
        hook: Hook::Parser(mode::HTTP1 as u32),
        need: Need::Mandatory,
        tells: "protocols by a connection's first bytes, WebSocket upgrades",
    },
    Probe {
        program: "parse_http1_small",
        hook: Hook::Parser(program::OF_SMALL + mode::HTTP1 as u32),
        need: Need::Mandatory,
        tells: "protocols by a connection's first bytes, WebSocket upgrades, in kept segments",
    },
    Probe {
        program: "parse_http1_large",
        hook: Hook::Parser(program::OF_LARGE + mode::HTTP1 as u32),
        need: Need::Mandatory,
        tells: "protocols by a connection's first bytes, WebSocket upgrades, in large kept segments",
    },
    Probe {
        program: "parse_http2",
        hook: Hook::Parser(mode::HTTP2 as u32),
        need: Need::Mandatory,
        tells: "gRPC among HTTP/2",
    },
    Probe {
        program: "parse_http2_small",
        hook: Hook::Parser(program::OF_SMALL + mode::HTTP2 as u32),
        need: Need::Mandatory,
        tells: "gRPC among HTTP/2, in kept segments",
    },
    Probe {
        program: "parse_http2_large",
        hook: Hook::Parser(program::OF_LARGE + mode::HTTP2 as u32),
        need: Need::Mandatory,
        tells: "gRPC among HTTP/2, in large kept segments",
    },
    Probe {
        program: "parse_websocket",
        hook: Hook::Parser(mode::WEBSOCKET as u32),
        need: Need::Mandatory,
        tells: "WebSocket messages in segments of many frames",
    },
    Probe {
        program: "parse_ws_small",
        hook: Hook::Parser(program::OF_SMALL + mode::WEBSOCKET as u32),
        need: Need::Mandatory,
        tells: "WebSocket messages in segments of many frames, in kept segments",
    },
    Probe {
        program: "parse_ws_large",
        hook: Hook::Parser(program::OF_LARGE + mode::WEBSOCKET as u32),
        need: Need::Mandatory,
        tells: "WebSocket messages in segments of many frames, in large kept segments",
    },
    Probe {
        program: "parse_proxy",
        hook: Hook::Parser(mode::PROXY as u32),
        need: Need::Mandatory,
        tells: "protocols behind a PROXY header",
    },
    Probe {
        program: "parse_proxy_small",
        hook: Hook::Parser(program::OF_SMALL + mode::PROXY as u32),
        need: Need::Mandatory,
        tells: "protocols behind a PROXY header, in kept segments",
    },
    Probe {
        program: "parse_proxy_large",
        hook: Hook::Parser(program::OF_LARGE + mode::PROXY as u32),
        need: Need::Mandatory,
        tells: "protocols behind a PROXY header, in large kept segments",
    },
    Probe {
        program: "parse_guess",
        hook: Hook::Parser(mode::GUESS as u32),
        need: Need::Mandatory,
        tells: "protocols of connections that were open before the start",
    },
    Probe {
        program: "parse_guess_small",
        hook: Hook::Parser(program::OF_SMALL + mode::GUESS as u32),
        need: Need::Mandatory,
        tells: "protocols of connections that were open before the start, in kept segments",
    },
    Probe {
        program: "parse_guess_large",
        hook: Hook::Parser(program::OF_LARGE + mode::GUESS as u32),
        need: Need::Mandatory,
        tells: "protocols of connections that were open before the start, in large kept segments",
    },
    Probe {
        program: "keep_segment",
        hook: Hook::Parser(program::KEEP),
        need: Need::Mandatory,
        tells: "segments that come before their turn",
    },
    Probe {
        program: "drain_segments",
        hook: Hook::Parser(program::DRAIN),
        need: Need::Mandatory,
        tells: "segments that came before their turn",
    },
    Probe {
        program: "order_segment",
        hook: Hook::Parser(program::ORDER),
        need: Need::Mandatory,
        tells: "segments out of order, retransmissions",
    },
    Probe {
        program: "conclude_guess",
        hook: Hook::Parser(program::CONCLUDE),
        need: Need::Mandatory,
        tells: "whether both directions agree on what a connection from before the start speaks",
    },
    Probe {
        program: "adopt_segment",
        hook: Hook::Parser(program::ADOPT),
        need: Need::Mandatory,
        tells: "connections that were open before the start, once they speak",
    },
    Probe {
        program: "socket_callback",
        hook: Hook::SocketCallbacks,
        need: Need::Mandatory,
        tells: "birth and death of every connection",
    },
    Probe {
        program: "socket_state",
        hook: Hook::Tracepoint("inet_sock_set_state"),
        need: Need::Mandatory,
        tells: "birth and death of connections whose handshake came before the start",
    },
    Probe {
        program: "socket_destroyed",
        hook: Hook::Tracepoint("tcp_destroy_sock"),
        need: Need::Optional,
        tells: "ends of connections whose last event was skipped",
    },
    Probe {
        program: "reset_received",
        hook: Hook::Tracepoint("tcp_receive_reset"),
        need: Need::Optional,
        tells: "connections that the peer reset",
    },
    Probe {
        program: "reset_sent",
        hook: Hook::Tracepoint("tcp_send_reset"),
        need: Need::Instead("reset_sent_plain"),
        tells: "why this node resets connections",
    },
    Probe {
        program: "reset_sent_plain",
        hook: Hook::Tracepoint("tcp_send_reset"),
        need: Need::Optional,
        tells: "connections that this node resets",
    },
    Probe {
        program: "socket_error",
        hook: Hook::Tracepoint("inet_sk_error_report"),
        need: Need::Optional,
        tells: "connections that timed out",
    },
    Probe {
        program: "segment_in",
        hook: Hook::CgroupIngress,
        need: Need::Mandatory,
        tells: "the cgroup and the protocol of every connection, received messages",
    },
    Probe {
        program: "segment_out",
        hook: Hook::CgroupEgress,
        need: Need::Mandatory,
        tells: "the cgroup and the protocol of every connection, sent messages",
    },
    Probe {
        program: ADOPT,
        hook: Hook::Iterator("iter/tcp"),
        need: Need::Optional,
        tells: "connections that were open before the start",
    },
    Probe {
        program: RECONCILED,
        hook: Hook::Iterator("iter/bpf_sk_storage_map"),
        need: Need::Optional,
        tells: "ends of connections that no hook has told",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tracepoint_has_a_dispatcher() {
        for probe in PROBES {
            let Hook::Tracepoint(tracepoint) = probe.hook else { continue };
            let of = |dispatcher: &&Dispatcher| dispatcher.tracepoint == tracepoint;
            assert_eq!(DISPATCHERS.iter().filter(of).count(), 1, "{tracepoint}");
        }
    }
}
