//! The dashboards of the cluster: what there is, what is wrong, and whether the figures can be trusted.

use super::grafana::{Dashboard, Kind, NAMESPACE, NODE, Panel, Row};

fn q(query: &str, legend: &'static str) -> (String, &'static str) {
    (query.to_owned(), legend)
}

/// Where to begin.
pub(super) fn overview() -> Dashboard {
    Dashboard {
        name: "overview",
        title: "Overview",
        description: "Who is connected, what changes, and what is wrong.",
        variables: &[NAMESPACE],
        rows: vec![
            Row { title: "Now", panels: now() },
            Row { title: "Who, and what they speak", panels: who() },
            Row { title: "What is wrong", panels: wrong() },
        ],
    }
}

/// Whether the figures can be trusted, and what they cost.
pub(super) fn agents() -> Dashboard {
    Dashboard {
        name: "agents",
        title: "Agents",
        description: "Whether the figures can be trusted, and what they cost.",
        variables: &[NODE],
        rows: vec![Row { title: "Trust", panels: trust() }, Row { title: "Cost", panels: cost() }],
    }
}

fn now() -> Vec<Panel> {
    vec![
        Panel {
            title: "WebSocket users",
            kind: Kind::Number,
            unit: "short",
            shows: "Users with a WebSocket, each counted once, whatever relays are in between.",
            bad: "no value: a pod's users are not known (runbook observer-blind). A drop: look at the bad ends below.",
            queries: vec![q(
                r#"sum(namespace:websocket_users:sum{namespace=~"$namespace"})"#,
                "users",
            )],
        },
        Panel {
            title: "gRPC users",
            kind: Kind::Number,
            unit: "short",
            shows: "The same of gRPC: clients, not streams.",
            bad: "no value: a pod's users are not known (runbook observer-blind). A drop: look at the bad ends below.",
            queries: vec![q(r#"sum(namespace:grpc_users:sum{namespace=~"$namespace"})"#, "users")],
        },
        Panel {
            title: "New connections",
            kind: Kind::Number,
            unit: "cps",
            shows: "Connections that pods accept, per second.",
            bad: "many times the usual: clients reconnect (runbook reconnect-storm).",
            queries: vec![q(
                r#"sum(max without (instance, job) (rate(tcp_connections_opened_total{namespace=~"$namespace",role="server"}[$__rate_interval])))"#,
                "new",
            )],
        },
        Panel {
            title: "Bad ends",
            kind: Kind::Number,
            unit: "cps",
            shows: "WebSocket and gRPC connections of users that end without an orderly close, per second.",
            bad: "more than a twentieth of what ends (runbook bad-ends).",
            queries: vec![q(
                r#"(sum(max without (instance, job) (rate(websocket_errors_total{namespace=~"$namespace"}[$__rate_interval]))) or vector(0)) + (sum(max without (instance, job) (rate(grpc_errors_total{namespace=~"$namespace"}[$__rate_interval]))) or vector(0))"#,
                "bad",
            )],
        },
        Panel {
            title: "Alerts",
            kind: Kind::Number,
            unit: "short",
            shows: "Alerts that fire, of the shipped ones and all others of these namespaces.",
            bad: "anything but 0: its annotation `runbook_url` says what to do.",
            queries: vec![q(
                r#"count(ALERTS{alertstate="firing",namespace=~"$namespace|"}) or vector(0)"#,
                "firing",
            )],
        },
        Panel {
            title: "Agents that answer",
            kind: Kind::Number,
            unit: "percentunit",
            shows: "The share of observers that Prometheus reaches. All sums here are only as good as this.",
            bad: "below 100 %: runbook observer-down.",
            queries: vec![q("observer:agents_up:ratio", "up")],
        },
    ]
}

fn who() -> Vec<Panel> {
    vec![
        Panel {
            title: "WebSockets by workload",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Connections that the pods of each workload hold; the 15 largest.",
            bad: "a step down: connections were cut. Open the workload's dashboard.",
            queries: vec![q(
                r#"topk(15, namespace_workload:websocket_connections_active:sum{namespace=~"$namespace"})"#,
                "{{namespace}}/{{workload}}",
            )],
        },
        Panel {
            title: "gRPC by workload",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Connections that the pods of each workload hold; the 15 largest.",
            bad: "a step down: connections were cut. Open the workload's dashboard.",
            queries: vec![q(
                r#"topk(15, namespace_workload:grpc_connections_active:sum{namespace=~"$namespace"})"#,
                "{{namespace}}/{{workload}}",
            )],
        },
        Panel {
            title: "Protocols on the wire",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Open connections of servers by protocol. What is inside `tls` is not seen.",
            bad: "mostly `tls`: users cannot be counted there (runbook observer-blind).",
            queries: vec![q(
                r#"sum by (protocol) (max without (instance, job) (tcp_connections_active{namespace=~"$namespace",role="server",path="external"}))"#,
                "{{protocol}}",
            )],
        },
    ]
}

fn wrong() -> Vec<Panel> {
    vec![
        Panel {
            title: "Alerts that fire",
            kind: Kind::Table,
            unit: "short",
            shows: "Each with its labels.",
            bad: "any line: its annotation `runbook_url` says what to do.",
            queries: vec![q(
                r#"topk(50, ALERTS{alertstate="firing",namespace=~"$namespace|"})"#,
                "",
            )],
        },
        Panel {
            title: "Most uneven workloads",
            kind: Kind::Table,
            unit: "short",
            shows: "The fullest pod by the mean of its workload's; 1 is even.",
            bad: "above 1.5 with more than a hundred connections: runbook imbalance.",
            queries: vec![q(
                r#"topk(10, namespace_workload:websocket_connections_active:imbalance{namespace=~"$namespace"})"#,
                "",
            )],
        },
        Panel {
            title: "Bad ends by cause",
            kind: Kind::Stacked,
            unit: "cps",
            shows: "WebSocket and gRPC connections of users that ended without an orderly close, per second.",
            bad: "a cause that grows: runbook bad-ends has a row for each.",
            queries: vec![
                q(
                    r#"sum by (cause) (max without (instance, job) (rate(websocket_errors_total{namespace=~"$namespace"}[$__rate_interval])))"#,
                    "WebSocket {{cause}}",
                ),
                q(
                    r#"sum by (cause) (max without (instance, job) (rate(grpc_errors_total{namespace=~"$namespace"}[$__rate_interval])))"#,
                    "gRPC {{cause}}",
                ),
            ],
        },
        Panel {
            title: "Cut after silence",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Connections that the other side closed after 5 s or more of silence, per second; the 15 pods with most.",
            bad: "steady, for WebSockets: a proxy's timer (runbook idle-cut).",
            queries: vec![q(
                r#"topk(15, sum by (namespace, pod, protocol) (max without (instance, job) (rate(tcp_idle_closes_total{namespace=~"$namespace",protocol=~"websocket|grpc"}[$__rate_interval]))))"#,
                "{{namespace}}/{{pod}} {{protocol}}",
            )],
        },
        Panel {
            title: "Connects that fail",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Attempts to connect that failed, per second; the 15 pods and reasons with most.",
            bad: "`timed_out`: runbook connect-timeouts. `refused`: nobody listens there.",
            queries: vec![q(
                r#"topk(15, sum by (namespace, pod, reason) (max without (instance, job) (rate(tcp_connect_failures_total{namespace=~"$namespace"}[$__rate_interval]))))"#,
                "{{namespace}}/{{pod}} {{reason}}",
            )],
        },
    ]
}

fn trust() -> Vec<Panel> {
    vec![
        Panel {
            title: "Agents down",
            kind: Kind::Lines,
            unit: "short",
            shows: "Observers that Prometheus does not reach.",
            bad: "any: runbook observer-down.",
            queries: vec![q(
                r#"count by (job) (up{job=~"observer|observer-self",%node%} == 0) or 0 * count by (job) (up{job=~"observer|observer-self",%node%})"#,
                "{{job}}",
            )],
        },
        Panel {
            title: "Lost",
            kind: Kind::Lines,
            unit: "short",
            shows: "What could not be counted in ten minutes, by kind.",
            bad: "depends on the kind: runbook observer-losing has a threshold for each.",
            queries: vec![q(
                "sum by (kind) (increase(observer_lost_total{%node%}[10m]))",
                "{{kind}}",
            )],
        },
        Panel {
            title: "Programs that are missing",
            kind: Kind::Table,
            unit: "short",
            shows: "Kernel programs that a node's kernel has refused.",
            bad: "any line on a kernel that is new enough: runbook observer-probe-missing.",
            queries: vec![q(
                "topk(50, max by (instance, program, hook) (observer_probe_active{%node%}) == 0)",
                "",
            )],
        },
        Panel {
            title: "Table in use",
            kind: Kind::Lines,
            unit: "percentunit",
            shows: "The share of the kernel's cells that is in use; the 10 fullest nodes.",
            bad: "above 90 %: runbook observer-table-full.",
            queries: vec![q(
                "topk(10, max by (instance) (observer_cells_used{%node%}) / max by (instance) (observer_cells_capacity{%node%}))",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Programs that were skipped",
            kind: Kind::Lines,
            unit: "short",
            shows: "Runs that the kernel skipped in ten minutes, since the program ran already.",
            bad: "more than a few: ends by `unknown` may follow (runbook observer-losing).",
            queries: vec![q(
                "topk(15, sum by (instance, program) (increase(observer_probe_skips_total{%node%}[10m])))",
                "{{instance}} {{program}}",
            )],
        },
        Panel {
            title: "Pods without a name",
            kind: Kind::Lines,
            unit: "short",
            shows: "Pods that the API server has not named; the 10 nodes with most. And nodes without it.",
            bad: "for longer than a minute: runbook observer-names-stale.",
            queries: vec![
                q(
                    "topk(10, max by (instance) (observer_kube_pods_unnamed{%node%}))",
                    "{{instance}}",
                ),
                q(
                    "count(max by (instance) (observer_kube_watch_active{%node%}) == 0) or vector(0)",
                    "nodes without the API server",
                ),
            ],
        },
        Panel {
            title: "Pods whose users are not known",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Pods that have no number of users, by reason.",
            bad: "`blind`, or others for longer than a minute: runbook observer-blind.",
            queries: vec![q(
                "count by (reason) (max by (namespace, pod, reason) (observer_pod_withheld{%node%}))",
                "{{reason}}",
            )],
        },
    ]
}

fn cost() -> Vec<Panel> {
    vec![
        Panel {
            title: "Processor",
            kind: Kind::Lines,
            unit: "percentunit",
            shows: "Share of a processor that the daemon uses; the 10 nodes with most. The kernel programs are not in it.",
            bad: "above its limit it is throttled, and scrapes get slow: docs/cost.md says what to expect.",
            queries: vec![q(
                r#"topk(10, max by (instance) (rate(process_cpu_seconds_total{job="observer-self",%node%}[$__rate_interval])))"#,
                "{{instance}}",
            )],
        },
        Panel {
            title: "Memory",
            kind: Kind::Lines,
            unit: "bytes",
            shows: "Resident memory of the daemon; the 10 nodes with most.",
            bad: "near the pod's limit: raise it, or lower `--detail`.",
            queries: vec![q(
                r#"topk(10, max by (instance) (process_resident_memory_bytes{job="observer-self",%node%}))"#,
                "{{instance}}",
            )],
        },
        Panel {
            title: "Series by family",
            kind: Kind::Lines,
            unit: "short",
            shows: "Series of the last scrapes, over all nodes; the 15 largest families.",
            bad: "more than you pay for: docs/cardinality.md says how to have fewer.",
            queries: vec![q(
                "topk(15, sum by (family) (max by (instance, family) (observer_series{%node%})))",
                "{{family}}",
            )],
        },
        Panel {
            title: "Time of a scrape",
            kind: Kind::Lines,
            unit: "s",
            shows: "How long Prometheus takes to scrape the workloads' metrics; the 10 slowest nodes.",
            bad: "near the time-out of 10 s: fewer series, or more processor time for the daemon.",
            queries: vec![q(
                r#"topk(10, max by (instance) (scrape_duration_seconds{job="observer",%node%}))"#,
                "{{instance}}",
            )],
        },
        Panel {
            title: "Samples of a scrape",
            kind: Kind::Lines,
            unit: "short",
            shows: "Samples of a scrape of the workloads' metrics; the 10 largest.",
            bad: "near `sample_limit` (50,000): above it a scrape fails as a whole; see docs/cardinality.md.",
            queries: vec![q(
                r#"topk(10, max by (instance) (scrape_samples_scraped{job="observer",%node%}))"#,
                "{{instance}}",
            )],
        },
        Panel {
            title: "Versions",
            kind: Kind::Table,
            unit: "short",
            shows: "Agents by version and kernel.",
            bad: "two versions for long: a rollout that stands still.",
            queries: vec![q(
                "topk(50, count by (version, kernel) (observer_build_info{%node%}))",
                "",
            )],
        },
    ]
}
