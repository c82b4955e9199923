//! Each panel of the shipped dashboards asks something that Prometheus answers.

use std::fs;

use serde_json::Value;

use super::support::{
    prometheus::{Prometheus, Sample},
    tools,
};

/// Series that a panel may have.
const MOST: usize = 50;

/// A query of a panel.
struct Query {
    /// The dashboard, the panel, and which of its queries.
    name: String,
    expression: String,
}

/// What Grafana would ask for all that there is in a namespace.
fn queries(namespace: &str) -> Vec<Query> {
    let directory = tools::checkout().join("deploy/components/dashboards");
    let mut files: Vec<_> = fs::read_dir(directory)
        .expect("there are dashboards")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|of| of == "json"))
        .collect();
    files.sort();
    let mut queries = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("it is there");
        let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
        let file = path.file_stem().expect("it has a name").display().to_string();
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let part = |value: &Value| value.as_str().expect("text").to_owned();
                let expression = part(&target["expr"])
                    .replace("$__rate_interval", "1m")
                    .replace("$namespace", namespace)
                    .replace("$workload", ".*")
                    .replace("$pod", ".*")
                    .replace("$node", ".*");
                let name = format!("{file}: {} {}", part(&panel["title"]), part(&target["refId"]));
                queries.push(Query { name, expression });
            }
        }
    }
    assert!(queries.len() > 50, "{}", queries.len());
    queries
}

/// Queries of what a few connections that are open, and a few that were closed, have not brought about.
const SILENT: [&str; 44] = [
    "agents: Pods whose users are not known A",
    "agents: Programs that are missing A",
    "grpc: Against the autoscaler B",
    "grpc: Against the autoscaler C",
    "grpc: Against the autoscaler D",
    "grpc: Bytes A",
    "grpc: Cut after silence A",
    "grpc: Errors by replica A",
    "grpc: Imbalance A",
    "grpc: Lifetimes A",
    "grpc: Lifetimes B",
    "grpc: Not known A",
    "grpc: Over within a second A",
    "grpc: Relayed A",
    "grpc: Round trip A",
    "grpc: Sent again A",
    "grpc: Silence before the end A",
    "grpc: Timers A",
    "grpc: Who ends them A",
    "overview: Alerts that fire A",
    "overview: Bad ends by cause B",
    "overview: Connects that fail A",
    "overview: Cut after silence A",
    "relays: Connects that fail A",
    "relays: Ends at the servers' side A",
    "relays: Protocols by port A",
    "relays: Relayed users A",
    "relays: Relayed users B",
    "relays: Resets A",
    "relays: Sent again A",
    "relays: Time-outs A",
    "rollouts: Pods whose users are not known A",
    "rollouts: Reconnects B",
    "websocket: Against the autoscaler B",
    "websocket: Against the autoscaler C",
    "websocket: Against the autoscaler D",
    "websocket: Cut after silence A",
    "websocket: Errors by replica A",
    "websocket: Not known A",
    "websocket: Relayed A",
    "websocket: Round trip A",
    "websocket: Sent again A",
    "websocket: Silence before the end A",
    "websocket: Timers A",
];

/// Each query has an answer, but those of what has not happened; and none has more series than a panel can show.
pub(crate) fn assert_answered(prometheus: &Prometheus, namespace: &str) {
    let queries = queries(namespace);
    for name in SILENT {
        assert!(queries.iter().any(|query| query.name == name), "there is no {name}");
    }
    for Query { name, expression } in queries {
        let samples = if SILENT.contains(&name.as_str()) {
            prometheus.query(&expression)
        } else {
            // A rate takes two scrapes.
            prometheus.wait_until(&expression, |samples| !samples.is_empty())
        };
        assert!(samples.len() <= MOST, "{name} has {} series", samples.len());
    }
}

/// What the panel of this name shows first.
pub(crate) fn shown(prometheus: &Prometheus, namespace: &str, name: &str) -> Vec<Sample> {
    let queries = queries(namespace);
    let query = queries.iter().find(|query| query.name == name);
    let query = query.unwrap_or_else(|| panic!("there is no {name}"));
    prometheus.query(&query.expression)
}
