//! What scales workloads: `HorizontalPodAutoscaler`s and the adapter that answers them, and KEDA's `ScaledObject`s.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{BASE, cluster::object, components, documents, file, kinds, tools};

/// The only object of an example.
fn example(name: &str) -> Value {
    let objects = documents(&tools::render(&[name], &[]));
    let [object] = &objects[..] else { panic!("{name}: {:?}", kinds(&objects)) };
    object.clone()
}

/// The types of the metrics of an autoscaler, and the names of those that come of connections.
fn metrics(autoscaler: &Value) -> (Vec<&str>, Vec<&str>) {
    let metrics = autoscaler["spec"]["metrics"].as_array().expect("it scales by something");
    let types = metrics.iter().filter_map(|metric| metric["type"].as_str());
    let names = metrics.iter().filter_map(|metric| metric["pods"]["metric"]["name"].as_str());
    (types.collect(), names.collect())
}

#[test]
fn each_autoscaler_asks_for_what_it_says_and_the_adapter_answers() {
    let rules = &documents(&file("components/prometheus-adapter/config.yaml"))[0];
    let rules = rules["rules"].as_array().expect("there are rules");
    let answered: BTreeSet<_> =
        rules.iter().filter_map(|rule| rule["name"]["as"].as_str()).collect();
    assert_eq!(answered.len(), rules.len(), "each rule has a name of its own");
    for (name, workload, types, connections) in [
        ("websocket", "websocket-app", &["Pods"][..], "websocket_connections"),
        ("websocket-fast", "websocket-app", &["Pods"], "websocket_connections_30s"),
        (
            "websocket-with-cpu",
            "websocket-app",
            &["Resource", "Resource", "Pods"],
            "websocket_connections",
        ),
        ("grpc", "grpc-app", &["Pods"], "grpc_connections"),
    ] {
        let autoscaler = example(&format!("examples/hpa/{name}"));
        assert_eq!(autoscaler["kind"], "HorizontalPodAutoscaler", "{name}");
        assert_eq!(autoscaler["spec"]["scaleTargetRef"]["name"], workload, "{name}");
        assert_eq!(metrics(&autoscaler), (types.to_vec(), vec![connections]), "{name}");
        assert!(answered.contains(connections), "{connections} is asked for and not answered");
    }
    // Nobody gets one unasked.
    for component in components() {
        let objects = documents(&tools::render(&[], &[&component]));
        assert!(!kinds(&objects).contains("HorizontalPodAutoscaler"), "{component}");
    }
}

/// The seconds of a range in a query.
fn range(rule: &Value) -> u64 {
    let query = rule["metricsQuery"].as_str().expect("a rule has a query");
    let ranges = query.split('[').skip(1).filter_map(|rest| rest.split(']').next());
    let ranges: BTreeSet<_> = ranges.collect();
    assert_eq!(ranges.len(), 1, "mean and guard are over the same time: {query}");
    match ranges.first() {
        Some(&"1m") => 60,
        Some(&"30s") => 30,
        other => panic!("{other:?}"),
    }
}

#[test]
fn windows_and_means_are_what_the_comments_say() {
    let rules = documents(&file("components/prometheus-adapter/config.yaml"));
    let rules = rules[0]["rules"].as_array().expect("there are rules");
    let mean = |metric: &str| {
        let rule = rules.iter().find(|rule| rule["name"]["as"] == metric);
        range(rule.expect("there is such a rule"))
    };
    for name in ["websocket", "websocket-fast", "websocket-with-cpu", "grpc"] {
        let autoscaler = example(&format!("examples/hpa/{name}"));
        let behavior = &autoscaler["spec"]["behavior"];
        let window =
            |way: &str| behavior[way]["stabilizationWindowSeconds"].as_u64().expect("it has one");
        let (_, asked) = metrics(&autoscaler);
        let mean = mean(asked[0]);
        let is_fast = name == "websocket-fast";
        assert_eq!((mean, window("scaleUp")), if is_fast { (30, 0) } else { (60, 60) }, "{name}");
        assert_eq!(window("scaleDown"), 300, "{name}");
        // By the longest mean.
        let grace = format!("{} s are enough for a grace period of up to {} s", 300, 300 - 60);
        let text = file(if name == "grpc" {
            "examples/hpa/grpc/hpa.yaml"
        } else {
            "examples/hpa/websocket/hpa.yaml"
        });
        assert!(text.contains(&grace), "{name}");
    }
}

#[test]
fn the_example_of_an_adapter_is_whole() {
    let objects = documents(&tools::render(&["examples/prometheus-adapter"], &[]));
    let namespace = "custom-metrics";
    let adapter = object(&objects, "Deployment", "prometheus-adapter");
    let spec = &adapter["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let arguments = container["args"].as_array().expect("it has arguments");
    assert!(arguments.contains(&"--metrics-relist-interval=1m".into()), "{arguments:?}");
    // Its configuration is the component's, under a name that nobody else uses.
    let configuration = object(&objects, "ConfigMap", "observer-adapter-config");
    assert_eq!(spec["volumes"][0]["configMap"]["name"], configuration["metadata"]["name"]);
    let shipped = file("components/prometheus-adapter/config.yaml");
    assert_eq!(configuration["data"]["config.yaml"], shipped.as_str());
    let mounted = format!(
        "--config={}/config.yaml",
        container["volumeMounts"][0]["mountPath"].as_str().expect("a path")
    );
    assert!(arguments.contains(&mounted.into()), "{arguments:?}");
    // The API server finds it.
    let api = &object(&objects, "APIService", "v1beta1.custom.metrics.k8s.io")["spec"];
    let service = object(&objects, "Service", api["service"]["name"].as_str().expect("a name"));
    assert_eq!(api["service"]["namespace"], namespace);
    assert_eq!(service["spec"]["selector"], adapter["spec"]["template"]["metadata"]["labels"]);
    let (port, target) = (&service["spec"]["ports"][0], &container["ports"][0]);
    assert_eq!((&port["port"], &port["targetPort"]), (&443.into(), &target["name"]));
    let listens = format!("--secure-port={}", target["containerPort"]);
    assert!(arguments.contains(&listens.into()), "{arguments:?}");
    // It may ask who asks, and for the pods that are meant.
    let subject = json!([{"kind": "ServiceAccount", "name": spec["serviceAccountName"], "namespace": namespace}]);
    for (kind, name, role) in [
        ("ClusterRoleBinding", "prometheus-adapter-auth-delegator", "system:auth-delegator"),
        (
            "RoleBinding",
            "prometheus-adapter-auth-reader",
            "extension-apiserver-authentication-reader",
        ),
        (
            "ClusterRoleBinding",
            "prometheus-adapter-resource-reader",
            "prometheus-adapter-resource-reader",
        ),
    ] {
        let binding = object(&objects, kind, name);
        assert_eq!((&binding["roleRef"]["name"], &binding["subjects"]), (&role.into(), &subject));
    }
    let reader = object(&objects, "RoleBinding", "prometheus-adapter-auth-reader");
    assert_eq!(reader["metadata"]["namespace"], "kube-system", "the role is there");
}

#[test]
fn the_example_of_a_prometheus_reads_what_the_component_ships() {
    let objects = documents(&tools::render(&["examples/prometheus"], &[]));
    let prometheus = object(&objects, "Deployment", "prometheus");
    let pod = &prometheus["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let list = |value: &Value| value.as_array().expect("a list").clone();
    // Where a ConfigMap is mounted.
    let mounted = |name: &str| {
        let is_of = |volume: &&Value| {
            volume["configMap"]["name"].as_str().is_some_and(|of| of.starts_with(name))
        };
        let volumes = list(&pod["volumes"]);
        let volume = volumes.iter().find(is_of).expect("it is a volume").clone();
        let mut mounts = list(&container["volumeMounts"]).into_iter();
        let mount = mounts.find(|mount| mount["name"] == volume["name"]).expect("it is mounted");
        mount["mountPath"].as_str().expect("a path").to_owned()
    };
    let shipped = object(&objects, "ConfigMap", "observer-prometheus");
    let files = mounted("observer-prometheus");
    let configuration = &documents(&file("examples/prometheus/prometheus.yml"))[0];
    let files_of = |key: &str| -> BTreeSet<String> {
        let files = list(&configuration[key]).into_iter();
        files.map(|file| file.as_str().expect("a path").to_owned()).collect()
    };
    let all: BTreeSet<_> = &files_of("scrape_config_files") | &files_of("rule_files");
    let there = shipped["data"].as_object().expect("it has files").keys();
    assert_eq!(all, there.map(|name| format!("{files}/{name}")).collect());
    assert_eq!(files_of("scrape_config_files"), BTreeSet::from([format!("{files}/scrape.yaml")]));
    let own = format!("--config.file={}/prometheus.yml", mounted("prometheus-"));
    assert!(list(&container["args"]).contains(&own.clone().into()), "{own}");
    // It runs under the account that may find the agents, and is where the adapter and KEDA ask.
    let binding = object(&objects, "RoleBinding", "prometheus");
    assert_eq!(binding["subjects"][0]["name"], pod["serviceAccountName"]);
    let service = object(&objects, "Service", "prometheus");
    assert_eq!(service["spec"]["selector"], prometheus["spec"]["template"]["metadata"]["labels"]);
    let url = format!("http://prometheus.monitoring.svc:{}", service["spec"]["ports"][0]["port"]);
    let adapter = documents(&tools::render(&["examples/prometheus-adapter"], &[]));
    let adapter = object(&adapter, "Deployment", "prometheus-adapter");
    let arguments = list(&adapter["spec"]["template"]["spec"]["containers"][0]["args"]);
    assert!(arguments.contains(&format!("--prometheus-url={url}").into()), "{arguments:?}");
    let scaled = example("examples/keda/websocket");
    assert_eq!(scaled["spec"]["triggers"][0]["metadata"]["serverAddress"], url.as_str());
}

/// A trigger of a `ScaledObject`.
fn trigger<'a>(scaled: &'a Value, name: &str) -> &'a Value {
    let triggers = scaled["spec"]["triggers"].as_array().expect("there are triggers");
    triggers.iter().find(|trigger| trigger["name"] == name).expect("there is such a trigger")
}

#[test]
fn keda_scales_as_the_autoscalers_do() {
    let objects = documents(&tools::render(&[BASE], &[]));
    let service = object(&objects, "Service", "observer");
    for protocol in ["websocket", "grpc"] {
        let hpa = example(&format!("examples/hpa/{protocol}"));
        let [with, without] = ["", "-without-prometheus"]
            .map(|how| example(&format!("examples/keda/{protocol}{how}")));
        for scaled in [&with, &without] {
            assert_eq!(scaled["kind"], "ScaledObject");
            let (theirs, ours) = (&scaled["spec"], &hpa["spec"]);
            assert_eq!(theirs["scaleTargetRef"], ours["scaleTargetRef"]);
            assert_eq!(theirs["minReplicaCount"], ours["minReplicas"]);
            assert_eq!(theirs["maxReplicaCount"], ours["maxReplicas"]);
            let advanced = &theirs["advanced"]["horizontalPodAutoscalerConfig"];
            assert_eq!(advanced["behavior"], ours["behavior"]);
            // Without an answer the number of replicas stays.
            assert_eq!(theirs["fallback"], Value::Null);
        }
        let target = &hpa["spec"]["metrics"][0]["pods"]["target"]["averageValue"];
        let asked = &with["spec"]["triggers"][0];
        assert_eq!(
            (&asked["type"], &asked["metricType"]),
            (&"prometheus".into(), &"AverageValue".into())
        );
        let asked = &asked["metadata"];
        assert_eq!((&asked["threshold"], &asked["ignoreNullValues"]), (target, &"false".into()));
        // The agents are asked for the workload that is scaled, in its namespace, at the port that the Service lists.
        let of = (&without["metadata"]["namespace"], &without["spec"]["scaleTargetRef"]["name"]);
        let (Some(namespace), Some(name)) = (of.0.as_str(), of.1.as_str()) else {
            panic!("{of:?}")
        };
        let url = format!(
            "http://{}.{}.svc:{}/workloads/{namespace}/deployment/{name}",
            service["metadata"]["name"].as_str().expect("a name"),
            service["metadata"]["namespace"].as_str().expect("a namespace"),
            service["spec"]["ports"][0]["port"],
        );
        for (name, value) in
            [("users", format!("{protocol}.connections")), ("known", "pods".to_owned())]
        {
            let asked = trigger(&without, name);
            assert_eq!(asked["type"], "metrics-api");
            let expected = json!({
                "url": url, "aggregateFromKubeServiceEndpoints": "true", "aggregationType": "sum", "valueLocation": value,
            });
            assert_eq!(asked["metadata"], expected, "{name}");
        }
        let pods = trigger(&without, "pods");
        assert_eq!(pods["type"], "kubernetes-workload");
        assert_eq!(pods["metadata"], json!({ "podSelector": format!("app={name}") }));
        let modifiers = &without["spec"]["advanced"]["scalingModifiers"];
        assert_eq!(
            (&modifiers["target"], &modifiers["metricType"]),
            (target, &"AverageValue".into())
        );
    }
}
