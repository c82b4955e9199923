//! Pods as the API server describes them, with much in them that is nobody's business.

use serde_json::{Value, json};

/// Stands wherever a real pod may hold a secret. It must not come out again.
pub(crate) const SECRET: &str = "hunter2-hunter2";

/// A container that has been started.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) name: &'static str,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
}

/// A pod of the test's node.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) uid: String,
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    /// Kind and name of the controller.
    pub(crate) owner: Option<(&'static str, &'static str)>,
    pub(crate) template_hash: Option<&'static str>,
    /// Its annotation `observer/readable`.
    pub(crate) readable: Option<String>,
    /// The manifest's hash, of a static pod.
    pub(crate) manifest: Option<String>,
    pub(crate) running: bool,
    pub(crate) containers: Vec<Started>,
    pub(crate) init_containers: Vec<Started>,
    pub(crate) ephemeral_containers: Vec<Started>,
}

impl Object {
    /// A running pod without started containers.
    pub(crate) fn new(uid: &str, namespace: &'static str, name: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            namespace,
            name: name.to_owned(),
            owner: None,
            template_hash: None,
            readable: None,
            manifest: None,
            running: true,
            containers: Vec::new(),
            init_containers: Vec::new(),
            ephemeral_containers: Vec::new(),
        }
    }

    pub(crate) fn owned_by(mut self, kind: &'static str, name: &'static str) -> Self {
        self.owner = Some((kind, name));
        self
    }

    pub(crate) fn container(mut self, name: &'static str, id: &str) -> Self {
        self.containers.push(Started { name, id: id.to_owned() });
        self
    }

    /// The JSON, at a resource version.
    pub(crate) fn json(&self, node: &str, version: u64) -> Value {
        let secret = json!([{ "name": "PASSWORD", "value": SECRET }]);
        let mut annotations = json!({ "kubectl.kubernetes.io/last-applied-configuration": SECRET });
        if let Some(ports) = &self.readable {
            annotations["observer/readable"] = json!(ports);
        }
        if let Some(hash) = &self.manifest {
            annotations["kubernetes.io/config.mirror"] = json!(hash);
            annotations["kubernetes.io/config.hash"] = json!(hash);
            annotations["kubernetes.io/config.source"] = json!("file");
        }
        let mut labels = json!({ "app": SECRET });
        if let Some(hash) = self.template_hash {
            labels["pod-template-hash"] = json!(hash);
        }
        let owners: Vec<Value> = self
            .owner
            .iter()
            .map(|(kind, name)| {
                json!({ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "0", "controller": true,
                        "blockOwnerDeletion": true })
            })
            .collect();
        let statuses = |containers: &[Started]| -> Vec<Value> {
            containers
                .iter()
                .map(|Started { name, id }| {
                    json!({ "name": name, "containerID": format!("containerd://{id}"), "ready": true,
                            "restartCount": 0, "image": "i", "imageID": "i",
                            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } }, "lastState": {} })
                })
                .collect()
        };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "resourceVersion": version.to_string(),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": owners,
                "managedFields": [{ "manager": SECRET, "operation": "Update", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": {
                "nodeName": node,
                "containers": [{ "name": "app", "image": "i", "env": secret, "command": [SECRET] }],
            },
            "status": {
                "phase": if self.running { "Running" } else { "Pending" },
                "message": SECRET,
                "podIP": "192.0.2.1",
                "containerStatuses": statuses(&self.containers),
                "initContainerStatuses": statuses(&self.init_containers),
                "ephemeralContainerStatuses": statuses(&self.ephemeral_containers),
            },
        })
    }
}
