//! The commands of `docs/kubernetes.md`, run literally with programs in place of kubectl and helm that keep what they are asked,
//! and make of a directory what a cluster would get.

use std::{collections::BTreeSet, env, fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use super::{documents, tools};

/// Keeps its arguments, and what kustomize makes of the directory that is applied.
const KUBECTL: &str = r#"#!/bin/sh -e
echo "kubectl $*" >> "$HERE/asked"
if [ "$1 $2" = "apply --kustomize" ]; then
    [ $# -eq 3 ]
    "$KUSTOMIZE" build "$3" > "$HERE/applied-$(wc -l < "$HERE/asked")"
fi
"#;
/// Keeps its arguments.
const OTHER: &str = "#!/bin/sh -e\necho \"$(basename \"$0\") $*\" >> \"$HERE/asked\"\n";

/// The blocks of commands, in the order of the page.
fn blocks() -> Vec<String> {
    let page = fs::read_to_string(tools::checkout().join("docs/kubernetes.md"));
    let page = page.expect("it is there");
    let blocks: Vec<_> =
        page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    blocks.into_iter().map(str::to_owned).collect()
}

/// Runs a block as a reader would, in the checkout; what was asked, and the objects that were applied, command by command.
fn run(block: &str) -> (Vec<String>, Vec<Vec<Value>>) {
    let here = TempDir::new().expect("a directory");
    for (name, text) in [("kubectl", KUBECTL), ("helm", OTHER), ("cargo", OTHER)] {
        let program = here.path().join(name);
        fs::write(&program, text).expect("it is ours");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let path = env::var("PATH").expect("there is one");
    let kustomize = tools::program("kustomize");
    let kustomize = if kustomize.is_file() {
        kustomize.canonicalize().expect("it is there")
    } else {
        kustomize
    };
    let mut shell = Command::new("sh");
    shell.args(["-euc", block]).current_dir(tools::checkout()).env("HERE", here.path());
    shell.env("PATH", format!("{}:{path}", here.path().display())).env("KUSTOMIZE", kustomize);
    let output = shell.output().expect("there is a shell");
    assert!(output.status.success(), "{block}: {}", String::from_utf8_lossy(&output.stderr));
    let asked = fs::read_to_string(here.path().join("asked")).unwrap_or_default();
    let applied = |number: usize| {
        let file = here.path().join(format!("applied-{number}"));
        file.is_file().then(|| documents(&fs::read_to_string(file).expect("it is ours")))
    };
    let applied = (1..=asked.lines().count()).filter_map(applied).collect();
    (asked.lines().map(str::to_owned).collect(), applied)
}

/// Kind, namespace and name.
fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// What a block leads to in an empty cluster. What is applied has its namespace before, and is one of its own: no command takes
/// away what another has brought.
fn objects(block: &str) -> BTreeSet<(String, String, String)> {
    let (asked, applied) = run(block);
    let mut namespaces: BTreeSet<String> = ["default", "kube-system"].map(str::to_owned).into();
    let mut all = BTreeSet::new();
    for objects in applied {
        let made = objects.iter().filter(|object| object["kind"] == "Namespace");
        namespaces.extend(made.map(|object| key(object).2));
        for object in &objects {
            let (kind, namespace, name) = key(object);
            assert!(
                namespace.is_empty() || namespaces.contains(&namespace),
                "{kind} {name} in {namespace}"
            );
            assert!(all.insert((kind, namespace, name)), "{object}");
        }
    }
    // What is looked at is there.
    for command in asked.iter().filter(|command| command.contains("--namespace")) {
        let words: Vec<_> = command.split(' ').collect();
        let after =
            |option: &str| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
        let namespace = after("--namespace").expect("it has one");
        let rollout = words.iter().find_map(|word| word.split_once('/'));
        let looked_at = match (words[0], words[1], rollout) {
            ("kubectl", "rollout", Some((kind, name))) => Some((kind, name)),
            ("kubectl", "get" | "describe", _) => Some((words[2], words[words.len() - 1])),
            _ => None,
        };
        if let Some((kind, name)) = looked_at {
            let kind = if kind == "hpa" { "horizontalpodautoscaler" } else { kind };
            let there = all.iter().any(|(of, within, called)| {
                of.eq_ignore_ascii_case(kind) && within == namespace && called == name
            });
            assert!(there, "{command}");
        }
    }
    all
}

#[test]
fn the_commands_of_the_page_lead_from_an_empty_cluster_to_an_autoscaler() {
    let mut autoscalers = BTreeSet::new();
    let mut helm = 0;
    for block in blocks() {
        let kinds = objects(&block).into_iter().map(|(kind, ..)| kind);
        let kinds: BTreeSet<_> = kinds.collect();
        if block.contains("helm ") {
            helm += 1;
            let chart = "deploy/chart";
            assert!(
                block.contains(chart) && tools::checkout().join(chart).join("Chart.yaml").is_file()
            );
        } else {
            assert!(kinds.contains("DaemonSet"), "{block}");
        }
        let ours = ["HorizontalPodAutoscaler", "ScaledObject"].map(str::to_owned);
        autoscalers.extend(kinds.intersection(&ours.into()).cloned());
    }
    assert_eq!(
        autoscalers,
        BTreeSet::from(["HorizontalPodAutoscaler", "ScaledObject"].map(str::to_owned))
    );
    assert_eq!(helm, 1, "the blocks are not found any more");
}

/// What the page says that it takes: every directory that a command of the page or of deploy/README.md names is there.
#[test]
fn directories_that_commands_name_are_there() {
    let mut named = 0;
    for page in ["README.md", "docs/kubernetes.md", "docs/running.md", "deploy/README.md"] {
        let text = fs::read_to_string(tools::checkout().join(page)).expect("it is there");
        for rest in text.split("--kustomize ").skip(1) {
            let path =
                rest.split(|c: char| c.is_whitespace() || c == '`').next().unwrap_or_default();
            let directory = tools::checkout().join(path);
            let is_kustomization = directory.join("kustomization.yaml").is_file();
            assert!(path == "." || is_kustomization, "{page}: {path}");
            named += usize::from(path != ".");
        }
    }
    assert!(named > 5, "the commands are not found any more");
}
