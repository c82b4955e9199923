//! The dashboards of a workload: its WebSocket or gRPC connections, its rollouts, and what stands between it and others.

use super::grafana::{Dashboard, Kind, NAMESPACE, POD, Panel, Row, WORKLOAD};

/// What users connect by.
#[derive(Clone, Copy)]
pub(super) enum Users {
    WebSocket,
    Grpc,
}

/// A query of one protocol: `{p}` is its label, and the start of its families.
fn of(users: Users, query: &str, legend: &'static str) -> (String, &'static str) {
    let protocol = match users {
        Users::WebSocket => "websocket",
        Users::Grpc => "grpc",
    };
    (query.replace("{p}", protocol), legend)
}

/// WebSocket or gRPC of a workload.
pub(super) fn users(users: Users) -> Dashboard {
    let q = |query: &str, legend| of(users, query, legend);
    let mut traffic = vec![
        Panel {
            title: "Bytes",
            kind: Kind::Lines,
            unit: "Bps",
            shows: "Payload of these connections as the servers see it.",
            bad: "received without sent, or the other way round: one side does not answer.",
            queries: vec![q(
                r#"sum by (direction) (max without (instance, job) (rate(tcp_payload_bytes_total{%pod%,role="server",protocol="{p}"}[$__rate_interval])))"#,
                "{{direction}}",
            )],
        },
        Panel {
            title: "Round trip",
            kind: Kind::Lines,
            unit: "s",
            shows: "The round-trip time that 95 of 100 samples are below, of the 15 slowest pods. Only with `--detail full`.",
            bad: "far above the usual: the network, or clients far away (runbook retransmissions).",
            queries: vec![q(
                r#"topk(15, histogram_quantile(0.95, sum by (namespace, pod, le) (max without (instance, job) (rate(tcp_round_trip_seconds_bucket{%pod%,role="server",protocol="{p}"}[$__rate_interval])))))"#,
                "{{pod}}",
            )],
        },
        Panel {
            title: "Sent again",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Segments that were sent again, per second; the 15 pods with most.",
            bad: "more than a twentieth of all: runbook retransmissions.",
            queries: vec![q(
                r#"topk(15, sum by (namespace, pod) (max without (instance, job) (rate(tcp_retransmits_total{%pod%,role="server",protocol="{p}"}[$__rate_interval]))))"#,
                "{{pod}}",
            )],
        },
    ];
    if matches!(users, Users::WebSocket) {
        traffic.insert(
            0,
            Panel {
                title: "Messages",
                kind: Kind::Lines,
                unit: "cps",
                shows: "Text and binary messages per second, as the replicas see them.",
                bad: "none, with connections open: the application stands still.",
                queries: vec![q(
                    "sum by (direction) (max without (instance, job) (rate(websocket_messages_total{%pod%}[$__rate_interval])))",
                    "{{direction}}",
                )],
            },
        );
    }
    let (name, title) = match users {
        Users::WebSocket => ("websocket", "WebSocket workload"),
        Users::Grpc => ("grpc", "gRPC workload"),
    };
    Dashboard {
        name,
        title,
        description: "Users of a workload: how many, on which replica, how they come and go.",
        variables: &[NAMESPACE, WORKLOAD, POD],
        rows: vec![
            Row { title: "Users", panels: held(&q) },
            Row { title: "Ends", panels: ends(&q) },
            Row { title: "Traffic", panels: traffic },
        ],
    }
}

type Query<'a> = &'a dyn Fn(&str, &'static str) -> (String, &'static str);

fn held(q: Query<'_>) -> Vec<Panel> {
    vec![
        Panel {
            title: "Active by replica",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Connections that each replica's users hold; the 30 fullest.",
            bad: "a replica that loses all, or has none while others are full (runbooks bad-ends, imbalance).",
            queries: vec![q(
                "topk(30, max by (namespace, pod) ({p}_connections_active{%pod%}))",
                "{{pod}}",
            )],
        },
        Panel {
            title: "Imbalance",
            kind: Kind::Lines,
            unit: "short",
            shows: "The fullest replica by the mean of all; 1 is even. The 15 most uneven workloads.",
            bad: "above 1.5: runbook imbalance.",
            queries: vec![q(
                "topk(15, namespace_workload:{p}_connections_active:imbalance{%workload%})",
                "{{namespace}}/{{workload}}",
            )],
        },
        Panel {
            title: "Against the autoscaler",
            kind: Kind::Lines,
            unit: "short",
            shows: "The mean of all replicas, beside what HorizontalPodAutoscalers aim at and their replicas, now and at most. These need kube-state-metrics.",
            bad: "the mean at the target with all replicas there: runbook near-hpa-limit.",
            queries: vec![
                q(
                    "topk(10, avg by (namespace, workload) (namespace_pod:{p}_connections_active:max{%workload%}))",
                    "{{workload}}: mean of a replica",
                ),
                q(
                    r#"topk(10, max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_spec_target_metric{namespace=~"$namespace",metric_name="{p}_connections"}))"#,
                    "{{horizontalpodautoscaler}}: target",
                ),
                q(
                    r#"topk(10, max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas{namespace=~"$namespace"}))"#,
                    "{{horizontalpodautoscaler}}: replicas",
                ),
                q(
                    r#"topk(10, max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_spec_max_replicas{namespace=~"$namespace"}))"#,
                    "{{horizontalpodautoscaler}}: replicas at most",
                ),
            ],
        },
        Panel {
            title: "New connections",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Connections that users open, per second; the 30 replicas with most.",
            bad: "four times the usual: runbook reconnect-storm.",
            queries: vec![q(
                "topk(30, sum by (namespace, pod) (max without (instance, job) (rate({p}_connections_total{%pod%}[$__rate_interval]))))",
                "{{pod}}",
            )],
        },
        Panel {
            title: "Relayed",
            kind: Kind::Lines,
            unit: "short",
            shows: "Connections that pods hold for their users and pass on to other pods; the 15 with most. These count once in the sums of users.",
            bad: "below the active ones of an ingress: some users get no further.",
            queries: vec![q(
                "topk(15, max by (namespace, pod) ({p}_connections_relayed{%pod%}))",
                "{{pod}}",
            )],
        },
        Panel {
            title: "Not known",
            kind: Kind::Lines,
            unit: "short",
            shows: "Connections of servers that cannot be read or are not recognised; the 15 pods with most.",
            bad: "above 0 for long: users are missing here (runbook observer-blind).",
            queries: vec![q(
                "topk(15, max by (namespace, pod) (observer_pod_unread_connections{%pod%}))",
                "{{pod}}",
            )],
        },
    ]
}

fn ends(q: Query<'_>) -> Vec<Panel> {
    vec![
        Panel {
            title: "Who ends them",
            kind: Kind::Stacked,
            unit: "cps",
            shows: "Connections of the servers that ended, per second, by reason.",
            bad: "anything but `local` and `peer` above a twentieth: runbook bad-ends.",
            queries: vec![q(
                r#"sum by (reason) (max without (instance, job) (rate(tcp_connections_closed_total{%pod%,role="server",protocol="{p}"}[$__rate_interval])))"#,
                "{{reason}}",
            )],
        },
        Panel {
            title: "Errors by replica",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Ends without an orderly close, per second; the 30 replicas and causes with most.",
            bad: "one replica only: its program. All: the network or a proxy (runbook bad-ends).",
            queries: vec![q(
                "topk(30, sum by (namespace, pod, cause) (max without (instance, job) (rate({p}_errors_total{%pod%}[$__rate_interval]))) > 0)",
                "{{pod}} {{cause}}",
            )],
        },
        Panel {
            title: "Over within a second",
            kind: Kind::Lines,
            unit: "percentunit",
            shows: "The share of connections that ended within a second of their start; the 15 replicas with the largest.",
            bad: "above a half: runbook closed-young.",
            queries: vec![q(
                r#"topk(15, sum by (namespace, pod) (max without (instance, job) (rate(tcp_connection_duration_seconds_bucket{%pod%,role="server",protocol="{p}",le=~"1(\\.0)?"}[10m]))) / sum by (namespace, pod) (max without (instance, job) (rate(tcp_connection_duration_seconds_count{%pod%,role="server",protocol="{p}"}[10m]))))"#,
                "{{pod}}",
            )],
        },
        Panel {
            title: "Lifetimes",
            kind: Kind::Lines,
            unit: "s",
            shows: "How long the connections lived that ended: half of them, and nine of ten, were shorter. Those that are open are not in it.",
            bad: "nine of ten at the same time: something ends them by a timer, perhaps a limit of age.",
            queries: vec![
                q(
                    r#"histogram_quantile(0.5, sum by (le) (max without (instance, job) (rate(tcp_connection_duration_seconds_bucket{%pod%,role="server",protocol="{p}"}[10m]))))"#,
                    "half",
                ),
                q(
                    r#"histogram_quantile(0.9, sum by (le) (max without (instance, job) (rate(tcp_connection_duration_seconds_bucket{%pod%,role="server",protocol="{p}"}[10m]))))"#,
                    "nine of ten",
                ),
            ],
        },
        Panel {
            title: "Silence before the end",
            kind: Kind::Stacked,
            unit: "short",
            shows: "Ends of the last ten minutes by how long nobody had said anything, cumulative: a step between 59 and 61 is 60 s.",
            bad: "one step that grows: a timer (runbook idle-cut).",
            queries: vec![q(
                r#"sum by (le) (max without (instance, job) (increase(tcp_connection_idle_seconds_bucket{%pod%,role="server",protocol="{p}",side="peer"}[10m])))"#,
                "≤ {{le}} s",
            )],
        },
        Panel {
            title: "Timers",
            kind: Kind::Lines,
            unit: "s",
            shows: "The silence after which one side ends connections again and again; the 15 longest.",
            bad: "any at `peer` that you do not know: a proxy's timer (runbook idle-cut).",
            queries: vec![q(
                r#"topk(15, max by (namespace, pod, role, side) (tcp_idle_cut_seconds{%pod%,protocol="{p}"}))"#,
                "{{pod}} {{role}} {{side}}",
            )],
        },
        Panel {
            title: "Cut after silence",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Connections that the other side closed after 5 s or more of silence, per second; the 15 replicas with most.",
            bad: "steady: runbook idle-cut.",
            queries: vec![q(
                r#"topk(15, sum by (namespace, pod) (max without (instance, job) (rate(tcp_idle_closes_total{%pod%,role="server",protocol="{p}"}[$__rate_interval]))))"#,
                "{{pod}}",
            )],
        },
    ]
}

fn q(query: &str, legend: &'static str) -> (String, &'static str) {
    (query.to_owned(), legend)
}

/// Pods that end and pods that begin.
pub(super) fn rollouts() -> Dashboard {
    Dashboard {
        name: "rollouts",
        title: "Rollouts",
        description: "What a rollout or a scale-down does to connections.",
        variables: &[NAMESPACE, WORKLOAD],
        rows: vec![Row {
            title: "Pods and their connections",
            panels: vec![
                Panel {
                    title: "Pods",
                    kind: Kind::Lines,
                    unit: "short",
                    shows: "Pods of each workload; the 15 largest.",
                    bad: "fewer than asked for: connections crowd on the rest.",
                    queries: vec![q(
                        "topk(15, count by (namespace, workload) (max by (namespace, pod, workload) (workload_pod_info{%workload%})))",
                        "{{namespace}}/{{workload}}",
                    )],
                },
                Panel {
                    title: "WebSockets by pod",
                    kind: Kind::Stacked,
                    unit: "short",
                    shows: "Old and new pods of the workload; the 30 fullest.",
                    bad: "an old pod that falls to 0 at once: it cuts its connections (runbook reconnect-storm).",
                    queries: vec![q(
                        "topk(30, namespace_pod:websocket_connections_active:max{%workload%})",
                        "{{pod}}",
                    )],
                },
                Panel {
                    title: "gRPC by pod",
                    kind: Kind::Stacked,
                    unit: "short",
                    shows: "Old and new pods of the workload; the 30 fullest.",
                    bad: "new pods that stay empty: clients keep their connections (runbook imbalance).",
                    queries: vec![q(
                        "topk(30, namespace_pod:grpc_connections_active:max{%workload%})",
                        "{{pod}}",
                    )],
                },
                Panel {
                    title: "Reconnects",
                    kind: Kind::Lines,
                    unit: "cps",
                    shows: "New WebSockets per second, beside four times the mean of the half hour before; 10 workloads each.",
                    bad: "the first above the second, and above 10: runbook reconnect-storm.",
                    queries: vec![
                        q(
                            "topk(10, namespace_workload:websocket_connections:rate2m{%workload%})",
                            "{{workload}}",
                        ),
                        q(
                            "topk(10, 4 * avg_over_time(namespace_workload:websocket_connections:rate2m{%workload%}[30m] offset 5m))",
                            "{{workload}}: 4 × before",
                        ),
                    ],
                },
                Panel {
                    title: "How connections ended",
                    kind: Kind::Stacked,
                    unit: "cps",
                    shows: "WebSocket and gRPC connections of servers that ended, per second, those of pods that are gone included.",
                    bad: "resets or `aborted` while pods end: they do not close in order (runbook bad-ends).",
                    queries: vec![q(
                        r#"sum by (reason) (max without (job) (rate(workload_tcp_connections_closed_total{%workload%,role="server",protocol=~"websocket|grpc"}[$__rate_interval])))"#,
                        "{{reason}}",
                    )],
                },
                Panel {
                    title: "Pods whose users are not known",
                    kind: Kind::Lines,
                    unit: "short",
                    shows: "Pods of a workload that have no number of users; the sums of their workload have no value meanwhile.",
                    bad: "for longer than a minute: runbook observer-blind.",
                    queries: vec![q(
                        "topk(15, namespace_workload:observer_pods_withheld:count{%workload%})",
                        "{{namespace}}/{{workload}}",
                    )],
                },
            ],
        }],
    }
}

/// What stands between users and servers.
pub(super) fn relays() -> Dashboard {
    Dashboard {
        name: "relays",
        title: "Ingress and relays",
        description: "Both sides of pods that pass connections on: what comes in, what goes out, and what gets lost.",
        variables: &[NAMESPACE, WORKLOAD, POD],
        rows: vec![
            Row { title: "Both sides", panels: sides() },
            Row { title: "Towards the servers", panels: towards_servers() },
        ],
    }
}

fn sides() -> Vec<Panel> {
    vec![
        Panel {
            title: "Open at both sides",
            kind: Kind::Lines,
            unit: "short",
            shows: "Connections that the pods accepted (`server`) and opened (`client`), by protocol, without those inside a pod.",
            bad: "WebSockets of the two sides apart: one hop is closed and the other is not.",
            queries: vec![q(
                r#"sum by (role, protocol) (max without (instance, job) (tcp_connections_active{%pod%,path="external"}))"#,
                "{{role}} {{protocol}}",
            )],
        },
        Panel {
            title: "Relayed users",
            kind: Kind::Stacked,
            unit: "short",
            shows: "WebSocket and gRPC connections that pods hold for their users and pass on; the 15 pods with most of each.",
            bad: "a step down: the ingress, or what is behind it, cut them (runbook bad-ends).",
            queries: vec![
                q(
                    "topk(15, max by (namespace, pod) (websocket_connections_relayed{%pod%}))",
                    "{{pod}} WebSocket",
                ),
                q(
                    "topk(15, max by (namespace, pod) (grpc_connections_relayed{%pod%}))",
                    "{{pod}} gRPC",
                ),
            ],
        },
        Panel {
            title: "Bytes of both sides",
            kind: Kind::Lines,
            unit: "Bps",
            shows: "Payload by side and direction.",
            bad: "what comes in at one side does not go out at the other: a buffer, or a cache.",
            queries: vec![q(
                "sum by (role, direction) (max without (instance, job) (rate(tcp_payload_bytes_total{%pod%}[$__rate_interval])))",
                "{{role}} {{direction}}",
            )],
        },
        Panel {
            title: "Ends at the users' side",
            kind: Kind::Stacked,
            unit: "cps",
            shows: "Connections that the pods accepted and that ended, per second, by reason.",
            bad: "`local` without `peer`: the relay cuts (runbook idle-cut).",
            queries: vec![q(
                r#"sum by (reason) (max without (instance, job) (rate(tcp_connections_closed_total{%pod%,role="server"}[$__rate_interval])))"#,
                "{{reason}}",
            )],
        },
        Panel {
            title: "Ends at the servers' side",
            kind: Kind::Stacked,
            unit: "cps",
            shows: "Connections that the pods opened and that ended, per second, by reason.",
            bad: "`peer` or `reset_peer`: servers cut (runbook resets).",
            queries: vec![q(
                r#"sum by (reason) (max without (instance, job) (rate(tcp_connections_closed_total{%pod%,role="client"}[$__rate_interval])))"#,
                "{{reason}}",
            )],
        },
        Panel {
            title: "Protocols by port",
            kind: Kind::Table,
            unit: "short",
            shows: "What the pods' servers were found to speak in the last hour, by port.",
            bad: "HTTP/1 on a port of gRPC or TLS: runbook unexpected-port.",
            queries: vec![q(
                r#"topk(50, sum by (port, protocol) (max without (instance, job) (increase(tcp_connections_identified_total{%pod%,role="server"}[1h]))) > 0)"#,
                "",
            )],
        },
    ]
}

fn towards_servers() -> Vec<Panel> {
    vec![
        Panel {
            title: "Connects that fail",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Attempts that failed, per second, by port and reason; the 30 with most.",
            bad: "`timed_out`: runbook connect-timeouts. `refused`: no server is ready.",
            queries: vec![q(
                "topk(30, sum by (port, reason) (max without (instance, job) (rate(tcp_connect_failures_total{%pod%}[$__rate_interval]))))",
                "{{port}} {{reason}}",
            )],
        },
        Panel {
            title: "Time-outs",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Connections, or attempts, that ran out of time, per second, by kind.",
            bad: "`retransmission`: the network or a dead peer. `keepalive`: peers that are gone (runbook retransmissions).",
            queries: vec![q(
                "sum by (role, kind) (max without (instance, job) (rate(tcp_timeouts_total{%pod%}[$__rate_interval])))",
                "{{role}} {{kind}}",
            )],
        },
        Panel {
            title: "Sent again",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Segments that were sent again, per second; the 15 pods and sides with most.",
            bad: "more than a twentieth of all: runbook retransmissions.",
            queries: vec![q(
                "topk(15, sum by (namespace, pod, role) (max without (instance, job) (rate(tcp_retransmits_total{%pod%}[$__rate_interval]))))",
                "{{pod}} {{role}}",
            )],
        },
        Panel {
            title: "Resets",
            kind: Kind::Lines,
            unit: "cps",
            shows: "Resets per second, by side, direction and cause; the 30 with most. Before Linux 6.10 the cause is `unspecified`.",
            bad: "more than a twentieth of what ends: runbook resets.",
            queries: vec![q(
                "topk(30, sum by (role, direction, cause) (max without (instance, job) (rate(tcp_resets_total{%pod%}[$__rate_interval]))))",
                "{{role}} {{direction}} {{cause}}",
            )],
        },
    ]
}
