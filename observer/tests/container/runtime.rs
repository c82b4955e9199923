//! A real containerd with runc and CNI, in a network and a mount namespace of its own: bridge, cables and mounts of
//! its pods are nobody else's, and end with it.

use std::{
    cell::RefCell,
    fs,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cgroups,
    cri::Client,
    image, sandbox,
    support::{
        netns::{NetnsPair, ip},
        poll::poll,
        process::Process,
    },
};

/// How long it may take to start, and what it runs to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where Debian and Ubuntu have the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// The pods' network, one of those that are reserved for examples.
const NETWORK: &str = "198.51.100.0/24";
/// Where containerd, runc and the library for CNI keep what they keep, whatever they are told.
const PLACES: [&str; 2] = ["/run/containerd", "/var/lib/cni"];

/// What a pod consists of, as far as it could be left behind.
const KINDS: [&str; 7] =
    ["sandbox", "shim", "mount", "network namespace", "cgroup", "cable", "address"];

/// Becomes containerd, after it has covered the places that others may use as well.
const ENTER: &str = r#"
set -eu
for place in $PLACES; do mount -t tmpfs -o mode=700 tmpfs "$place"; done
exec containerd --config "$1" --log-level warn
"#;

/// A running containerd. What runs in it ends with it.
pub(crate) struct Containerd {
    process: Process,
    directory: TempDir,
    /// The network namespace that it runs in.
    network: String,
    /// Those of [`PLACES`] that were not there before.
    made: Vec<&'static str>,
    /// The pods that were made, by their UIDs.
    uids: RefCell<Vec<String>>,
    pub(crate) cri: Client,
}

impl Containerd {
    /// Starts it with a state of its own at one end of the cable, from whose other end its pods are reached; and
    /// imports the images.
    pub(crate) fn start(pair: &NetnsPair) -> Self {
        let directory = tempfile::tempdir().expect("it can be written");
        let config = configure(directory.path());
        let made = PLACES.into_iter().filter(|place| {
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700).create(place).is_ok()
        });
        let made = made.collect();
        let log = fs::File::create(directory.path().join("log")).expect("it can be written");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", ENTER, "sh"]).arg(config);
        command.env("PLACES", PLACES.join(" "));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = pair.a.enter(&mut command).spawn().expect("unshare is there");
        let containerd = Self {
            process: Process::new(child, "containerd"),
            cri: Client::new(&directory.path().join("socket")),
            network: pair.a.name().to_owned(),
            made,
            uids: RefCell::default(),
            directory,
        };
        let is_ready = || containerd.cri.is_ready().unwrap_or(false).then_some(());
        poll(PATIENCE, is_ready).expect("containerd and its network did not start");
        let sandbox = containerd.path("sandbox.tar");
        image::write(&sandbox).expect("it can be written");
        let observer = concat!("docker.io/library/observer:", env!("CARGO_PKG_VERSION"));
        for (archive, name) in [(sandbox, image::NAME), (sandbox::image(), observer)] {
            containerd.import(&archive, name);
        }
        pair.a.set("ipv4/ip_forward", "1");
        let (node, outside) = (pair.a.ipv4(), pair.b.name());
        ip(&format!("-n {outside} route add {NETWORK} via {node}"));
        containerd
    }

    /// A path in its directory.
    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.directory.path().join(part)
    }

    /// Imports an image, and waits until it is known to those who make pods.
    fn import(&self, archive: &Path, name: &str) {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.path("socket")).args(["--namespace", "k8s.io"]);
        let output = ctr.args(["images", "import"]).arg(archive).output();
        let output = output.expect("it comes with containerd");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {complaint}", archive.display());
        let has = || self.cri.has_image(name).unwrap_or(false).then_some(());
        poll(PATIENCE, has).unwrap_or_else(|| panic!("{} has no {name}", archive.display()));
    }

    /// That a pod is to be looked for in the end.
    pub(crate) fn remember(&self, uid: &str) {
        self.uids.borrow_mut().push(uid.to_owned());
    }

    /// What there is of pods now, each thing with its kind, one of [`KINDS`].
    fn present(&self) -> Vec<(&'static str, String)> {
        let sandboxes = self.cri.pods().expect("it answers").into_iter();
        let mut all: Vec<_> = sandboxes.map(|id| ("sandbox", id)).collect();
        let shims = self.shims().into_iter();
        all.extend(shims.map(|(pid, line)| ("shim", format!("{pid}: {line}"))));
        // Of the mounts that it sees, and nobody else.
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.process.id()));
        let mounts = mounts.expect("it runs");
        let state = self.path("state").display().to_string();
        all.extend(mounts.lines().filter(|line| line.contains(&state)).map(|line| {
            let is_network = line.contains(" - nsfs ");
            (if is_network { "network namespace" } else { "mount" }, line.to_owned())
        }));
        let cgroups = self.cgroups().into_iter();
        all.extend(cgroups.map(|path| ("cgroup", path.display().to_string())));
        all.extend(self.cables().into_iter().map(|name| ("cable", name)));
        let addresses = fs::read_dir(self.path("addresses/pods")).into_iter().flatten().flatten();
        let addresses = addresses.map(|file| file.file_name().display().to_string());
        let addresses = addresses.filter(|name| name.parse::<IpAddr>().is_ok());
        all.extend(addresses.map(|name| ("address", name)));
        all
    }

    /// That of each kind there is something for each of so many pods, and it would be noticed if it stayed.
    pub(crate) fn assert_seen(&self, pods: usize) {
        let all = self.present();
        for kind in KINDS {
            let found = all.iter().filter(|(of, _)| *of == kind).count();
            assert!(found >= pods, "of {pods} pods {found} have a {kind}: {all:#?}");
        }
    }

    /// Waits until nothing is left of any pod; panics with what stays.
    pub(crate) fn assert_empty(&self) {
        let mut left = Vec::new();
        poll(PATIENCE, || {
            left = self.present();
            left.is_empty().then_some(())
        })
        .unwrap_or_else(|| panic!("of the pods there stayed: {left:#?}"));
    }

    /// Prints what it and its containers have logged.
    fn tell(&self) {
        let mut logs = vec![self.path("log")];
        for uid in self.uids.borrow().iter() {
            let files = fs::read_dir(self.path("logs").join(uid)).into_iter().flatten().flatten();
            logs.extend(files.map(|file| file.path()));
        }
        for log in logs {
            eprintln!("{}:\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
        }
    }

    /// The processes that watch over containers: they name the socket of their containerd.
    fn shims(&self) -> Vec<(Pid, String)> {
        let socket = self.path("socket").display().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let shims = entries.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains("containerd-shim") && line.contains(&socket))
                .then_some((Pid::from_raw(pid), line))
        });
        shims.collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.uids.borrow().iter().flat_map(|uid| cgroups::of_pod(uid)).collect()
    }

    /// The cables from the node to its pods.
    fn cables(&self) -> Vec<String> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.network, "-json", "link", "show", "type", "veth"]);
        let links = ip.output().expect("iproute2 is there").stdout;
        // Nothing at all stands for no links.
        let links: Vec<Value> = serde_json::from_slice(&links).unwrap_or_default();
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        names.filter(|name| *name != "veth0").map(str::to_owned).collect()
    }
}

/// Writes its configuration into its directory.
fn configure(directory: &Path) -> PathBuf {
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": directory.join("addresses"),
                "ranges": [[{ "subnet": NETWORK }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    let networks = directory.join("net.d");
    fs::create_dir(&networks).expect("it can be written");
    fs::write(networks.join("pods.conflist"), network.to_string()).expect("it can be written");
    let (at, image) = (directory.display(), image::NAME);
    // CRI wants sandboxes to be the last that are killed for want of memory, which root may ask for with
    // CAP_SYS_RESOURCE only: without it they are no dearer to the kernel than containerd is.
    let config = format!(
        r#"version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{at}/net.d"
"#
    );
    let file = directory.join("config.toml");
    fs::write(&file, config).expect("it can be written");
    file
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // After a test that went well nothing of this is there any more.
        for id in self.cri.pods().unwrap_or_default() {
            let ended = self.cri.stop_pod(&id).and_then(|()| self.cri.remove_pod(&id));
            if let Err(error) = ended {
                eprintln!("the pod {id} is ended by force: {error}");
            }
        }
        let shims = self.shims().into_iter().map(|(pid, _)| pid);
        for pid in shims.chain(cgroups::processes(&self.cgroups())) {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        for uid in self.uids.borrow().iter() {
            cgroups::remove_pod(uid);
        }
        self.process.signal(Signal::SIGTERM);
        self.process.wait(PATIENCE);
        for place in &self.made {
            // Unless somebody else has come to use it.
            let _ = fs::remove_dir(place);
        }
        if thread::panicking() {
            self.tell();
        }
    }
}
