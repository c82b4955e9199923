//! Ports of servers on which HTTP/1 is the exception. Pure.

use std::collections::BTreeMap;

use observer_common::{label::Role, protocol::Protocol, wire::slot};
use serde::{Deserialize, Serialize};

use crate::aggregate::Series;

/// A port that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPort {
    /// As the label.
    pub namespace: String,
    /// As the label.
    pub pod: String,
    /// The port.
    pub port: u16,
    /// Connections of HTTP/1 that stayed what they were.
    pub http1: u64,
    /// The label of what most others speak.
    pub speaks: String,
}

/// Ports to which HTTP/1 came more than once, and of which nine tenths are TLS, HTTP/2 or gRPC.
pub(super) fn http_ports<'a>(series: impl Iterator<Item = &'a Series>) -> Vec<HttpPort> {
    let mut ports: BTreeMap<(&str, &str, u16), BTreeMap<Protocol, u64>> = BTreeMap::new();
    for Series { key, counts } in series.filter(|row| row.key.role == Role::Server) {
        if key.port != 0 {
            let (namespace, pod) = (key.identity.namespace.as_str(), key.identity.pod.as_str());
            let protocols = ports.entry((namespace, pod, key.port)).or_default();
            *protocols.entry(key.protocol).or_default() += counts.one(&slot::ENTERED);
        }
    }
    let unexpected = ports.into_iter().filter_map(|((namespace, pod, port), protocols)| {
        let of = |protocol| protocols.get(&protocol).copied().unwrap_or(0);
        let all_http1 = of(Protocol::Http1);
        // What was upgraded was found to speak HTTP/1 first.
        let http1 = all_http1.saturating_sub(of(Protocol::WebSocket) + of(Protocol::Upgrade));
        let others = [Protocol::Tls, Protocol::Http2, Protocol::Grpc];
        let sum: u64 = others.into_iter().map(of).sum();
        let speaks = others.into_iter().max_by_key(|protocol| of(*protocol))?;
        (http1 > 1 && sum > 9 * all_http1).then(|| HttpPort {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
            http1,
            speaks: speaks.label().to_owned(),
        })
    });
    unexpected.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use observer_common::label::Path;

    use super::*;
    use crate::{aggregate::SeriesKey, attribute::identify, model::Counts};

    fn found(entered: &[(Protocol, u64)]) -> Vec<(u64, String)> {
        let identity = Arc::new(identify("/system.slice/quotes.service"));
        let series = entered.iter().map(|&(protocol, count)| {
            let mut counts = Counts::default();
            counts.words_mut(&slot::ENTERED)[0] = count;
            let (identity, role, path) = (Arc::clone(&identity), Role::Server, Path::External);
            Series { key: SeriesKey { identity, role, protocol, port: 8080, path }, counts }
        });
        let series: Vec<_> = series.collect();
        http_ports(series.iter()).into_iter().map(|port| (port.http1, port.speaks)).collect()
    }

    #[test]
    fn http_is_told_where_it_is_the_exception() {
        use Protocol::{Grpc, Http1, Tls, WebSocket};
        assert_eq!(found(&[(Http1, 2), (Grpc, 100)]), [(2, "grpc".to_owned())]);
        assert_eq!(found(&[(Http1, 5), (Grpc, 20), (Tls, 80)]), [(5, "tls".to_owned())]);
        assert!(found(&[(Http1, 50), (Grpc, 100)]).is_empty(), "it speaks both");
        assert!(found(&[(Http1, 1), (Grpc, 100)]).is_empty(), "once");
        assert!(found(&[(Http1, 10), (WebSocket, 9), (Grpc, 1000)]).is_empty(), "upgraded");
        assert!(found(&[(Http1, 100)]).is_empty());
    }
}
