//! Leaks: BPF objects that were not there before.

use std::{collections::BTreeMap, fmt, process::Command, time::Duration};

use serde_json::Value;

use super::{lock::require_root, poll::poll};

/// How long the kernel may take to free what nobody refers to any more.
const PATIENCE: Duration = Duration::from_secs(20);

/// One BPF object of this host: its kind as bpftool calls it, and its id.
type Object = (&'static str, u64);

/// All BPF programs, links and maps of this host, with their names, at one time.
#[derive(Clone, Default)]
pub(crate) struct BpfSnapshot(BTreeMap<Object, String>);

impl BpfSnapshot {
    /// Asks the kernel, by way of bpftool.
    pub(crate) fn take() -> Self {
        require_root();
        Self(["prog", "link", "map"].into_iter().flat_map(list).collect())
    }

    /// Waits until all that is new since this snapshot has gone; panics with what stays.
    ///
    /// What has gone since is no leak: an earlier test's objects may have taken their time.
    pub(crate) fn assert_same(&self) {
        let mut previous = self.new_since();
        let mut staying = Self::default();
        poll(PATIENCE, || {
            let now = self.new_since();
            // Seen twice, or else it may be the program that bpftool loads for its listing.
            staying = previous.clone();
            staying.0.retain(|object, _| now.0.contains_key(object));
            previous = now;
            staying.0.is_empty().then_some(())
        })
        .unwrap_or_else(|| panic!("BPF objects stayed behind:\n{staying}"));
    }

    /// What is there now and was not in this snapshot.
    fn new_since(&self) -> Self {
        let mut now = Self::take();
        now.0.retain(|object, _| !self.0.contains_key(object));
        now
    }
}

impl fmt::Display for BpfSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|((kind, id), name)| writeln!(f, "  {kind} {id}: {name}"))
    }
}

fn list(kind: &'static str) -> Vec<(Object, String)> {
    let output = Command::new("bpftool").args(["--json", kind, "show"]).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run bpftool: {error}"));
    let answer = String::from_utf8_lossy(&output.stdout);
    let objects: Vec<Value> = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("bpftool {kind} show: {error}: {answer}"));
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    objects
        .iter()
        .map(|object| {
            let id = object["id"].as_u64().expect("each object has an id");
            ((kind, id), format!("{} {}", text(object, "type"), text(object, "name")))
        })
        .collect()
}
