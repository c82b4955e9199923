//! A container as a runtime would make it for the `DaemonSet`'s pod: the files of the image, the mounts and the
//! capabilities of the manifest, namespaces of its own, nothing else.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    api,
    support::{bpffs::Bpffs, netns::Netns, tools},
};

/// Where `cargo xtask image` puts it.
pub(crate) fn image() -> PathBuf {
    tools::checkout().join("target/image/observer.tar")
}

/// Size of the archive in bytes.
pub(crate) fn image_size() -> u64 {
    fs::metadata(image()).expect("`cargo xtask image` makes it").len()
}

/// The files of the image, below `directory`.
pub(crate) fn unpack_image(directory: &Path) -> Value {
    let archive = fs::read(image()).expect("`cargo xtask image` makes it");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        member(&archive, &format!("blobs/{}", digest.replace(':', "/")))
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it is JSON");
    let index = json(&member(&archive, "index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    for layer in manifest["layers"].as_array().expect("there are layers") {
        let layer = blob(layer);
        let files = flate2::read::GzDecoder::new(&layer[..]);
        tar::Archive::new(files).unpack(directory).expect("the layer is a tar");
    }
    json(&blob(&manifest["config"]))
}

fn member(archive: &[u8], path: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().expect("it is a tar").map(|entry| entry.expect("a file"));
    let mut entry = entries
        .find(|entry| entry.path().is_ok_and(|found| found == Path::new(path)))
        .unwrap_or_else(|| panic!("no {path} in the image"));
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// A container of the pod that the manifests describe.
pub(crate) struct Manifest {
    container: Value,
    volumes: Value,
}

impl Manifest {
    /// That of `deploy/base`.
    pub(crate) fn base() -> Self {
        Self::from_yaml(include_str!("../../../deploy/base/daemonset.yaml"), "containers")
    }

    /// The same with a component, as kustomize renders it.
    pub(crate) fn with(component: &str) -> Self {
        Self::from_yaml(&tools::render(&["base"], &[component]), "containers")
    }

    /// The one that runs before, with the component for removal.
    pub(crate) fn detach() -> Self {
        Self::from_yaml(&tools::render(&["base"], &["detach"]), "initContainers")
    }

    fn from_yaml(yaml: &str, containers: &str) -> Self {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("it is YAML");
        let daemonset = documents.into_iter().find(|document| document["kind"] == "DaemonSet");
        let pod = &daemonset.expect("there is one")["spec"]["template"]["spec"];
        Self { container: pod[containers][0].clone(), volumes: pod["volumes"].clone() }
    }

    /// The capabilities that it asks for, without `CAP_`.
    pub(crate) fn capabilities(&self) -> BTreeSet<String> {
        let added = &self.container["securityContext"]["capabilities"]["add"];
        let names = added.as_array().into_iter().flatten();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    /// The image that it is made from.
    pub(crate) fn image(&self) -> &str {
        self.container["image"].as_str().expect("a name")
    }

    /// What it runs the program with.
    pub(crate) fn argument(&self) -> &str {
        self.container["args"][0].as_str().expect("a command of the program")
    }

    /// The environment, as the kubelet would fill it in.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.container["env"].as_array().expect("it has one").iter();
        variables.map(|variable| {
            let name = variable["name"].as_str().expect("a name");
            (name, variable["value"].as_str().unwrap_or(api::NODE))
        })
    }

    /// Path on the host, path in the container, and whether it is read-only, of each mount. An empty directory of the
    /// pod's own has no path on the host; `bpffs` stands for the host's BPF file system.
    pub(crate) fn mounts(
        &self,
        bpffs: &Bpffs,
    ) -> impl Iterator<Item = (Option<PathBuf>, &str, bool)> {
        let volumes = self.volumes.as_array().expect("there are volumes");
        let mounts = self.container["volumeMounts"].as_array().expect("there are mounts").iter();
        mounts.map(|mount| {
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.expect("a mount of a volume");
            let path = volume["hostPath"]["path"].as_str();
            assert!(path.is_some() || volume["emptyDir"].is_object(), "{volume}");
            let path = path.map(|path| match path {
                "/sys/fs/bpf" => bpffs.path().to_owned(),
                other => PathBuf::from(other),
            });
            let point = mount["mountPath"].as_str().expect("a path");
            (path, point, mount["readOnly"] == true)
        })
    }
}

/// Makes the mounts, which nobody else sees, and becomes the program. Its arguments: the directory that becomes the
/// root, the directory with the image's files, capabilities to drop, the program's argument, and `host path:path:ro|rw`
/// for each mount, without a host path for an empty directory.
const ENTER: &str = r#"
set -eu
root=$1 image=$2 drop=$3 argument=$4
shift 4
mount -t tmpfs -o mode=755 tmpfs "$root"
cp -a "$image/." "$root"
mkdir "$root/proc" "$root/sys"
mount -t proc -o nosuid,noexec,nodev proc "$root/proc"
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$root/sys"
mount -t cgroup2 -o ro,nosuid,noexec,nodev cgroup2 "$root/sys/fs/cgroup"
for volume in "$@"; do
    mode=${volume##*:} paths=${volume%:*}
    point=$root${paths#*:}
    [ -d "$point" ] || mkdir -p "$point"
    if [ -z "${paths%%:*}" ]; then
        mount -t tmpfs -o nosuid,noexec,nodev tmpfs "$point"
    else
        mount --rbind "${paths%%:*}" "$point"
        mount -o "remount,bind,$mode" "$point"
    fi
done
mount -o remount,ro "$root"
exec capsh --chroot="$root" --no-new-privs --drop="$drop" --shell=/observer -- "$argument"
"#;

/// A command that runs the image's program as the manifest says, with `capabilities`, in a network namespace.
///
/// `bpffs` stands for the host's BPF file system, `scratch` is an empty directory for the files of the container.
pub(crate) fn command(
    manifest: &Manifest,
    capabilities: &BTreeSet<String>,
    (bpffs, scratch): (&Bpffs, &Path),
    netns: &Netns,
) -> Command {
    let (root, image) = (scratch.join("root"), scratch.join("image"));
    for directory in [&root, &image] {
        fs::create_dir(directory).expect("it can be written");
    }
    unpack_image(&image);
    let namespaces = ["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child"];
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["--propagation", "slave", "sh", "-c", ENTER, "sh"]);
    command.args([&root, &image]).arg(dropped(capabilities)).arg(manifest.argument());
    for (path, point, read_only) in manifest.mounts(bpffs) {
        let mode = if read_only { "ro" } else { "rw" };
        let path = path.unwrap_or_default();
        command.arg(format!("{}:{point}:{mode}", path.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).envs(manifest.environment());
    netns.enter(&mut command);
    command
}

/// All capabilities of this kernel but these, as capsh takes them.
fn dropped(kept: &BTreeSet<String>) -> String {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("Linux has it");
    let last: u32 = last.trim().parse().expect("a number");
    let kept: BTreeSet<u32> = kept.iter().map(|name| number(name)).collect();
    let others = (0..=last).filter(|capability| !kept.contains(capability));
    others.map(|capability| capability.to_string()).collect::<Vec<_>>().join(",")
}

/// The number of a capability (`linux/capability.h`).
pub(crate) fn number(name: &str) -> u32 {
    match name {
        "NET_ADMIN" => 12,
        "SYS_ADMIN" => 21,
        "PERFMON" => 38,
        "BPF" => 39,
        other => panic!("no test knows the capability {other}"),
    }
}
