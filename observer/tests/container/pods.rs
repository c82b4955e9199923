//! Pods as a kubelet has a runtime make them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{
    cgroups::{self, Driver},
    cri::{
        Capability, ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
        LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
        NAMESPACE_OF_CONTAINER, NAMESPACE_OF_POD, NamespaceOption, PodSandboxConfig,
        PodSandboxMetadata, SecurityProfile,
    },
    image,
    runtime::Containerd,
    sandbox::Manifest,
    support::{bpffs::Bpffs, daemon, poll::poll},
};

/// How long a container may take to say something, or to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where its server listens, in each pod.
pub(crate) const PORT: u16 = 8080;
/// Where a pod has the token of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Each pod has namespaces of its own, which its containers share, but for that of processes.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NAMESPACE_OF_POD,
        pid: NAMESPACE_OF_CONTAINER,
        ipc: NAMESPACE_OF_POD,
    }
}

/// A pod that runs.
pub(crate) struct Pod<'a> {
    containerd: &'a Containerd,
    uid: String,
    id: String,
    config: PodSandboxConfig,
    /// What CNI gave to it.
    pub(crate) address: IpAddr,
}

impl<'a> Pod<'a> {
    /// Makes one of that namespace, name and UID.
    pub(crate) fn run(
        containerd: &'a Containerd,
        (namespace, name, uid): (&str, &str, &str),
        driver: Driver,
    ) -> Self {
        containerd.remember(uid);
        let logs = containerd.path("logs").join(uid);
        fs::create_dir_all(&logs).expect("it can be written");
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces()),
            seccomp: Some(SecurityProfile {}),
        };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: namespace.to_owned(),
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: driver.parent(uid),
                security_context: Some(security),
            }),
        };
        let cri = &containerd.cri;
        let id = cri.run_pod(config.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let address = cri.pod_address(&id).expect("the pod is there");
        let address =
            address.parse().unwrap_or_else(|_| panic!("{name} has the address {address:?}"));
        Self { containerd, uid: uid.to_owned(), id, config, address }
    }

    /// Starts a container in it.
    fn start(&self, mut config: ContainerConfig) -> Container<'a> {
        let metadata = config.metadata.clone().expect("a container has a name");
        config.log_path = format!("{}-{}.log", metadata.name, metadata.attempt);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let cri = &self.containerd.cri;
        let id = cri.create((&self.id, &self.config), config);
        let id = id.unwrap_or_else(|error| panic!("{metadata:?} cannot be made: {error}"));
        cri.start(&id).unwrap_or_else(|error| panic!("{metadata:?} does not start: {error}"));
        Container { containerd: self.containerd, id, log }
    }

    /// A container of the manifest, with the account by which it asks the API server at an address.
    pub(crate) fn observer(
        &self,
        manifest: &Manifest,
        bpffs: &Bpffs,
        account: &Path,
        server: (&str, &str),
    ) -> Container<'a> {
        let service =
            [("KUBERNETES_SERVICE_HOST", server.0), ("KUBERNETES_SERVICE_PORT", server.1)];
        // A pod that has ended is waited for.
        let short = [("OBSERVER_SHOW_ENDED", "5s")];
        let envs = manifest.environment().chain(service).chain(short);
        let envs =
            envs.map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_owned() });
        let mut mounts: Vec<_> = manifest
            .mounts(bpffs)
            .map(|(path, point, readonly)| {
                let path = path.unwrap_or_else(|| self.volume(point));
                mount(&path, point, readonly)
            })
            .collect();
        mounts.push(mount(account, ACCOUNT, true));
        let capabilities = Capability {
            add_capabilities: manifest.capabilities().into_iter().collect(),
            drop_capabilities: vec!["ALL".to_owned()],
        };
        self.start(ContainerConfig {
            metadata: Some(ContainerMetadata { name: "observer".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: manifest.image().to_owned() }),
            args: vec![manifest.argument().to_owned()],
            envs: envs.collect(),
            mounts,
            linux: Some(linux(Some(capabilities), true)),
            ..ContainerConfig::default()
        })
    }

    /// An empty directory of its own.
    fn volume(&self, point: &str) -> PathBuf {
        let volume = self.containerd.path("volumes").join(&self.uid).join(&point[1..]);
        fs::create_dir_all(&volume).expect("it can be written");
        volume
    }

    /// A server of the workload. Of this machine it has the program, and the libraries that it is linked with.
    pub(crate) fn server(&self, protocol: &str, name: &str, attempt: u32) -> Container<'a> {
        let programs = daemon::executable().parent().expect("a directory").join("examples");
        let libraries = ["/usr", "/lib", "/lib64"].map(Path::new);
        let libraries = libraries.into_iter().filter(|path| path.is_dir());
        let mounts = libraries.map(|path| mount(path, &path.display().to_string(), true));
        let listen = format!("0.0.0.0:{PORT}");
        let args = ["serve", "--protocol", protocol, "--listen", &listen];
        self.start(ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(ImageSpec { image: image::NAME.to_owned() }),
            command: vec!["/programs/workload".to_owned()],
            args: args.map(str::to_owned).into(),
            mounts: mounts.chain([mount(&programs, "/programs", true)]).collect(),
            // It ends with its input.
            stdin: true,
            linux: Some(linux(None, false)),
            ..ContainerConfig::default()
        })
    }

    /// Removes it, with what a kubelet made for it.
    pub(crate) fn remove(self) {
        let cri = &self.containerd.cri;
        cri.stop_pod(&self.id).expect("it stops");
        cri.remove_pod(&self.id).expect("it goes");
        cgroups::remove_pod(&self.uid);
    }
}

fn mount(path: &Path, point: &str, readonly: bool) -> Mount {
    let host_path = path.display().to_string();
    Mount { container_path: point.to_owned(), host_path, readonly }
}

/// A read-only root, the default seccomp profile, and capabilities, where they differ from the runtime's own.
fn linux(capabilities: Option<Capability>, no_new_privs: bool) -> LinuxContainerConfig {
    let security_context = Some(LinuxContainerSecurityContext {
        capabilities,
        namespace_options: Some(namespaces()),
        readonly_rootfs: true,
        no_new_privs,
        seccomp: Some(SecurityProfile {}),
    });
    LinuxContainerConfig { security_context }
}

/// A container that runs.
pub(crate) struct Container<'a> {
    containerd: &'a Containerd,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    log: PathBuf,
}

impl Container<'_> {
    /// The first digits of its id, as they are shown.
    pub(crate) fn short(&self) -> &str {
        &self.id[..12]
    }

    /// What it has written up to now. The runtime puts a time, the stream and a mark before each line.
    pub(crate) fn said(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // The last one may not be whole yet.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.map(str::to_owned).collect()
    }

    /// Waits for a line, and reads it.
    pub(crate) fn line<T: DeserializeOwned>(&self, number: usize) -> T {
        let line = poll(PATIENCE, || self.said().into_iter().nth(number));
        let line = line.unwrap_or_else(|| panic!("{} says nothing", self.log.display()));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// What `/proc` says of its only process.
    pub(crate) fn proc(&self, file: &str) -> String {
        let processes = cgroups::processes(&[cgroups::of_container(&self.id)]);
        let [process] = processes[..] else { panic!("not one process: {processes:?}") };
        fs::read_to_string(format!("/proc/{process}/{file}")).expect("it runs")
    }

    /// Has it end by SIGTERM; its exit code.
    pub(crate) fn end(&self) -> i32 {
        let cri = &self.containerd.cri;
        cri.stop(&self.id, PATIENCE).expect("it stops");
        cri.exit_code(&self.id).expect("it is there").expect("it has ended")
    }

    /// Removes it once it has ended.
    pub(crate) fn remove(self) {
        self.containerd.cri.remove(&self.id).expect("it goes");
    }
}
