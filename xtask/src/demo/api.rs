//! As much of an API server as it takes to name the pods of the demo: it lists them, and nothing ever happens to them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pods::{NAMESPACE, Pod};

/// The node of the demo, which need not be this machine.
pub(crate) const NODE: &str = "demo";

/// How long a watch lasts in which nothing happens; then it is begun anew.
const WATCH: Duration = Duration::from_mins(5);

/// The server, until the process ends.
pub(crate) struct Api {
    directory: TempDir,
}

impl Api {
    /// Serves these pods.
    pub(crate) fn serve(pods: &[Pod]) -> Result<Self> {
        let list = Arc::new(list(pods).to_string());
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let directory = tempfile::tempdir()?;
        let server = format!("http://{}", listener.local_addr()?);
        fs::write(config(directory.path()), kubeconfig(&server).to_string())?;
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let list = Arc::clone(&list);
                // Whoever breaks off asks again.
                thread::spawn(move || drop(answer(stream, &list)));
            }
        });
        Ok(Self { directory })
    }

    /// The kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        config(self.directory.path())
    }
}

fn config(directory: &Path) -> PathBuf {
    directory.join("kubeconfig")
}

fn kubeconfig(server: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "demo",
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
        "clusters": [{"name": "demo", "cluster": {"server": server}}],
        "users": [{"name": "demo", "user": {}}],
    })
}

/// Answers one request: by the list, or by a watch without events.
fn answer(mut stream: TcpStream, list: &str) -> Result<()> {
    let mut head = Vec::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let request = head.first().context("a request has a first line")?;
    let kind = "Content-Type: application/json\r\nConnection: close";
    if request.contains("watch=") {
        write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\n\r\n")?;
        thread::sleep(WATCH);
    } else {
        let length = list.len();
        write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{list}")?;
    }
    Ok(())
}

fn list(pods: &[Pod]) -> Value {
    let items: Vec<Value> = pods.iter().map(object).collect();
    json!({
        "apiVersion": "v1",
        "kind": "PodList",
        "metadata": {"resourceVersion": "1"},
        "items": items,
    })
}

/// A pod of a `StatefulSet`, whose pods are numbered.
fn object(pod: &Pod) -> Value {
    let workload = pod.name.rsplit_once('-').map_or(pod.name, |(workload, _)| workload);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": NAMESPACE,
            "uid": pod.uid,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": workload,
                "uid": "0", "controller": true,
            }],
        },
        "spec": {"nodeName": NODE, "containers": [{"name": workload}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": workload, "containerID": format!("containerd://{}", pod.container()),
                "image": "", "imageID": "", "ready": true, "restartCount": 0,
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::metrics;

    #[test]
    fn pods_are_listed_with_their_workload() {
        let pod = Pod::named("chat-0", "u-1", 7);
        let api = Api::serve(&[pod]).unwrap();
        let config: Value =
            serde_json::from_str(&fs::read_to_string(api.kubeconfig()).unwrap()).unwrap();
        let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
        let list = metrics::get(server.trim_start_matches("http://"), "/api/v1/pods").unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        let pod = &list["items"][0];
        assert_eq!(
            (&pod["metadata"]["name"], &pod["metadata"]["uid"]),
            (&json!("chat-0"), &json!("u-1"))
        );
        assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "chat");
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        assert!(id.starts_with("containerd://0") && id.ends_with("07"), "{id}");
    }
}
