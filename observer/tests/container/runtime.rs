//! A real containerd, with its own runc, default seccomp profile and cgroups.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    sandbox::{self, Manifest},
    support::{bpffs::Bpffs, daemon, netns::Netns, poll::poll, process::Process},
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What containerd gives to a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The cgroup of a pod's container as the kubelet's cgroupfs driver names it.
pub(crate) fn cgroup(pod: &str, container: &str) -> String {
    format!("/kubepods/burstable/pod{pod}/{container}")
}

/// A running containerd. What runs in it ends with it.
pub(crate) struct Containerd {
    process: Process,
    directory: TempDir,
    /// The root of this machine, mounted once more, for containers of what is installed here.
    machine: PathBuf,
}

impl Containerd {
    /// Starts it with a state of its own, and imports the image under test.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("it can be written");
        let at = directory.path().display();
        let config = format!(
            r#"version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/socket"
"#
        );
        let file = directory.path().join("config.toml");
        fs::write(&file, config).expect("it can be written");
        let machine = directory.path().join("machine");
        fs::create_dir(&machine).expect("it can be written");
        let none: Option<&str> = None;
        mount(Some("/"), &machine, none, MsFlags::MS_BIND, none).expect("root may");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&file).args(["--log-level", "error"]).stdin(Stdio::null());
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot run containerd: {error}"));
        let containerd = Self { process: Process::new(child, "containerd"), directory, machine };
        let answers = || containerd.ctr().arg("version").output().is_ok_and(|o| o.status.success());
        poll(PATIENCE, || answers().then_some(())).expect("containerd did not start");
        let image = sandbox::image().display().to_string();
        containerd.say(&["images", "import", &image]);
        containerd
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.directory.path().join("socket"));
        ctr.args(["--namespace", "k8s.io"]);
        ctr
    }

    /// Runs a command of its client, which must succeed; what it says.
    fn say(&self, arguments: &[&str]) -> String {
        let output = self.ctr().args(arguments).output().expect("it comes with containerd");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {arguments:?}: {complaint}");
        String::from_utf8(output.stdout).expect("it is text")
    }

    /// A container with a read-only root and the default seccomp profile, in a network namespace.
    fn run(&self, cgroup: &str, netns: &Netns) -> Command {
        let mut run = self.ctr();
        run.args(["run", "--rm", "--read-only", "--seccomp", "--cgroup", cgroup, "--with-ns"]);
        run.arg(format!("network:{}", netns.path().display()));
        run
    }

    /// The image under test, as the manifest says.
    pub(crate) fn observer(
        &self,
        manifest: &Manifest,
        (pod, container): (&str, &str),
        netns: &Netns,
        bpffs: &Bpffs,
    ) -> Command {
        let mut run = self.run(&cgroup(pod, container), netns);
        let kept = manifest.capabilities();
        for capability in DEFAULT_CAPABILITIES.iter().filter(|name| !kept.contains(**name)) {
            run.arg("--cap-drop").arg(format!("CAP_{capability}"));
        }
        for capability in kept {
            run.arg("--cap-add").arg(format!("CAP_{capability}"));
        }
        for (name, value) in manifest.environment() {
            run.arg("--env").arg(format!("{name}={value}"));
        }
        for (path, point, read_only) in manifest.mounts(bpffs) {
            let mode = if read_only { "ro" } else { "rw" };
            run.arg("--mount").arg(match path {
                Some(path) => {
                    let path = path.display();
                    format!("type=bind,src={path},dst={point},options=rbind:{mode}")
                }
                None => format!("type=tmpfs,src=tmpfs,dst={point},options={mode}"),
            });
        }
        let image = concat!("docker.io/library/observer:", env!("CARGO_PKG_VERSION"));
        run.args([image, container, "/observer", "run"]);
        run
    }

    /// A server of the workload.
    pub(crate) fn server(
        &self,
        protocol: &str,
        listen: SocketAddr,
        (pod, container): (&str, &str),
        netns: &Netns,
    ) -> RunningServer {
        #[derive(Deserialize)]
        struct Ready {
            ready: SocketAddr,
        }
        let programs = daemon::executable().parent().expect("a directory").display().to_string();
        let mut run = self.run(&cgroup(pod, container), netns);
        run.arg("--mount").arg(format!("type=bind,src={programs},dst={programs},options=rbind:ro"));
        run.arg("--rootfs").arg(&self.machine).arg(container);
        run.arg(format!("{programs}/examples/workload"));
        run.args(["serve", "--protocol", protocol, "--listen", &listen.to_string()]);
        let child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = Process::new(child.expect("ctr is there"), "a container's server");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.take_stdout());
        stdout.read_line(&mut line).expect("it can be read");
        let Ready { ready } = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the server in the container said {line:?}: {error}"));
        RunningServer { process, addr: ready, _stdout: stdout }
    }

    /// Ends everything that runs.
    fn clean(&self) {
        for kind in ["tasks", "containers"] {
            let list = self.ctr().args([kind, "list", "--quiet"]).output();
            let list = list.map(|output| output.stdout).unwrap_or_default();
            for id in String::from_utf8_lossy(&list).lines() {
                let force: &[&str] = if kind == "tasks" { &["--force"] } else { &[] };
                // It may end by itself meanwhile; what stays is found by the comparison after the tests.
                let _ = self.ctr().args([kind, "delete"]).args(force).arg(id).output();
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.clean();
        self.process.signal(Signal::SIGTERM);
        self.process.wait(PATIENCE);
        if let Err(error) = umount2(&self.machine, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.machine.display());
        }
        remove_cgroups();
    }
}

/// A server in a container.
pub(crate) struct RunningServer {
    process: Process,
    pub(crate) addr: SocketAddr,
    _stdout: BufReader<std::process::ChildStdout>,
}

impl RunningServer {
    /// Ends it, and with it its container.
    pub(crate) fn stop(mut self) {
        // Its client passes the signal on.
        self.process.signal(Signal::SIGTERM);
        self.process.wait(PATIENCE);
    }
}

/// Removes the cgroups of pods without a container, in each hierarchy: runc removes only those of containers.
pub(crate) fn remove_cgroups() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup").then(|| Path::new(point))
    });
    for root in roots {
        let burstable = root.join("kubepods/burstable");
        let pods = fs::read_dir(&burstable).into_iter().flatten().flatten();
        // Those of a kubelet are in use, and cannot be removed.
        for pod in pods.filter(|pod| pod.file_name().as_encoded_bytes().starts_with(b"pod")) {
            let _ = fs::remove_dir(pod.path());
        }
        let _ = fs::remove_dir(&burstable);
        let _ = fs::remove_dir(root.join("kubepods"));
    }
}
