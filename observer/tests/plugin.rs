//! `kubectl observer`: which observers it asks for what. A `kubectl` of the test's own answers, and keeps what it was asked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// Answers as a cluster of these agents, in which each pod is on `node-b`; what runs in an agent prints two lines.
const KUBECTL: &str = r#"#!/bin/sh
echo "$*" >> "$HERE/asked"
case "$*" in
"get pods "*spec.nodeName=node-b*) echo "node-b observer-b" ;;
"get pods "*spec.nodeName=*) ;;
"get pods "*) cat "$HERE/agents" ;;
"get pod "*" gone "*) echo "pods \"gone\" not found" >&2; exit 1 ;;
"get pod "*) echo node-b ;;
"exec "*observer-c*) echo "bad"; exit 1 ;;
"exec "*) printf 'one\ntwo\n' ;;
esac
"#;

struct Cluster(TempDir);

impl Cluster {
    fn new(agents: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let kubectl = directory.path().join("kubectl");
        fs::write(&kubectl, KUBECTL).expect("it is ours");
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::write(directory.path().join("agents"), agents).expect("it is ours");
        Self(directory)
    }

    /// Runs the plugin: its exit code, what it prints and says, and what it had `kubectl exec` run.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String, Vec<String>) {
        let here = self.0.path();
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubectl-observer");
        let asked = here.join("asked");
        fs::write(&asked, "").expect("it is ours");
        let run = Command::new("sh")
            .arg(plugin)
            .args(args)
            .env("KUBECTL", here.join("kubectl"))
            .env("HERE", here)
            .env_remove("OBSERVER_NAMESPACE")
            .output();
        let Output { status, stdout, stderr } = run.expect("there is a shell");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let asked = fs::read_to_string(asked).expect("it is ours");
        let ran = asked.lines().filter(|line| line.starts_with("exec ")).map(str::to_owned);
        (status.code(), text(stdout), text(stderr), ran.collect())
    }
}

const TWO: &str = "node-a observer-a\nnode-b observer-b\n";

#[test]
fn the_observer_of_a_pods_node_is_asked() {
    let cluster = Cluster::new(TWO);
    let (code, out, _, ran) = cluster.run(&["ps", "--of", "shop/chat-0", "--", "--sort", "idle"]);
    assert_eq!((code, out.as_str()), (Some(0), "one\ntwo\n"));
    let options = "--namespace shop --pod chat-0 --sort idle";
    assert_eq!(ran, [format!("exec --namespace observer observer-b -- /observer ps {options}")]);
    let (_, _, _, ran) = cluster.run(&["doctor", "--of", "chat-0"]);
    assert_eq!(ran, ["exec --namespace observer observer-b -- /observer doctor"]);
    let (code, _, error, ran) = cluster.run(&["ps", "--of", "shop/gone"]);
    assert_eq!((code, ran.len()), (Some(1), 0));
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn all_observers_are_asked_in_turn_and_followed_at_once() {
    let cluster = Cluster::new(TWO);
    let (code, out, _, ran) = cluster.run(&["doctor"]);
    assert_eq!((code, ran.len()), (Some(0), 2));
    assert_eq!(out, "== node-a\none\ntwo\n== node-b\none\ntwo\n");
    let (code, out, _, mut ran) = cluster.run(&["tail", "--", "--protocol", "websocket"]);
    assert_eq!(code, Some(0));
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "one", "two", "two"]);
    ran.sort();
    let each = ["observer-a", "observer-b"].map(|agent| {
        format!("exec --namespace observer {agent} -- /observer tail --protocol websocket")
    });
    assert_eq!(ran, each);
    // One that complains is heard.
    let (code, ..) = Cluster::new("node-a observer-a\nnode-c observer-c\n").run(&["doctor"]);
    assert_eq!(code, Some(1));
}

#[test]
fn what_cannot_be_is_said() {
    let cluster = Cluster::new(TWO);
    let (code, _, error, ran) = cluster.run(&["top"]);
    assert_eq!((code, ran.len()), (Some(1), 0));
    assert!(error.contains("node-a node-b"), "{error}");
    let (code, _, _, ran) = cluster.run(&["top", "--on", "node-b", "--", "--once"]);
    assert_eq!((code, ran.len()), (Some(0), 1));
    let (code, _, error, _) = cluster.run(&["ps", "--on", "node-z"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("no observer runs on node-z"), "{error}");
    let (code, _, error, _) = cluster.run(&["dance"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("COMMAND"), "{error}");
    let (code, help, ..) = cluster.run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("--of"), "{help}");
}
