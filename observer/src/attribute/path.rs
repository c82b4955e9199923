//! Who lives at a cgroup path: a Kubernetes pod, a container, a systemd unit, or just a cgroup.
//!
//! Container runtimes and service managers write what they run into the name of its cgroup:
//!
//! | who | shape of the path |
//! |---|---|
//! | kubelet, systemd driver | `…/[ROOT-]kubepods[-QOS]-podUID.slice/PREFIX-ID.scope`, `-` in the UID as `_` |
//! | kubelet, cgroupfs driver | `…/kubepods[/QOS]/podUID/[PREFIX-]ID` |
//! | kubelet and runtime disagree | `…/kubepods[-QOS]-podUID.slice:PREFIX:ID` |
//! | Docker | `…/docker-ID.scope`, `/docker/ID`, builds `/docker/buildkit/ID` |
//! | Podman | `…/libpod-ID.scope/container`, `/libpod_parent/libpod-ID`, `…/x.service/libpod-payload-ID` |
//! | containerd, nerdctl | `/NAMESPACE/ID`, `…/nerdctl-ID.scope`, `…/cri-containerd-ID.scope` |
//! | LXC | `/lxc.payload.NAME`, `/lxc/NAME` |
//! | nspawn, libvirt | `/machine.slice/systemd-nspawn@NAME.service`, `/machine.slice/machine-NAME.scope` |
//! | systemd | `/system.slice/x.service`, `/user.slice/…/user@1000.service/app.slice/x.service` |
//!
//! These nest: kind runs a kubelet in a container, a container runs systemd. A pod beats a
//! container, a container beats a unit, and among equals the innermost wins; whatever lies below a
//! container and is none itself belongs to it. A container that may write to its own cgroup can
//! therefore claim to be another pod: names are for reading, not for access control.

use super::{Identity, Kind};

/// Longest label value in bytes: that of a Kubernetes object name.
const MAX_LABEL: usize = 253;

/// How much of a container id is shown, as the runtimes' own tools do.
const SHORT_ID: usize = 12;

/// Tells whose cgroup `path` is, `path` being relative to the root of the cgroup-v2 hierarchy, with
/// or without a leading `/`.
///
/// Total: any string has an identity. Different paths may have the same one.
pub fn identify(path: &str) -> Identity {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    pod(&parts).or_else(|| container(&parts)).or_else(|| unit(&parts)).unwrap_or_else(|| {
        named(Kind::Cgroup, "cgroup", &keep_end(&format!("/{}", parts.join("/"))))
    })
}

/// The innermost pod, and the first container below it.
fn pod(parts: &[&str]) -> Option<Identity> {
    let (at, uid) = (0..parts.len()).rev().find_map(|at| Some((at, pod_uid(&parts[..=at])?)))?;
    // In `podUID.slice:PREFIX:ID` the pod and its container share a component.
    let id = parts[at..].iter().find_map(|part| runtime_and_id(part, "")).map(|(_, id)| id);
    Some(Identity {
        container: id.map(short).unwrap_or_default(),
        pod_uid: Some(uid.clone()),
        container_id: id.map(str::to_owned),
        ..named(Kind::Pod, "", &uid)
    })
}

/// The UID in the last of `parts`, dashed, if that component is a pod's.
fn pod_uid(parts: &[&str]) -> Option<String> {
    let (last, parents) = parts.split_last()?;
    let component = last.split_once(':').map_or(*last, |(slice, _)| slice);
    let uid = match component.strip_suffix(SLICE) {
        Some(slice) => systemd_uid(slice),
        None => cgroupfs_uid(component, parents),
    }?;
    // Mostly hex digits, but a static pod's manifest may set any UID.
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let has_name = uid.contains(|c: char| c.is_ascii_alphanumeric());
    (has_name && uid.len() <= MAX_LABEL && uid.chars().all(plausible)).then_some(uid)
}

/// The UID in the name of a pod's slice: all its parents stand in there.
fn systemd_uid(slice: &str) -> Option<String> {
    let (parent, uid) = slice.rsplit_once("-pod")?;
    let level = QOS.iter().find_map(|qos| parent.strip_suffix(qos)?.strip_suffix('-'));
    let in_kubepods = level.unwrap_or(parent).rsplit('-').next() == Some("kubepods");
    in_kubepods.then(|| unescape(uid).replace('_', "-"))
}

/// The UID in the name of a pod's cgroup without systemd.
fn cgroupfs_uid(component: &str, parents: &[&str]) -> Option<String> {
    let uid = component.strip_prefix("pod")?;
    let level = match parents {
        [level @ .., qos] if QOS.contains(qos) => level,
        _ => parents,
    };
    // Cut off from its root, a path may lack `kubepods`; then only a real UID will do.
    (level.last() == Some(&"kubepods") || is_uuid(uid)).then(|| uid.to_owned())
}

/// The classes of service the kubelet sorts pods by; guaranteed pods have no level of their own.
const QOS: [&str; 2] = ["burstable", "besteffort"];

/// Whether `uid` looks like `8-4-4-4-12` hex digits.
fn is_uuid(uid: &str) -> bool {
    uid.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && uid.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit())
}

/// The innermost container.
fn container(parts: &[&str]) -> Option<Identity> {
    (0..parts.len()).rev().find_map(|at| {
        let parent = at.checked_sub(1).map_or("", |above| parts[above]);
        if let Some((runtime, id)) = runtime_and_id(parts[at], parent) {
            let id = keep_start(id);
            return Some(Identity {
                container_id: Some(id.to_owned()),
                ..named(Kind::Container, runtime, &short(id))
            });
        }
        let (runtime, name) = match parent {
            // containerd's namespaces stand at the root, and its users choose the ids.
            "default" if at == 1 => ("containerd", parts[at].to_owned()),
            _ => lxc(parts[at], parent)
                .map(|name| ("lxc", name.to_owned()))
                .or_else(|| Some(("machine", machine(parts[at], parent)?)))?,
        };
        let named = named(Kind::Container, runtime, &name);
        Some(Identity { container_id: Some(named.pod.clone()), ..named })
    })
}

/// The runtime and container id that `component`, a child of `parent`, is named after.
fn runtime_and_id<'a>(component: &'a str, parent: &str) -> Option<(&'static str, &'a str)> {
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = match stem.rfind(['-', ':', '_']) {
        Some(at) => (&stem[..at], &stem[at + 1..]),
        None => ("", stem),
    };
    let prefix = prefix.rsplit(':').next().unwrap_or_default();
    let runtime = match (prefix, parent) {
        ("docker", _) | ("", "docker" | "buildkit") => "docker",
        ("libpod" | "libpod-conmon" | "libpod-payload", _) | ("", "libpod_parent") => "podman",
        ("cri-containerd" | "nerdctl", _) | ("", "default" | "k8s.io") => "containerd",
        ("crio" | "crio-conmon", _) => "crio",
        // Nothing else is called by 64 hex digits: a cgroup parent of the user's choice, or a
        // runtime we have not met.
        _ => return is_hash(id).then_some(("container", id)),
    };
    is_id(id).then_some((runtime, id))
}

/// Whether `id` is 64 hex digits, as nearly all runtimes make them.
fn is_hash(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Whether a runtime we know may have made up `id`: besides hashes there is base 36, for builds. No
/// mere word passes.
fn is_id(id: &str) -> bool {
    let base36 = |c: u8| c.is_ascii_digit() || c.is_ascii_lowercase();
    let long = id.len() >= SHORT_ID && id.bytes().all(base36);
    is_hash(id) || long && id.contains(|c: char| c.is_ascii_digit())
}

/// The name of an LXC container.
fn lxc<'a>(component: &'a str, parent: &str) -> Option<&'a str> {
    if matches!(parent, "lxc" | "lxc.payload" | "lxc.monitor") {
        return Some(component);
    }
    let name = component.strip_prefix("lxc.payload.").or(component.strip_prefix("lxc.monitor."))?;
    (!name.is_empty()).then_some(name)
}

/// The name of a container or virtual machine that systemd-machined looks after.
fn machine(component: &str, parent: &str) -> Option<String> {
    let name = if let Some(service) = component.strip_suffix(".service") {
        service.strip_prefix("systemd-nspawn@").or(service.strip_prefix("systemd-vmspawn@"))?
    } else {
        parent.strip_suffix(SLICE).filter(|slice| slice.starts_with("machine"))?;
        let scope = component.strip_suffix(".scope")?;
        scope.strip_prefix("machine-").unwrap_or(scope)
    };
    (!name.is_empty()).then(|| unescape(name))
}

/// How the names of systemd's inner nodes end.
const SLICE: &str = ".slice";

/// The innermost systemd unit that runs something, or the slice if the path ends in one.
fn unit(parts: &[&str]) -> Option<Identity> {
    let units: Vec<&str> = parts.iter().copied().filter(|part| is_unit(part)).collect();
    let name = match units[..] {
        // A user's systemd keeps its own processes there: not to be mistaken for the host's.
        [.., manager, "init.scope"] => manager,
        [.., unit] => unit,
        [] => parts.last().filter(|last| last.len() > SLICE.len() && last.ends_with(SLICE))?,
    };
    // systemd puts `_` before a name that would clash with a file of the cgroup file system.
    let name = unescape(name.strip_prefix('_').unwrap_or(name));
    Some(named(Kind::Unit, "systemd", &name))
}

/// Whether `component` is named like a unit of a type that has processes.
fn is_unit(component: &str) -> bool {
    component.rsplit_once('.').is_some_and(|(name, kind)| {
        !name.is_empty() && matches!(kind, "service" | "scope" | "socket" | "mount" | "swap")
    })
}

/// Undoes systemd's `\xNN`. A name that would not be printable text stays as it is.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let [b'\\', b'x', high, low, tail @ ..] = rest
            && let Some((high, low)) = hex(*high).zip(hex(*low))
        {
            bytes.push(high << 4 | low);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
    text.unwrap_or_else(|| name.to_owned())
}

/// The value of a hex digit.
fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// An identity with these two names, `pod` cut to the length of a label, and no others.
fn named(kind: Kind, namespace: &str, pod: &str) -> Identity {
    Identity {
        kind,
        namespace: namespace.to_owned(),
        pod: keep_start(pod).to_owned(),
        container: String::new(),
        pod_uid: None,
        container_id: None,
        workload: None,
    }
}

/// The first characters of a container id.
fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

/// `name`, cut at its end to the length of a label.
fn keep_start(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_LABEL)]
}

/// `path`, cut at its start to the length of a label: the last components tell the most.
fn keep_end(path: &str) -> String {
    const CUT: &str = "…";
    if path.len() <= MAX_LABEL {
        return path.to_owned();
    }
    let at = path.ceil_char_boundary(path.len() + CUT.len() - MAX_LABEL);
    format!("{CUT}{}", &path[at..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A container's id, that of another one around or beside it, the UIDs of two pods.
    const ID: &str = "3f4e1a5b9c7d2e8f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7";
    const ID2: &str = "b05c9e2d7f1a4836b05c9e2d7f1a4836b05c9e2d7f1a4836b05c9e2d7f1a4836";
    const SHORT: &str = "3f4e1a5b9c7d";
    const UID: &str = "57e67067-89e4-4001-bdd4-8632d39ea02b";
    const HASH: &str = "f4a1b2c3d4e5f60718293a4b5c6d7e8f";

    /// A path with `{id}`, `{id2}`, `{uid}`, `{_uid}` (as systemd's driver writes it), `{hash}`
    /// filled in.
    fn fill(template: &str) -> String {
        template
            .replace("{id}", ID)
            .replace("{id2}", ID2)
            .replace("{uid}", UID)
            .replace("{_uid}", &UID.replace('-', "_"))
            .replace("{hash}", HASH)
    }

    #[test]
    fn containers_of_pods() {
        for template in [
            // The kubelet's systemd driver: burstable, best effort, guaranteed; each runtime.
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/crio-{id}.scope",
            "/kubepods.slice/kubepods-pod{_uid}.slice/docker-{id}.scope",
            // Without the leading slash; UIDs escaped the other way, or not at all.
            "kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
            r"/kubepods.slice/kubepods-pod57e67067\x2d89e4\x2d4001\x2dbdd4\x2d8632d39ea02b.slice/docker-{id}.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/docker-{id}.scope",
            // CRI-O: crun's own child, the dropped infra container, the monitor.
            "/kubepods.slice/kubepods-pod{_uid}.slice/crio-{id}.scope/container",
            "/kubepods.slice/kubepods-pod{_uid}.slice/crio-{id}",
            "/kubepods.slice/kubepods-pod{_uid}.slice/crio-conmon-{id}.scope",
            // The cgroupfs driver.
            "/kubepods/burstable/pod{uid}/{id}",
            "/kubepods/besteffort/pod{uid}/crio-{id}",
            "/kubepods/pod{uid}/{id}",
            "/kubepods/burstable/pod{uid}/crio-conmon-{id}",
            "/kubepods/burstable/pod{uid}/kata_{id}",
            // kubelet on systemd, containerd on cgroupfs.
            "/kubepods-besteffort-pod{_uid}.slice:cri-containerd:{id}",
            "/system.slice/containerd.service/kubepods-burstable-pod{_uid}.slice:cri-containerd:{id}",
            // A kubelet in a container: kind with either driver, rootless, minikube, k3d; k3s.
            "/docker/{id2}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope",
            "/docker/{id2}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
            "/system.slice/docker-{id2}.scope/kubelet/kubepods/besteffort/pod{uid}/{id}",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{id2}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
            "/machine.slice/libpod-{id2}.scope/container/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
            "/machine.slice/libpod-{id2}.scope/kubepods.slice/kubepods-pod{_uid}.slice/crio-{id}.scope",
            "/docker/{id2}/kubepods/burstable/pod{uid}/{id}",
            "/lxc.payload.node1/kubepods/burstable/pod{uid}/{id}",
            "/system.slice/k3s.service/kubepods/burstable/pod{uid}/{id}",
            "/my_root.slice/my_root-kubepods.slice/my_root-kubepods-pod{_uid}.slice/docker-{id}.scope",
            // A cluster in a pod: the inner pod.
            "/kubepods/burstable/podaaaaaaaa-89e4-4001-bdd4-8632d39ea02b/{id2}/kubelet/kubepods/burstable/pod{uid}/{id}",
            // Cut off by a cgroup namespace.
            "/../../pod{uid}/{id}",
            // What a container keeps inside is the container's: systemd, an init group, Docker.
            "/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope/system.slice/nginx.service",
            "/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope/init.scope",
            "/kubepods/burstable/pod{uid}/{id}/init",
            "/kubepods/burstable/pod{uid}/{id}/docker/{id2}",
            "/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope/system.slice/docker-{id2}.scope",
        ] {
            let expected = Identity {
                kind: Kind::Pod,
                namespace: String::new(),
                pod: UID.to_owned(),
                container: SHORT.to_owned(),
                pod_uid: Some(UID.to_owned()),
                container_id: Some(ID.to_owned()),
                workload: None,
            };
            assert_eq!(identify(&fill(template)), expected, "{template}");
        }
    }

    #[test]
    fn pods_without_a_container() {
        for (template, uid) in [
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice", UID),
            ("/kubepods/pod{uid}", UID),
            ("/kubepods/pod{uid}/init", UID),
            // Static pods: the hash of the manifest, or what the manifest says.
            ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice", HASH),
            ("/kubepods/burstable/pod{hash}", HASH),
            ("/kubepods.slice/kubepods-podmy_pod_1.slice", "my-pod-1"),
            ("/kubepods/podkube-proxy.node-1", "kube-proxy.node-1"),
        ] {
            let expected = Identity { pod_uid: Some(uid.to_owned()), ..named(Kind::Pod, "", uid) };
            assert_eq!(identify(&fill(template)), expected, "{template}");
        }
    }

    #[test]
    fn containers_outside_kubernetes() {
        let docker = [
            "/docker/{id}",
            "/system.slice/docker-{id}.scope",
            "/batch.slice/docker-{id}.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{id}.scope",
            "/docker/buildkit/{id}",
            // Nodes of kind and systemd in a container: all that is no pod is the container.
            "/docker/{id}/kubelet.slice/kubelet.service",
            "/docker/{id}/system.slice/containerd.service",
            "/docker/{id}/kubelet.slice/kubelet-kubepods.slice",
            "/system.slice/docker-{id}.scope/init.scope",
            // Docker in Docker, in LXC: the innermost.
            "/docker/{id2}/docker/{id}",
            "/lxc.payload.c1/system.slice/docker-{id}.scope",
        ];
        let podman = [
            "/machine.slice/libpod-{id}.scope",
            "/machine.slice/libpod-{id}.scope/container",
            "/machine.slice/libpod-conmon-{id}.scope",
            "/machine.slice/machine-libpod_pod_{id2}.slice/libpod-{id}.scope/container",
            "/libpod_parent/libpod-{id}",
            "/libpod_parent/{id2}/libpod-{id}",
            "/libpod_parent/{id}",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope",
            "/system.slice/web.service/libpod-payload-{id}",
        ];
        let containerd = [
            "/default/{id}",
            "/k8s.io/{id}",
            "/system.slice/nerdctl-{id}.scope",
            "/system.slice/cri-containerd-{id}.scope",
        ];
        let crio = ["/system.slice/crio-conmon-{id}.scope"];
        let unknown = ["/ecs/0123456789abcdef/{id}"];
        // BuildKit's ids are in base 36.
        for id in [ID, "5cf82fwiumld3vcs5d5l5pzyv"] {
            for (runtime, templates) in [
                ("docker", &docker[..]),
                ("podman", &podman),
                ("containerd", &containerd),
                ("crio", &crio),
                ("container", if id == ID { &unknown } else { &[] }),
            ] {
                for template in templates {
                    let expected = Identity {
                        container_id: Some(id.to_owned()),
                        ..named(Kind::Container, runtime, &id[..SHORT_ID])
                    };
                    let path = fill(&template.replace("{id}", id));
                    assert_eq!(identify(&path), expected, "{path}");
                }
            }
        }
    }

    #[test]
    fn containers_with_names() {
        let nspawn = "/machine.slice/systemd-nspawn@deb.service/payload/system.slice/a.service";
        let libvirt = r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator";
        for (path, runtime, name) in [
            ("/default/redis", "containerd", "redis"),
            ("/default/my-redis/nested", "containerd", "my-redis"),
            ("/lxc.payload.c1", "lxc", "c1"),
            ("/lxc.payload.web-1/system.slice/nginx.service", "lxc", "web-1"),
            ("/lxc.monitor.c1", "lxc", "c1"),
            ("/lxc/101/ns/init.scope", "lxc", "101"),
            ("/lxc.monitor/101", "lxc", "101"),
            ("/machine.slice/machine-deb.scope", "machine", "deb"),
            ("/machine.slice/vm.scope", "machine", "vm"),
            (nspawn, "machine", "deb"),
            (libvirt, "machine", "qemu-1-vm"),
        ] {
            let expected = Identity {
                container_id: Some(name.to_owned()),
                ..named(Kind::Container, runtime, name)
            };
            assert_eq!(identify(path), expected, "{path}");
        }
    }

    #[test]
    fn units() {
        let user = "/user.slice/user-1000.slice/user@1000.service";
        for (path, unit) in [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/nginx.service/workers/1", "nginx.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            (r"/system.slice/system-a\x2db.slice/a\x2db@c.service", "a-b@c.service"),
            ("/system.slice/dbus-:1.2-org.x@0.service", "dbus-:1.2-org.x@0.service"),
            ("/system.slice/_cpu.service", "cpu.service"),
            ("/system.slice/sys-kernel-debug.mount", "sys-kernel-debug.mount"),
            ("/system.slice/docker.service", "docker.service"),
            ("/system.slice/docker-registry.service", "docker-registry.service"),
            ("/system.slice/docker-registry2.scope", "docker-registry2.scope"),
            ("/init.scope", "init.scope"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            (&format!("{user}/app.slice/foo.service"), "foo.service"),
            (&format!("{user}/app.slice"), "user@1000.service"),
            (&format!("{user}/init.scope"), "user@1000.service"),
            ("/system.slice", "system.slice"),
            ("/kubepods.slice/kubepods-burstable.slice", "kubepods-burstable.slice"),
            (r"/system.slice/system-x\x2dy.slice", "system-x-y.slice"),
            // No text comes of these escapes: the name as it stands.
            (r"/a\xff.service", r"a\xff.service"),
            (r"/a\x0ab.service", r"a\x0ab.service"),
            (r"/a\x2.service", r"a\x2.service"),
            (r"/caf\xc3\xa9.service", "café.service"),
        ] {
            assert_eq!(identify(path), named(Kind::Unit, "systemd", unit), "{path}");
        }
    }

    #[test]
    fn plain_cgroups() {
        for (path, shown) in [
            ("", "/"),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/garden/fe6b1ea0-3b1c-4a1c-8d0a", "/garden/fe6b1ea0-3b1c-4a1c-8d0a"),
            ("/kubepods", "/kubepods"),
            ("/kubepods/burstable", "/kubepods/burstable"),
            // Nearly, but not quite.
            ("/kubepods/pod", "/kubepods/pod"),
            ("/tests/podman", "/tests/podman"),
            ("/tests/burstable/podx", "/tests/burstable/podx"),
            ("/kubepods/pod../x", "/kubepods/pod../x"),
            ("/docker", "/docker"),
            ("/docker/buildkit", "/docker/buildkit"),
            ("/foo.slice/bar", "/foo.slice/bar"),
            ("/.slice", "/.slice"),
            ("/.service", "/.service"),
            ("/lxc.payload.", "/lxc.payload."),
            ("/x/docker-éééééééééééé1", "/x/docker-éééééééééééé1"),
        ] {
            assert_eq!(identify(path), named(Kind::Cgroup, "cgroup", shown), "{path}");
        }
    }

    #[test]
    fn long_names_are_cut() {
        let deep = identify(&"/ü".repeat(10_000));
        assert!(deep.pod.starts_with('…') && deep.pod.ends_with("/ü"), "{}", deep.pod);
        let unit = identify(&format!("/{}.service", "ü".repeat(1_000)));
        assert_eq!((unit.kind, unit.pod.len()), (Kind::Unit, MAX_LABEL - 1));
        let container = identify(&format!("/default/{}", "ü".repeat(1_000)));
        assert_eq!(container.container_id.map(|id| id.len()), Some(MAX_LABEL - 1));
    }

    /// Paths that are nearly right: pieces of real ones, put together at random.
    fn nearly_a_path() -> impl Strategy<Value = String> {
        const PIECES: &str = r"/ - : _ . \x2d \x pod -pod kubepods burstable .slice .scope .service
            / init.scope docker docker- libpod- default machine.slice lxc lxc.payload. … é";
        let piece = prop_oneof![
            Just(fill("{id}")),
            Just(fill("{uid}")),
            Just(fill("{_uid}")),
            prop::sample::select(PIECES.split_whitespace().collect::<Vec<_>>())
                .prop_map(str::to_owned),
            ".{0,3}",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_path_has_an_identity(path in prop_oneof![nearly_a_path(), ".*", "(/.{0,300}){0,5}"]) {
            let identity = identify(&path);
            prop_assert!(!identity.pod.is_empty());
            prop_assert_eq!(identity.kind == Kind::Pod, identity.namespace.is_empty());
            prop_assert_eq!(identity.kind == Kind::Pod, identity.pod_uid.is_some());
            let shown = [&identity.namespace, &identity.pod, &identity.container];
            let ids = [&identity.pod_uid, &identity.container_id];
            for text in shown.into_iter().chain(ids.into_iter().flatten()) {
                prop_assert!(text.len() <= MAX_LABEL, "{}", text);
            }
        }

        #[test]
        fn nested_cgroups_belong_to_their_container(below in "(/[a-z.]{1,12}){0,4}") {
            let scope = fill("/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope");
            prop_assert_eq!(identify(&format!("{scope}{below}")), identify(&scope));
            let scope = fill("/system.slice/docker-{id}.scope");
            prop_assume!(!below.contains("lxc"));
            prop_assert_eq!(identify(&format!("{scope}{below}")), identify(&scope));
        }
    }
}
