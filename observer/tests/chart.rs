//! The Helm chart, held to what kustomize makes of the same files.

#[path = "support/judge.rs"]
mod judge;
#[path = "support/tools.rs"]
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// `.Capabilities.KubeVersion`: of a helm that is built as here it would be an old one.
const KUBERNETES: &str = "1.33.0";

fn chart() -> PathBuf {
    tools::checkout().join("deploy/chart")
}

/// Runs helm on a chart with these arguments before and after its path.
fn helm(chart: &Path, before: &[&str], after: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("it can be written");
    let mut helm = Command::new(tools::program("helm"));
    let output = helm.args(before).arg(chart).args(after).env("HOME", home.path()).output();
    output.unwrap_or_else(|error| panic!("cannot run helm: {error}"))
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].concat().escape_ascii().to_string()
}

/// What helm makes of the chart with these values.
fn rendered(namespace: &str, values: &[&str]) -> Vec<Value> {
    let mut after = vec!["--namespace", namespace, "--kube-version", KUBERNETES];
    after.extend(values.iter().flat_map(|value| ["--set", *value]));
    let output = helm(&chart(), &["template", "some-release"], &after);
    assert!(output.status.success(), "{values:?}: {}", said(&output));
    let text = String::from_utf8(output.stdout).expect("it is text");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("helm renders YAML");
    documents.into_iter().filter(Value::is_object).collect()
}

/// The components, by their directories, and the names of their values.
fn components() -> BTreeMap<String, String> {
    let directory = fs::read_dir(tools::checkout().join("deploy/components"));
    let names = directory.expect("there are components").flatten();
    let names = names.map(|entry| entry.file_name().display().to_string());
    names
        .map(|name| {
            let mut words = name.split('-');
            let first = words.next().unwrap_or_default().to_owned();
            let value =
                words.fold(first, |value, word| value + &word[..1].to_uppercase() + &word[1..]);
            (name, value)
        })
        .collect()
}

/// What stands for an object: kind, namespace and name.
type Key = (String, String, String);

/// Objects without what each of the two adds by itself: Helm's labels, and the namespace, which Helm makes.
fn objects(documents: Vec<Value>) -> BTreeMap<Key, Value> {
    let mut objects = BTreeMap::new();
    for mut object in documents {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let key = (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
        if key.0 == "Namespace" || metadata["annotations"]["helm.sh/hook"] == "test" {
            continue;
        }
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|label, _| label == "app.kubernetes.io/name");
            if labels.is_empty() {
                object["metadata"].as_object_mut().expect("it has labels").remove("labels");
            }
        }
        assert!(objects.insert(key, object).is_none());
    }
    objects
}

fn same(directories: &[&str], values: &[String]) {
    let ours: Vec<_> = values.iter().map(String::as_str).collect();
    let ours = objects(rendered("observer", &ours));
    let theirs = tools::render(&["base"], directories);
    let theirs = objects(serde_saphyr::from_multiple(&theirs).expect("kustomize renders YAML"));
    let keys = |objects: &BTreeMap<Key, Value>| objects.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&ours), keys(&theirs), "{values:?}");
    for (key, object) in &theirs {
        assert_eq!(&ours[key], object, "{values:?}: {key:?}");
    }
}

#[test]
#[ignore = "takes Helm: `cargo xtask test` runs it where Go can build one"]
fn helm_makes_what_kustomize_makes() {
    same(&[], &[]);
    let components = components();
    let on = |value: &String| format!("components.{value}=true");
    for (directory, value) in &components {
        same(&[directory], &[on(value)]);
    }
    let directories: Vec<_> = components.keys().map(String::as_str).collect();
    same(&directories, &components.values().map(on).collect::<Vec<_>>());
}

#[test]
#[ignore = "takes Helm: `cargo xtask test` runs it where Go can build one"]
fn the_linter_and_the_schemas_of_kubernetes_accept_it() {
    let output = helm(&chart(), &["lint", "--strict"], &["--kube-version", KUBERNETES]);
    assert!(output.status.success(), "{}", said(&output));
    let all: Vec<_> =
        components().values().map(|value| format!("components.{value}=true")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let documents = rendered("observer", &all).into_iter().chain(rendered("observer", &[]));
    let text: Vec<_> = documents.map(|document| document.to_string()).collect();
    let verdict = judge::validate(&text.join("\n---\n"));
    assert!(verdict.status.success(), "{}", said(&verdict));
}

/// The first object of a kind.
fn first<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).expect("there is one")
}

#[test]
#[ignore = "takes Helm: `cargo xtask test` runs it where Go can build one"]
fn values_reach_what_they_name() {
    let all = components();
    let mut values: Vec<_> = all.values().map(|value| format!("components.{value}=true")).collect();
    values.extend(
        [
            "image.repository=registry.example/observer",
            "image.tag=v1",
            "image.pullPolicy=Always",
            "image.pullSecrets[0]=pull",
            "env.OBSERVER_CELLS=32768",
            "env.OBSERVER_LOG_FORMAT=text",
            "podAnnotations.a=b",
            "resources.limits.memory=1Gi",
            "nodeSelector.pool=edge",
            "tolerations[0].key=edge",
            "maxUnavailable=1",
            "prometheus.namespace=metrics",
            "prometheus.serviceAccount=scraper",
            "prometheus.labels.release=mine",
            "adapter.namespace=adapters",
            "dashboards.namespace=grafana",
            "networkPolicy.from[0]=metrics",
            "networkPolicy.apiServerPorts[0]=7443",
        ]
        .map(str::to_owned),
    );
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let documents = rendered("elsewhere", &values);
    let daemonset = &first(&documents, "DaemonSet")["spec"];
    assert_eq!(daemonset["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    let (pod, container) =
        (&daemonset["template"]["spec"], &daemonset["template"]["spec"]["containers"][0]);
    for container in [container, &pod["initContainers"][0]] {
        assert_eq!(container["image"], "registry.example/observer:v1");
        assert_eq!(container["imagePullPolicy"], "Always");
    }
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    assert_eq!(pod["nodeSelector"]["pool"], "edge");
    assert_eq!(pod["tolerations"], serde_json::json!([{"key": "edge"}]));
    assert_eq!(daemonset["template"]["metadata"]["annotations"]["a"], "b");
    assert_eq!(container["resources"], serde_json::json!({"limits": {"memory": "1Gi"}}));
    let variables = container["env"].as_array().expect("it has an environment");
    for (name, value) in [("OBSERVER_CELLS", "32768"), ("OBSERVER_LOG_FORMAT", "text")] {
        let mut set = variables.iter().filter(|variable| variable["name"] == name);
        assert_eq!(set.next().map(|variable| &variable["value"]), Some(&value.into()));
        assert_eq!(set.next(), None, "{name} is set once");
    }
    // Nothing is where only the defaults would have it.
    let namespaces: BTreeSet<_> = documents
        .iter()
        .filter_map(|document| document["metadata"]["namespace"].as_str())
        .collect();
    assert_eq!(namespaces, BTreeSet::from(["elsewhere", "metrics", "adapters", "grafana"]));
    for document in &documents {
        for subject in document["subjects"].as_array().into_iter().flatten() {
            let expected = if document["kind"] == "RoleBinding" {
                ("scraper", "metrics")
            } else {
                ("observer", "elsewhere")
            };
            assert_eq!(
                (&subject["name"], &subject["namespace"]),
                (&expected.0.into(), &expected.1.into())
            );
        }
    }
    let monitor = first(&documents, "ServiceMonitor");
    assert_eq!(
        monitor["spec"]["namespaceSelector"]["matchNames"],
        serde_json::json!(["elsewhere"])
    );
    assert_eq!(monitor["metadata"]["labels"]["release"], "mine");
    let scrape =
        documents.iter().find(|document| document["metadata"]["name"] == "observer-prometheus");
    let scrape =
        scrape.and_then(|map| map["data"]["scrape.yaml"].as_str()).expect("a configuration");
    assert!(scrape.contains("names: [elsewhere]") && !scrape.contains("names: [observer]"));
    let policy = &first(&documents, "NetworkPolicy")["spec"];
    let from =
        &policy["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"];
    assert_eq!(*from, serde_json::json!(["metrics"]));
    assert_eq!(
        policy["egress"][0]["ports"],
        serde_json::json!([{"protocol": "TCP", "port": 7443}])
    );
}

#[test]
#[ignore = "takes Helm: `cargo xtask test` runs it where Go can build one"]
fn values_that_nothing_reads_are_refused() {
    for wrong in [
        "components.prometheusoperator=true",
        "components.adoption=yes",
        "image.pullPolicy=Sometimes",
        "env.cells=1",
        "maxUnavailable=some",
        "networkPolicy.apiServerPorts[0]=70000",
        "enabled=true",
    ] {
        let output = helm(&chart(), &["template"], &["--kube-version", KUBERNETES, "--set", wrong]);
        assert!(
            !output.status.success() && said(&output).contains("of the schema(s)"),
            "{wrong}: {}",
            said(&output)
        );
    }
}

fn file(name: &str) -> String {
    fs::read_to_string(chart().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The paths of all leaves.
fn leaves(value: &Value, at: &str, leaves: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(object) if !object.is_empty() => {
            for (key, value) in object {
                self::leaves(value, &format!("{at}.{key}"), leaves);
            }
        }
        _ => drop(leaves.insert(at.to_owned())),
    }
}

/// The paths of a schema's leaves.
fn declared(schema: &Value, at: &str, leaves: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            for (key, value) in properties {
                declared(value, &format!("{at}.{key}"), leaves);
            }
        }
        None => drop(leaves.insert(at.to_owned())),
    }
}

#[test]
fn every_value_is_in_the_schema_and_explained() {
    let text = file("values.yaml");
    let values: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let schema: Value = serde_json::from_str(&file("values.schema.json")).expect("it is JSON");
    let (mut known, mut in_schema) = (BTreeSet::new(), BTreeSet::new());
    leaves(&values, "", &mut known);
    declared(&schema, "", &mut in_schema);
    // Helm's own.
    in_schema.remove(".global");
    assert_eq!(known, in_schema);
    // A comment stands over each, or over what they are part of.
    let lines: Vec<_> = text.lines().collect();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.ends_with(": false")) {
        assert!(lines[number - 1].trim_start().starts_with("# "), "{line} is not explained");
    }
    let toggles = values["components"].as_object().expect("there are components").keys().cloned();
    assert_eq!(toggles.collect::<BTreeSet<_>>(), components().into_values().collect());
}

#[test]
fn it_has_the_version_of_the_program() {
    let chart: Value = serde_saphyr::from_str(&file("Chart.yaml")).expect("it is YAML");
    for version in ["version", "appVersion"] {
        assert_eq!(chart[version], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
#[ignore = "takes Helm: `cargo xtask test` runs it where Go can build one"]
fn notes_name_the_next_command_and_the_test_asks_the_service() {
    // Only an install prints them, which takes a cluster: here they are rendered as part of a template.
    let copy = tempfile::tempdir().expect("it can be written");
    let copied = Command::new("cp").arg("-rL").arg(chart()).arg(copy.path()).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let copy = copy.path().join("chart");
    let text = file("templates/NOTES.txt");
    let template = format!(
        "{{{{- define \"notes\" }}}}{text}{{{{ end }}}}\ntext: {{{{ include \"notes\" . | toJson }}}}\n"
    );
    fs::write(copy.join("templates/notes.yaml"), template).expect("it can be written");
    let notes = |more: &[&str]| {
        let after = [
            "--kube-version",
            KUBERNETES,
            "--namespace",
            "somewhere",
            "--show-only",
            "templates/notes.yaml",
        ];
        let output = helm(&copy, &["template", "some-release"], &[&after[..], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).expect("it is text");
        let [rendered] = &serde_saphyr::from_multiple::<Value>(&text).expect("it is YAML")[..]
        else {
            panic!("{text}")
        };
        rendered["text"].as_str().expect("it is text").to_owned()
    };
    let plain = notes(&[]);
    assert!(plain.contains("kubectl rollout status --namespace somewhere daemonset/observer\n"));
    assert!(plain.contains("--set components.prometheusOperator=true\n"), "{plain}");
    let keda = "deploy/examples/keda/websocket-without-prometheus";
    assert!(tools::checkout().join(keda).is_dir() && !plain.contains(keda));
    assert!(notes(&["--api-versions", "keda.sh/v1alpha1"]).contains(keda));
    assert!(
        !notes(&["--set", "components.serviceMonitor=true"]).contains("Nothing scrapes it yet")
    );
    let detach = notes(&["--set", "components.detach=true"]);
    assert!(detach.contains("helm uninstall --namespace somewhere some-release\n"), "{detach}");
    let hooks = |values: &[&str]| {
        let documents = rendered("somewhere", values);
        let tests = documents
            .into_iter()
            .filter(|document| document["metadata"]["annotations"]["helm.sh/hook"] == "test");
        tests.collect::<Vec<_>>()
    };
    let [pod] = &hooks(&[])[..] else { panic!("there is one test") };
    let script = pod["spec"]["containers"][0]["args"][0].as_str().expect("a script");
    for asked in ["9436/readyz", "9436/metrics", "9435/metrics"] {
        assert!(script.contains(&format!("http://observer.somewhere.svc:{asked}")), "{script}");
    }
    let none = hooks(&["components.networkPolicy=true"]);
    assert!(none.is_empty(), "it would not be let through: {none:?}");
}
