//! What the objects need of a cluster, and of each other: namespaces, what Prometheus may read, ports.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{BASE, EXAMPLES, components, daemonset, documents, file, tools};

/// The first object of a kind and a name.
pub(crate) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let found = found.find(|object| object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The namespaces that objects are in, without those that are among the objects and those that every cluster has.
fn lacking(objects: &[Value]) -> BTreeSet<String> {
    let is_namespace = |object: &&Value| object["kind"] == "Namespace";
    let made = objects.iter().filter(is_namespace).map(|object| &object["metadata"]["name"]);
    let made: BTreeSet<_> =
        made.filter_map(Value::as_str).chain(["default", "kube-system"]).collect();
    let used = objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str());
    used.filter(|namespace| !made.contains(namespace)).map(str::to_owned).collect()
}

/// An overlay with an object in a namespace that is not there fails as a whole. Those that are Prometheus' own are not ours
/// to delete with the overlay: the documents say how to make them.
#[test]
fn the_documents_make_every_namespace_that_an_overlay_lacks() {
    let mut all = BTreeSet::new();
    for component in components() {
        all.extend(lacking(&documents(&tools::render(&[BASE], &[&component]))));
    }
    for example in EXAMPLES {
        let mut lacking = lacking(&documents(&tools::render(&[example], &[])));
        // Prometheus is let into the observer's own, which is there before.
        lacking.remove("observer");
        assert_eq!(lacking, BTreeSet::new(), "{example} is whole");
    }
    assert_eq!(all, BTreeSet::from(["custom-metrics", "monitoring"].map(str::to_owned)));
    let page = file("README.md");
    for namespace in all {
        let command = format!("kubectl create namespace {namespace} ");
        assert!(page.lines().any(|line| line.starts_with(&command)), "{namespace}");
    }
}

/// Whether a role lets its subjects do all that discovery does with a resource.
fn lets_discover(role: &Value, group: &str, resource: &str) -> bool {
    role["rules"].as_array().into_iter().flatten().any(|rule| {
        let has = |list: &str, what: &str| {
            rule[list].as_array().is_some_and(|list| list.contains(&what.into()))
        };
        let verbs = ["get", "list", "watch"];
        has("apiGroups", group)
            && has("resources", resource)
            && verbs.iter().all(|verb| has("verbs", verb))
    })
}

#[test]
fn prometheus_may_find_the_agents() {
    let pods = [("", "pods")];
    let services = [("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices")];
    for (component, name, found_by) in [
        ("prometheus", "prometheus", &pods[..]),
        ("prometheus-operator", "prometheus-k8s", &services[..]),
    ] {
        let objects = documents(&tools::render(&[BASE], &[component]));
        let role = object(&objects, "Role", name);
        let binding = object(&objects, "RoleBinding", name);
        for &(group, resource) in found_by {
            assert!(lets_discover(role, group, resource), "{component}: {resource}");
        }
        let here = &object(&objects, "DaemonSet", "observer")["metadata"]["namespace"];
        assert_eq!([&role["metadata"]["namespace"], &binding["metadata"]["namespace"]], [here; 2]);
        let expected =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
        assert_eq!(binding["roleRef"], expected);
        let expected = json!([{"kind": "ServiceAccount", "name": name, "namespace": "monitoring"}]);
        assert_eq!(binding["subjects"], expected);
    }
    // It is told to look there and nowhere else.
    let jobs = &documents(&file("components/prometheus/scrape.yaml"))[0];
    for job in jobs["scrape_configs"].as_array().expect("there are jobs") {
        let discovery = &job["kubernetes_sd_configs"][0];
        assert_eq!(discovery["namespaces"]["names"], json!(["observer"]));
        assert_eq!(discovery["role"], "pod");
    }
}

#[test]
fn the_service_lists_the_agents_with_both_ports() {
    let objects = documents(&tools::render(&[BASE], &[]));
    let service = &object(&objects, "Service", "observer")["spec"];
    let pod = &daemonset(&[])["spec"]["template"];
    assert_eq!(service["clusterIP"], "None");
    assert_eq!(service["selector"], pod["metadata"]["labels"]);
    let listed = service["ports"].as_array().expect("it has ports").iter();
    let listed: Vec<_> =
        listed.map(|port| (&port["name"], &port["targetPort"], &port["port"])).collect();
    let ports = pod["spec"]["containers"][0]["ports"].as_array().expect("it has ports").iter();
    let ports: Vec<_> =
        ports.map(|port| (&port["name"], &port["name"], &port["containerPort"])).collect();
    assert_eq!(listed, ports);
}

/// By either an operator's Prometheus gets the same series.
#[test]
fn monitors_of_services_and_of_pods_say_the_same() {
    let services = documents(&file("components/service-monitor/service-monitors.yaml"));
    let pods = documents(&file("components/prometheus-operator/pod-monitors.yaml"));
    assert_eq!((services.len(), pods.len()), (2, 2));
    let objects = documents(&tools::render(&[BASE], &[]));
    let service = &object(&objects, "Service", "observer")["metadata"];
    for (by_service, by_pod) in services.iter().zip(&pods) {
        assert_eq!(by_service["metadata"], by_pod["metadata"]);
        let (by_service, by_pod) = (&by_service["spec"], &by_pod["spec"]);
        let selected = by_service["selector"]["matchLabels"].as_object().expect("it selects");
        for (label, value) in selected {
            assert_eq!(service["labels"][label], *value, "{label}");
        }
        assert_eq!(by_service["namespaceSelector"]["matchNames"], json!([service["namespace"]]));
        assert_eq!(by_service["sampleLimit"], by_pod["sampleLimit"]);
        let mut endpoint = by_service["endpoints"][0].clone();
        if endpoint["honorLabels"] == true {
            // A Service's target has a label more that would be filled in.
            let dropped = &mut endpoint["relabelings"][0]["regex"];
            assert_eq!(*dropped, "namespace|pod|container|endpoint|service");
            *dropped = "namespace|pod|container|endpoint".into();
        }
        assert_eq!(endpoint, by_pod["podMetricsEndpoints"][0]);
    }
}

#[test]
fn the_network_policy_lets_through_what_is_needed_and_no_more() {
    let objects = documents(&tools::render(&[BASE], &["network-policy"]));
    let policy = &object(&objects, "NetworkPolicy", "observer")["spec"];
    let pod = &daemonset(&[])["spec"]["template"];
    assert_eq!(policy["podSelector"]["matchLabels"], pod["metadata"]["labels"]);
    let [way_in] = &policy["ingress"].as_array().expect("somebody may come")[..] else {
        panic!("{policy}")
    };
    let names = |ports: &Value, key: &str| -> Vec<Value> {
        ports.as_array().expect("there are ports").iter().map(|port| port[key].clone()).collect()
    };
    let ports = &pod["spec"]["containers"][0]["ports"];
    assert_eq!(names(&way_in["ports"], "port"), names(ports, "name"));
    let from = json!([{"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring", "keda"]},
    ]}}]);
    assert_eq!(way_in["from"], from);
    let [way_out] = &policy["egress"].as_array().expect("it may ask")[..] else {
        panic!("{policy}")
    };
    assert_eq!(way_out["to"], Value::Null, "the API server has no pods");
    assert_eq!(names(&way_out["ports"], "port"), [443, 6443, 8443, 16443].map(Value::from));
}
