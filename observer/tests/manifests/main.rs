//! The manifests of `deploy/`, as kustomize renders them and as the schemas of Kubernetes judge them.

mod cluster;
mod commands;
#[path = "../support/judge.rs"]
mod judge;
mod scaling;
#[path = "../support/tools.rs"]
mod tools;

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::CommandFactory as _;
use judge::validate;
use observer::cli::Cli;
use serde_json::Value;

const BASE: &str = "base";
/// Each is for itself: what scales a workload, or what a cluster needs for that.
const EXAMPLES: [&str; 10] = [
    "examples/hpa/grpc",
    "examples/hpa/websocket",
    "examples/hpa/websocket-fast",
    "examples/hpa/websocket-with-cpu",
    "examples/keda/grpc",
    "examples/keda/grpc-without-prometheus",
    "examples/keda/websocket",
    "examples/keda/websocket-without-prometheus",
    "examples/prometheus",
    "examples/prometheus-adapter",
];

/// The directories of components.
fn components() -> Vec<String> {
    let directory = fs::read_dir(tools::checkout().join("deploy/components"));
    let entries = directory.expect("there are components").flatten();
    let names = entries.map(|entry| entry.file_name().display().to_string());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    names
}

/// The documents of a rendered file.
fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("kustomize renders YAML")
}

fn everything() -> String {
    let components = components();
    let components: Vec<_> = components.iter().map(String::as_str).collect();
    let examples = EXAMPLES.map(|example| tools::render(&[example], &[]));
    [&[tools::render(&[BASE], &components)], &examples[..]].concat().join("\n---\n")
}

fn kinds(documents: &[Value]) -> BTreeSet<&str> {
    documents.iter().filter_map(|document| document["kind"].as_str()).collect()
}

#[test]
fn each_component_renders_alone_and_with_the_others() {
    let base = documents(&tools::render(&[BASE], &[]));
    let mut all = base.len();
    for example in EXAMPLES {
        all += documents(&tools::render(&[example], &[])).len();
    }
    for component in components() {
        let alone = documents(&tools::render(&[], &[&component]));
        let with_base = documents(&tools::render(&[BASE], &[&component]));
        assert_eq!(with_base.len(), base.len() + alone.len(), "{component}");
        // One that adds no object changes one.
        assert_eq!(alone.is_empty(), with_base != base && with_base.len() == base.len());
        all += alone.len();
    }
    assert_eq!(documents(&everything()).len(), all);
}

#[test]
fn the_schemas_of_the_last_four_versions_accept_every_object() {
    let verdict = validate(&everything());
    let complaint = String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success(), "{complaint}");
    let said = String::from_utf8(verdict.stdout).expect("it is text");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0].split(' ').count(), 4, "{said}");
    // What others define has no schema there.
    assert_eq!(lines[1], "PodMonitor PrometheusRule ScaledObject ServiceMonitor");
}

#[test]
fn the_judge_refuses_what_is_misspelt() {
    let wrong = everything().replace("readOnlyRootFilesystem", "readonlyRootFilesystem");
    let verdict = validate(&wrong);
    let complaint = String::from_utf8_lossy(&verdict.stderr);
    assert!(complaint.contains("DaemonSet observer"), "{complaint}");
}

fn daemonset(components: &[&str]) -> Value {
    let all = documents(&tools::render(&[BASE], components));
    all.into_iter().find(|document| document["kind"] == "DaemonSet").expect("there is one")
}

#[test]
fn the_daemonset_asks_for_no_more_than_it_says() {
    let spec = &daemonset(&[])["spec"]["template"]["spec"];
    for privilege in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(spec[privilege].is_null(), "{privilege}");
    }
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &spec["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    for mount in container["volumeMounts"].as_array().expect("there are mounts") {
        let written = mount["name"] == "bpf" || mount["name"] == "run";
        assert_eq!(mount["readOnly"] == true, !written, "{mount}");
    }
    for kind in ["requests", "limits"] {
        for resource in ["cpu", "memory"] {
            assert!(container["resources"][kind][resource].is_string(), "{kind} {resource}");
        }
    }
    let version = format!("observer:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container["image"], version.as_str());
}

#[test]
fn the_daemonset_sets_only_variables_that_the_program_knows() {
    let command = Cli::command();
    let run = command.find_subcommand("run").expect("there is a command run");
    let known: BTreeSet<_> = run
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
        .collect();
    let daemonset = daemonset(&[]);
    let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().expect("it has an environment");
    for variable in variables {
        let name = variable["name"].as_str().expect("each has a name");
        assert!(known.contains(name), "{name} is no option of the program");
    }
    // The ports that it names are those on which it listens.
    let listens = |name: &str| {
        let variable = variables.iter().find(|variable| variable["name"] == name);
        let value = variable.and_then(|variable| variable["value"].as_str()).expect("it is set");
        value.rsplit_once(':').expect("an address with a port").1.parse::<u64>().expect("a port")
    };
    let ports = &container["ports"];
    assert_eq!((&ports[0]["name"], &ports[1]["name"]), (&"metrics".into(), &"self-metrics".into()));
    assert_eq!(ports[0]["containerPort"], listens("OBSERVER_LISTEN"));
    assert_eq!(ports[1]["containerPort"], listens("OBSERVER_SELF_LISTEN"));
}

#[test]
fn the_component_for_removal_lets_go_of_what_the_base_pins() {
    let pinned = |components: &[&str], containers: &str| {
        let daemonset = daemonset(components);
        let variables = &daemonset["spec"]["template"]["spec"][containers][0]["env"];
        let mut variables = variables.as_array().into_iter().flatten();
        let variable = variables.find(|variable| variable["name"] == "OBSERVER_PIN");
        variable.map(|variable| variable["value"].clone())
    };
    let directory = pinned(&[], "containers");
    assert!(directory.is_some());
    assert_eq!(pinned(&["detach"], "initContainers"), directory);
    assert_eq!(pinned(&["detach"], "containers"), None);
}

#[test]
fn the_role_lets_it_read_pods_and_nothing_else() {
    let base = documents(&tools::render(&[BASE], &[]));
    let roles: Vec<_> = base.iter().filter(|document| document["kind"] == "ClusterRole").collect();
    let [role] = roles[..] else { panic!("{:?}", kinds(&base)) };
    let expected = serde_json::json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]);
    assert_eq!(role["rules"], expected);
}

fn file(path: &str) -> String {
    let path: PathBuf = tools::checkout().join("deploy").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_operator_gets_the_same_rules_as_a_plain_prometheus() {
    for rules in ["rules.yaml", "alerts.yaml"] {
        let plain = documents(&file(&format!("components/prometheus/{rules}")));
        let operator = documents(&file(&format!("components/prometheus-operator/{rules}")));
        assert_eq!(operator[0]["spec"], plain[0]);
    }
}

/// The lines of a file that are a comment from `key` on, without the `#`.
fn commented(text: &str, key: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    let comment = lines.filter_map(|line| line.strip_prefix("# "));
    let from = comment.skip_while(|line| !line.starts_with(key));
    let block = from.take_while(|line| line.starts_with(key) || line.starts_with(' '));
    block.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn both_scrapers_have_a_limit_and_the_same_proposals() {
    let operator = file("components/prometheus-operator/pod-monitors.yaml");
    let plain = file("components/prometheus/scrape.yaml");
    let (monitors, jobs) = (documents(&operator), documents(&plain));
    let (monitor, job) = (&monitors[0]["spec"], &jobs[0]["scrape_configs"][0]);
    assert_eq!(monitor["sampleLimit"], job["sample_limit"]);
    assert!(monitor["sampleLimit"].as_u64() > Some(10_000), "{monitor}");
    let proposals = |text: &str, key: &str| {
        let [block] = &documents(&commented(text, key))[..] else { panic!("no {key} in {text}") };
        block[key].as_array().expect("a list").clone()
    };
    let (theirs, ours) =
        (proposals(&operator, "metricRelabelings"), proposals(&plain, "metric_relabel_configs"));
    assert_eq!(theirs.len(), ours.len());
    for (one, other) in theirs.iter().zip(&ours) {
        let same = [("sourceLabels", "source_labels"), ("regex", "regex"), ("action", "action")];
        for (camel, snake) in same {
            assert_eq!(one[camel], other[snake], "{camel}");
        }
    }
}
