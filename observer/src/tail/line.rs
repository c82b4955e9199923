//! The lines of JSON that a reader gets.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use humantime::format_rfc3339_micros;
use nix::time::{ClockId, clock_gettime};
use observer_common::{
    label::ResetCause,
    wire::conn::{RX, TX},
};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{
    attribute::Identity,
    records::{Event, Record, TARGET},
    view::Unlisted,
};

/// What the daemon says besides records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// Records will follow.
    Following {
        /// What is to be said of the filter: names that nothing on this node has.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hints: Vec<String>,
        /// What is known already of the connections that are wanted: timers that cut them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        known: Vec<String>,
    },
    /// They will not.
    Refused {
        /// Why.
        message: String,
    },
    /// Records that this reader did not get since it began to read.
    Dropped(Dropped),
    /// The end of a listing of open connections.
    Listed {
        /// How many there are, shown or not.
        connections: u64,
        /// Those that were not listed one by one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unlisted: Vec<Unlisted>,
        /// Why they were not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<String>,
    },
}

/// Numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Those that did not fit into the kernel's ring buffer, wanted or not: nobody can know.
    pub ring: u64,
    /// Those that did not fit into the reader's queue, because it reads too slowly.
    pub queue: u64,
}

impl Notice {
    /// The line.
    #[must_use]
    pub fn line(&self) -> String {
        // Nothing in a notice can fail: strings and numbers.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// What is told of a record, by the line of a reader and by that of the log.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    event: &'static str,
    time: String,
    /// Unknown for an adopted connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<String>,
    lifetime_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_seconds: Option<f64>,
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    /// Of a pod that the API server has named, as the label of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    role: &'static str,
    local_address: IpAddr,
    local_port: u16,
    peer_address: IpAddr,
    peer_port: u16,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_cause: Option<&'static str>,
    received_bytes: u64,
    sent_bytes: u64,
    retransmits: u32,
}

/// Turns the kernel's clock into times of the day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When `CLOCK_MONOTONIC` was 0.
    zero: SystemTime,
}

/// A clock that is set by less keeps its time, so that the lines about a connection agree on when it was opened.
const SET: Duration = Duration::from_millis(10);

impl Clock {
    /// As things are now.
    #[must_use]
    pub fn now() -> Self {
        // The clock is there on every kernel.
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        Self { zero: SystemTime::now().checked_sub(monotonic).unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    /// Follows whoever sets the time of the day.
    pub fn adjust(&mut self) {
        let Self { zero } = Self::now();
        let off = zero.duration_since(self.zero).unwrap_or_else(|error| error.duration());
        if off > SET {
            self.zero = zero;
        }
    }
}

/// A record as a line of JSON.
#[must_use]
pub fn line(record: &Record, identity: &Identity, clock: Clock) -> String {
    Line::of(record, identity, clock).json()
}

impl<'a> Line<'a> {
    pub(super) fn of(record: &Record, identity: &'a Identity, clock: Clock) -> Self {
        let time = clock.zero + record.at;
        let (event, reason, reset, idle) = match record.event {
            Event::Identified => ("identified", None, None, None),
            Event::Open => ("open", None, None, Some(record.idle)),
            Event::Ended { reason, reset } => {
                ("closed", Some(reason.label()), reset, Some(record.idle))
            }
        };
        Self {
            event,
            time: format_rfc3339_micros(time).to_string(),
            opened: (!record.adopted)
                .then(|| format_rfc3339_micros(time - record.lifetime).to_string()),
            lifetime_seconds: record.lifetime.as_secs_f64(),
            idle_seconds: idle.map(|idle| idle.as_secs_f64()),
            namespace: &identity.namespace,
            pod: &identity.pod,
            container: &identity.container,
            workload_kind: identity.workload.as_ref().map(|workload| workload.kind.as_str()),
            workload: identity.workload.as_ref().map(|workload| workload.name.as_str()),
            role: record.role.label(),
            local_address: record.local.ip(),
            local_port: record.local.port(),
            peer_address: record.peer.ip(),
            peer_port: record.peer.port(),
            protocol: record.protocol.label(),
            reason,
            reset_cause: reset.map(ResetCause::label),
            received_bytes: record.bytes[RX],
            sent_bytes: record.bytes[TX],
            retransmits: record.retransmits,
        }
    }

    fn json(&self) -> String {
        // Strings and finite numbers cannot fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Writes the log's line of a connection that has ended, with the same fields but `event`, which is its message.
    pub(super) fn log(&self) {
        info!(
            target: TARGET,
            time = self.time,
            opened = self.opened,
            lifetime_seconds = self.lifetime_seconds,
            idle_seconds = self.idle_seconds,
            namespace = self.namespace,
            pod = self.pod,
            container = self.container,
            workload_kind = self.workload_kind,
            workload = self.workload,
            role = self.role,
            local_address = %self.local_address,
            local_port = self.local_port,
            peer_address = %self.peer_address,
            peer_port = self.peer_port,
            protocol = self.protocol,
            reason = self.reason,
            reset_cause = self.reset_cause,
            received_bytes = self.received_bytes,
            sent_bytes = self.sent_bytes,
            retransmits = self.retransmits,
            "closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Reason, Role},
        protocol::Protocol,
    };

    use super::*;
    use crate::attribute::identify;

    #[test]
    fn a_record_is_one_line() {
        let record = Record {
            event: Event::Ended { reason: Reason::Aborted, reset: Some(ResetCause::AbortOnClose) },
            cgroup: 1,
            role: Role::Server,
            protocol: Protocol::WebSocket,
            local: "[2001:db8::1]:80".parse().unwrap(),
            peer: "192.0.2.1:40000".parse().unwrap(),
            at: Duration::from_millis(1500),
            lifetime: Duration::from_millis(500),
            adopted: false,
            idle: Duration::from_millis(250),
            bytes: [1, 2],
            retransmits: 3,
        };
        let identity = identify("/system.slice/nginx.service");
        let clock = Clock { zero: SystemTime::UNIX_EPOCH };
        let closed = line(&record, &identity, clock);
        assert_eq!(
            closed,
            concat!(
                r#"{"event":"closed","time":"1970-01-01T00:00:01.500000Z","#,
                r#""opened":"1970-01-01T00:00:01.000000Z","lifetime_seconds":0.5,"idle_seconds":0.25,"#,
                r#""namespace":"systemd","pod":"nginx.service","container":"","role":"server","#,
                r#""local_address":"2001:db8::1","local_port":80,"peer_address":"192.0.2.1","peer_port":40000,"#,
                r#""protocol":"websocket","reason":"aborted","reset_cause":"abort_on_close","#,
                r#""received_bytes":1,"sent_bytes":2,"retransmits":3}"#,
                "\n"
            )
        );
        let open = line(&Record { event: Event::Open, ..record.clone() }, &identity, clock);
        assert!(open.starts_with(r#"{"event":"open","#), "{open}");
        assert!(open.contains(r#""idle_seconds":0.25,"#) && !open.contains("reason"), "{open}");
        let adopted = Record { event: Event::Identified, adopted: true, ..record };
        let adopted = line(&adopted, &identity, clock);
        assert!(adopted.starts_with(r#"{"event":"identified","#), "{adopted}");
        for field in ["opened", "idle_seconds", "reason", "reset_cause"] {
            assert!(!adopted.contains(field), "{field}: {adopted}");
        }
    }

    #[test]
    fn notices() {
        let following = |hints| Notice::Following { hints, known: Vec::new() };
        assert_eq!(following(Vec::new()).line(), "{\"event\":\"following\"}\n");
        let hint = following(vec!["no pod".to_owned()]);
        assert_eq!(hint.line(), "{\"event\":\"following\",\"hints\":[\"no pod\"]}\n");
        let dropped = Notice::Dropped(Dropped { ring: 1, queue: 2 });
        assert_eq!(dropped.line(), "{\"event\":\"dropped\",\"ring\":1,\"queue\":2}\n");
        assert_eq!(serde_json::from_str::<Notice>(&dropped.line()).unwrap(), dropped);
    }

    #[test]
    fn the_clock_is_that_of_the_day() {
        let monotonic: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
        let mut clock = Clock { zero: SystemTime::UNIX_EPOCH };
        clock.adjust();
        let now = clock.zero + monotonic;
        let off = now.elapsed().unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(5), "{off:?}");
    }
}
