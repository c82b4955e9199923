//! Which records a reader wants.

use observer_common::{label::Reason, protocol::Protocol};
use serde::{Deserialize, Serialize};

use crate::{
    attribute::Identity,
    records::{Event, Record},
};

/// What a record must be; of each list one entry fits, and an empty list says nothing. All values are label values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Pods.
    pub pod: Vec<String>,
    /// Namespaces.
    pub namespace: Vec<String>,
    /// Protocols.
    pub protocol: Vec<String>,
    /// How the connection ended; leaves out those that have not.
    pub reason: Vec<String>,
    /// Seconds that the connection has lived at least.
    pub min_lifetime: f64,
}

impl Filter {
    /// A value that no record can have, if there is one: a reader that waits for it waits for ever.
    #[must_use]
    pub fn impossible(&self) -> Option<&str> {
        let protocol = |value: &&String| !Protocol::ALL.iter().any(|p| p.label() == **value);
        let reason = |value: &&String| !Reason::ALL.iter().any(|r| r.label() == **value);
        self.protocol
            .iter()
            .find(protocol)
            .or_else(|| self.reason.iter().find(reason))
            .map(String::as_str)
    }

    /// Whether the record is wanted.
    #[must_use]
    pub fn wants(&self, record: &Record, identity: &Identity) -> bool {
        let one_of = |wanted: &[String], value: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == value)
        };
        let reason = match record.event {
            Event::Ended { reason, .. } => one_of(&self.reason, reason.label()),
            Event::Identified => self.reason.is_empty(),
        };
        reason
            && one_of(&self.pod, &identity.pod)
            && one_of(&self.namespace, &identity.namespace)
            && one_of(&self.protocol, record.protocol.label())
            && record.lifetime.as_secs_f64() >= self.min_lifetime
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use observer_common::label::Role;

    use super::*;
    use crate::attribute::identify;

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
        assert_eq!(wants(&Filter { min_lifetime: 5.0, ..all.clone() }), (true, true));
        assert_eq!(wants(&Filter { min_lifetime: 5.1, ..all }), (false, false));
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
    }

    #[test]
    fn a_filter_of_a_newer_version_is_refused_and_not_half_understood() {
        assert!(serde_json::from_str::<Filter>(r#"{"min_lifetime":1.5}"#).is_ok());
        assert!(serde_json::from_str::<Filter>(r#"{"min_idle":1.5}"#).is_err());
    }
}
