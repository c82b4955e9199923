//! A pod as the API server sends it, read no further than names need it.

use std::borrow::Cow;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::Deserialize;

use crate::attribute::{Container, Pod, Workload};

/// A pod with what the watch needs beside it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Received")]
pub(super) struct Object {
    /// Only the resource version.
    meta: ObjectMeta,
    pub(super) pod: Pod,
}

impl Resource for Object {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What is read of a pod's JSON. Everything else is skipped where it stands.
#[derive(Deserialize)]
struct Received {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    uid: String,
    resource_version: Option<String>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Annotations,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Default, Deserialize)]
struct Labels {
    /// Part of the name of a Deployment's `ReplicaSet`.
    #[serde(rename = "pod-template-hash")]
    template_hash: Option<String>,
}

#[derive(Default, Deserialize)]
struct Annotations {
    /// On the API server's image of a pod that the kubelet started from a file.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
    /// Ports, with commas, that do not count for whether the pod's connections can be read.
    #[serde(rename = "observer/readable")]
    readable: Option<String>,
    /// The UID that the kubelet knows such a pod by.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    /// `RUNTIME://ID`.
    #[serde(rename = "containerID", default)]
    container_id: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Default, Deserialize)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
struct Terminated {
    #[serde(rename = "containerID", default)]
    container_id: String,
}

impl From<Received> for Object {
    fn from(received: Received) -> Self {
        let Received { metadata, spec, status } = received;
        let meta = ObjectMeta {
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        let workload = workload(&metadata, &spec.node_name);
        let Metadata { name, uid, annotations, .. } = metadata;
        let readable = annotations.readable.as_deref().map(ports).unwrap_or_default();
        let uid = annotations.mirror.and(annotations.hash).unwrap_or(uid);
        let running = status.phase == "Running";
        let ended = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        let containers = containers(status);
        let pod = Pod { uid, name, workload, running, ended, readable, containers };
        Self { meta, pod }
    }
}

/// The ports of a list; what is none is nothing.
fn ports(list: &str) -> Vec<u16> {
    list.split(',').filter_map(|port| port.trim().parse().ok()).collect()
}

fn containers(status: Status) -> Vec<Container> {
    let statuses = status
        .container_statuses
        .into_iter()
        .chain(status.init_container_statuses)
        .chain(status.ephemeral_container_statuses);
    let mut containers: Vec<Container> = Vec::new();
    for ContainerStatus { name, container_id, state, last_state } in statuses {
        let before = [state, last_state].map(|state| state.terminated.map(|t| t.container_id));
        for id in [Some(container_id)].into_iter().chain(before).flatten() {
            let id = id.rsplit('/').next().unwrap_or_default();
            if !id.is_empty() && containers.iter().all(|known| known.id != id) {
                containers.push(Container { id: id.to_owned(), name: name.clone() });
            }
        }
    }
    containers
}

/// Who looks after the pod: its controller, or that one's own where its name tells.
fn workload(pod: &Metadata, node: &str) -> Workload {
    let of = |kind: &str, name: &str| Workload {
        namespace: pod.namespace.clone(),
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    if pod.annotations.mirror.is_some() {
        // The kubelet adds the node's name; without it, it is the same on all nodes.
        let name = pod.name.strip_suffix(node).and_then(|name| name.strip_suffix('-'));
        return of("StaticPod", name.filter(|_| !node.is_empty()).unwrap_or(&pod.name));
    }
    let Some(owner) = pod.owner_references.iter().find(|owner| owner.controller) else {
        return of("Pod", &pod.name);
    };
    match owner.kind.as_str() {
        "ReplicaSet" => deployment(owner, pod.labels.template_hash.as_deref())
            .map_or_else(|| of("ReplicaSet", &owner.name), |name| of("Deployment", name)),
        "Job" => {
            cron_job(&owner.name).map_or_else(|| of("Job", &owner.name), |name| of("CronJob", name))
        }
        kind => of(kind, &owner.name),
    }
}

/// The Deployment of a `ReplicaSet` `NAME-HASH`; one that was made by hand has no such label on its pods.
fn deployment<'a>(replica_set: &'a Owner, hash: Option<&str>) -> Option<&'a str> {
    replica_set.name.strip_suffix(hash?)?.strip_suffix('-').filter(|name| !name.is_empty())
}

/// The `CronJob` of a Job `NAME-MINUTES`, the time it was due in minutes since 1970: a Job's own name would be another
/// workload every time.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_time = minutes.len() == 8 && minutes.bytes().all(|c| c.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Pod {
        serde_json::from_value::<Object>(value).expect("a pod").pod
    }

    /// Merges `more` over a plain pod.
    fn pod(more: &Value) -> Pod {
        fn merge(into: &mut Value, more: &Value) {
            match (into, more) {
                (Value::Object(into), Value::Object(more)) => {
                    for (key, value) in more {
                        merge(into.entry(key.clone()).or_insert(Value::Null), value);
                    }
                }
                (into, more) => *into = more.clone(),
            }
        }
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "web-7d9c", "namespace": "shop", "uid": "u-1", "resourceVersion": "12" },
            "spec": { "nodeName": "node-1" },
            "status": { "phase": "Running" },
        });
        merge(&mut value, more);
        read(value)
    }

    fn owned(kind: &str, name: &str, labels: &Value) -> (String, String) {
        let other = json!({ "kind": "Other", "name": "x" });
        let owner = json!({ "kind": kind, "name": name, "controller": true });
        let metadata = json!({ "ownerReferences": [other, owner], "labels": labels });
        let workload = pod(&json!({ "metadata": metadata })).workload;
        assert_eq!(workload.namespace, "shop");
        (workload.kind, workload.name)
    }

    #[test]
    fn the_controller_is_the_workload() {
        let none = json!({});
        let hash = json!({ "pod-template-hash": "7d9c" });
        for (kind, name, labels, expected) in [
            ("StatefulSet", "db", &none, ("StatefulSet", "db")),
            ("DaemonSet", "agent", &none, ("DaemonSet", "agent")),
            ("Rollout", "web-7d9c", &none, ("Rollout", "web-7d9c")),
            ("ReplicaSet", "web-7d9c", &hash, ("Deployment", "web")),
            ("ReplicaSet", "a-7d9c-7d9c", &hash, ("Deployment", "a-7d9c")),
            ("ReplicaSet", "web-7d9c", &none, ("ReplicaSet", "web-7d9c")),
            ("ReplicaSet", "7d9c", &hash, ("ReplicaSet", "7d9c")),
            ("ReplicaSet", "-7d9c", &hash, ("ReplicaSet", "-7d9c")),
            ("Job", "report-29391840", &none, ("CronJob", "report")),
            ("Job", "report-2939184", &none, ("Job", "report-2939184")),
            ("Job", "migrate", &none, ("Job", "migrate")),
        ] {
            let (kind, name) = owned(kind, name, labels);
            assert_eq!((kind.as_str(), name.as_str()), expected);
        }
        let bare = pod(&json!({})).workload;
        assert_eq!((bare.kind.as_str(), bare.name.as_str()), ("Pod", "web-7d9c"));
    }

    #[test]
    fn a_static_pod_has_its_hash_for_a_uid() {
        let mirror = json!({ "metadata": {
            "name": "kube-proxy-node-1",
            "annotations": { "kubernetes.io/config.mirror": "f4a1", "kubernetes.io/config.hash": "f4a1" },
            "ownerReferences": [{ "kind": "Node", "name": "node-1", "controller": true }],
        } });
        let found = pod(&mirror);
        assert_eq!(found.uid, "f4a1");
        assert_eq!(
            (found.workload.kind.as_str(), found.workload.name.as_str()),
            ("StaticPod", "kube-proxy")
        );
        let claimed =
            json!({ "metadata": { "annotations": { "kubernetes.io/config.hash": "f4a1" } } });
        assert_eq!(pod(&claimed).uid, "u-1", "only a mirror pod has another UID");
    }

    #[test]
    fn the_phase_tells_whether_it_runs_or_has_ended() {
        for (phase, expected) in [
            ("Pending", (false, false)),
            ("Running", (true, false)),
            ("Succeeded", (false, true)),
            ("Failed", (false, true)),
            ("Unknown", (false, false)),
        ] {
            let pod = pod(&json!({ "status": { "phase": phase } }));
            assert_eq!((pod.running, pod.ended), expected, "{phase}");
        }
    }

    #[test]
    fn an_annotation_names_ports() {
        let annotated = |list: &str| {
            let annotations = json!({ "observer/readable": list });
            pod(&json!({ "metadata": { "annotations": annotations } })).readable
        };
        assert_eq!(annotated("8443, 9443"), [8443, 9443]);
        assert_eq!(annotated("metrics,8443,99999,"), [8443]);
        assert!(pod(&json!({})).readable.is_empty());
    }

    #[test]
    fn containers_of_all_sorts_and_the_ones_before_them() {
        let found = pod(&json!({ "status": {
            "containerStatuses": [
                { "name": "app", "containerID": "containerd://aa3",
                  "lastState": { "terminated": { "containerID": "containerd://aa2", "exitCode": 1 } } },
                { "name": "waiting", "state": { "waiting": { "reason": "ContainerCreating" } } },
                { "name": "crashed", "containerID": "cri-o://cc1", "state": { "terminated": { "containerID": "cri-o://cc1" } } },
            ],
            "initContainerStatuses": [{ "name": "setup", "state": { "terminated": { "containerID": "docker://bb1" } } }],
            "ephemeralContainerStatuses": [{ "name": "debug", "containerID": "containerd://ee1" }],
        } }));
        let names: Vec<(&str, &str)> =
            found.containers.iter().map(|c| (c.id.as_str(), c.name.as_str())).collect();
        assert_eq!(
            names,
            [
                ("aa3", "app"),
                ("aa2", "app"),
                ("cc1", "crashed"),
                ("bb1", "setup"),
                ("ee1", "debug")
            ]
        );
    }

    #[test]
    fn nothing_else_is_kept() {
        let object: Object = serde_json::from_value(json!({
            "metadata": {
                "name": "a", "namespace": "b", "uid": "c", "resourceVersion": "1",
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "SECRET" },
                "labels": { "token": "SECRET" },
                "managedFields": [{ "manager": "SECRET" }],
            },
            "spec": { "containers": [{ "name": "x", "image": "SECRET", "env": [{ "name": "T", "value": "SECRET" }] }] },
            "status": { "phase": "Pending", "message": "SECRET", "podIP": "SECRET" },
        }))
        .expect("a pod");
        assert!(!object.pod.running);
        assert!(!format!("{object:?}").contains("SECRET"), "{object:?}");
    }
}
