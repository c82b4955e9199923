//! Which connections a reader wants.

use std::time::Duration;

use observer_common::{
    label::{Reason, Role},
    protocol::Protocol,
};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::{
    aggregate::Ends,
    attribute::Identity,
    records::{Event, Record},
};

/// What a record must be; of each list one entry fits, and an empty list says nothing. All values are label values; names and
/// addresses may have `*` for any text and `?` for any letter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod: Vec<String>,
    /// Namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<String>,
    /// Containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container: Vec<String>,
    /// Names of pods' workloads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workload: Vec<String>,
    /// Server or client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<String>,
    /// Protocols.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<String>,
    /// The server's ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<u16>,
    /// Addresses of peers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peer: Vec<String>,
    /// How the connection ended; leaves out those that have not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reason: Vec<String>,
    /// Seconds that the connection has lived at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lifetime: Option<f64>,
    /// Seconds that it has lived at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<f64>,
    /// Seconds that it has been silent at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_idle: Option<f64>,
    /// Seconds that it has been silent at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_idle: Option<f64>,
}

/// Whether a name is one that is wanted.
pub(super) fn fits(wanted: &str, name: &str) -> bool {
    wanted == name || WildMatch::new(wanted).matches(name)
}

impl Filter {
    /// A value that no record can have, if there is one: a reader that waits for it waits for ever.
    #[must_use]
    pub fn impossible(&self) -> Option<&str> {
        let unknown = |wanted: &'_ [String], known: &[&str]| {
            wanted.iter().position(|value| !known.contains(&value.as_str()))
        };
        let lists = [
            (&self.role, Role::LABEL),
            (&self.protocol, Protocol::LABEL),
            (&self.reason, Reason::LABEL),
        ];
        lists
            .into_iter()
            .find_map(|(wanted, label)| unknown(wanted, label.values).map(|at| wanted[at].as_str()))
    }

    /// Whether it asks for something by a name that this node has or has not.
    #[must_use]
    pub fn has_names(&self) -> bool {
        let names = [&self.pod, &self.namespace, &self.container, &self.workload];
        names.iter().any(|names| !names.is_empty())
    }

    /// Whether the connections of a cell may be wanted.
    #[must_use]
    pub fn wants_cell(&self, identity: &Identity, key: (Role, Protocol, u16)) -> bool {
        let name = |wanted: &[String], name: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| fits(wanted, name))
        };
        let label = |wanted: &[String], label: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == label)
        };
        let (role, protocol, port) = key;
        label(&self.role, role.label())
            && label(&self.protocol, protocol.label())
            && (self.port.is_empty() || self.port.contains(&port))
            && name(&self.pod, &identity.pod)
            && name(&self.namespace, &identity.namespace)
            && name(&self.container, &identity.container)
            && (self.workload.is_empty()
                || identity.workload.as_ref().is_some_and(|of| name(&self.workload, &of.name)))
    }

    /// Whether what is known of these ends is worth telling to who asks.
    #[must_use]
    pub fn wants_ends(&self, ends: &Ends) -> bool {
        let name = |wanted: &[String], name: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| fits(wanted, name))
        };
        name(&self.pod, &ends.pod)
            && name(&self.namespace, &ends.namespace)
            && name(&self.role, ends.role.label())
            && name(&self.protocol, ends.protocol.label())
    }

    /// Whether the record is wanted.
    #[must_use]
    pub fn wants(&self, record: &Record, identity: &Identity) -> bool {
        let reason = match record.event {
            Event::Ended { reason, .. } => {
                self.reason.is_empty() || self.reason.iter().any(|wanted| wanted == reason.label())
            }
            Event::Identified | Event::Open => self.reason.is_empty(),
        };
        let port = match record.role {
            Role::Server => record.local.port(),
            // Either may be the server.
            Role::Unknown if self.port.contains(&record.local.port()) => record.local.port(),
            Role::Client | Role::Unknown => record.peer.port(),
        };
        let within = |time: Duration, least: Option<f64>, most: Option<f64>| {
            let seconds = time.as_secs_f64();
            least.is_none_or(|least| seconds >= least) && most.is_none_or(|most| seconds <= most)
        };
        let peer = || {
            let address = record.peer.ip().to_string();
            self.peer.is_empty() || self.peer.iter().any(|wanted| fits(wanted, &address))
        };
        reason
            && self.wants_cell(identity, (record.role, record.protocol, port))
            && within(record.lifetime, self.min_lifetime, self.max_lifetime)
            && within(record.idle, self.min_idle, self.max_idle)
            && peer()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attribute::{Workload, identify};

    fn record(event: Event) -> Record {
        Record {
            event,
            cgroup: 1,
            role: Role::Server,
            protocol: Protocol::WebSocket,
            local: "127.0.0.1:80".parse().unwrap(),
            peer: "127.0.0.1:40000".parse().unwrap(),
            at: Duration::from_secs(100),
            lifetime: Duration::from_secs(5),
            adopted: false,
            idle: Duration::from_secs(1),
            bytes: [1, 2],
            retransmits: 0,
        }
    }

    #[test]
    fn each_part_of_a_filter_must_fit() {
        let identity = identify("/system.slice/nginx.service");
        let ended = record(Event::Ended { reason: Reason::Peer, reset: None });
        let identified = record(Event::Identified);
        let wants = |filter: &Filter| {
            (filter.wants(&ended, &identity), filter.wants(&identified, &identity))
        };
        let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        let all = Filter::default();
        assert_eq!(wants(&all), (true, true));
        assert_eq!(wants(&Filter { reason: list(&["peer"]), ..all.clone() }), (true, false));
        assert_eq!(wants(&Filter { reason: list(&["local"]), ..all.clone() }), (false, false));
        let either = list(&["tcp", "websocket"]);
        assert_eq!(wants(&Filter { protocol: either, ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { protocol: list(&["grpc"]), ..all.clone() }), (false, false));
        assert_eq!(wants(&Filter { pod: list(&["nginx.service"]), ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { pod: list(&["nginx"]), ..all.clone() }), (false, false));
        assert_eq!(wants(&Filter { namespace: list(&["systemd"]), ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { namespace: list(&["shop"]), ..all.clone() }), (false, false));
        let names = |pod: &str| Filter { pod: list(&[pod]), ..all.clone() };
        assert_eq!(wants(&names("ngin*.service")), (true, true));
        assert_eq!(wants(&names("ngin?.service")), (true, true));
        assert_eq!(wants(&names("*.socket")), (false, false));
        assert_eq!(wants(&Filter { container: list(&["web"]), ..all.clone() }), (false, false));
        let chat = Filter { workload: list(&["ch?t"]), ..all.clone() };
        assert_eq!(wants(&chat), (false, false), "a unit has no workload");
        let workload = |name: &str| Workload {
            namespace: "shop".to_owned(),
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        };
        for (name, wanted) in [("chat", true), ("quotes", false)] {
            let of = Identity { workload: Some(Arc::new(workload(name))), ..identity.clone() };
            assert_eq!(chat.wants(&ended, &of), wanted, "{name}");
        }
        assert_eq!(wants(&Filter { role: list(&["server"]), ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { role: list(&["client"]), ..all.clone() }), (false, false));
        assert_eq!(wants(&Filter { port: vec![80, 81], ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { port: vec![40_000], ..all.clone() }), (false, false));
        assert_eq!(wants(&Filter { peer: list(&["127.0.*"]), ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { peer: list(&["10.*"]), ..all.clone() }), (false, false));
        for (seconds, least, most) in [(4.9, true, false), (5.0, true, true), (5.1, false, true)] {
            let min = Filter { min_lifetime: Some(seconds), ..all.clone() };
            let max = Filter { max_lifetime: Some(seconds), ..all.clone() };
            assert_eq!((wants(&min), wants(&max)), ((least, least), (most, most)), "{seconds}");
        }
        for (seconds, least, most) in [(0.9, true, false), (1.0, true, true), (1.1, false, true)] {
            let min = Filter { min_idle: Some(seconds), ..all.clone() };
            let max = Filter { max_idle: Some(seconds), ..all.clone() };
            assert_eq!((wants(&min), wants(&max)), ((least, least), (most, most)), "{seconds}");
        }
    }

    #[test]
    fn values_that_no_record_has() {
        let filter = |protocol: &str, reason: &str| Filter {
            protocol: vec![protocol.to_owned()],
            reason: vec![reason.to_owned()],
            ..Filter::default()
        };
        assert_eq!(filter("grpc", "timeout").impossible(), None);
        assert_eq!(filter("gprc", "timeout").impossible(), Some("gprc"));
        assert_eq!(filter("grpc", "time-out").impossible(), Some("time-out"));
        let role = Filter { role: vec!["sever".to_owned()], ..Filter::default() };
        assert_eq!(role.impossible(), Some("sever"));
    }

    #[test]
    fn a_filter_of_a_newer_version_is_refused_and_not_half_understood() {
        assert!(serde_json::from_str::<Filter>(r#"{"min_lifetime":1.5}"#).is_ok());
        assert!(serde_json::from_str::<Filter>(r#"{"min_age":1.5}"#).is_err());
    }
}
