//! A control plane in a network namespace of its own: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as
//! `cargo xtask cluster` finds or builds them.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    netns::{Netns, NetnsPair, ip},
    poll::poll,
    process::Process,
};

/// Where the programs are.
const TOOLS: &str = "OBSERVER_CLUSTER_TOOLS";
/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where the parts of the control plane listen. All addresses of this network lead to the namespace itself.
pub(crate) const ADDRESS: &str = "10.66.0.1";
const NETWORK: u8 = 16;
pub(crate) const PORT: u16 = 6443;
/// Who may do everything.
const ADMIN: &str = "admin";
/// Names of users, and the groups that they belong to. Each one's token is its name.
const USERS: [(&str, &str); 3] = [
    (ADMIN, "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
];

/// The parts end when it is dropped.
pub(crate) struct Plane {
    parts: Vec<Process>,
    tools: PathBuf,
    directory: TempDir,
    namespaces: NetnsPair,
}

impl Plane {
    /// Starts all parts, and waits until the API server is ready.
    pub(crate) fn start() -> Self {
        let tools = env::var_os(TOOLS).expect("`cargo xtask cluster` says where the programs are");
        let namespaces = NetnsPair::new();
        ip(&format!("-n {} address add {ADDRESS}/{NETWORK} dev lo", namespaces.a.name()));
        let directory = tempfile::tempdir().expect("it can be written");
        let mut plane = Self { parts: Vec::new(), tools: tools.into(), directory, namespaces };
        plane.write_identities();
        plane.start_storage();
        plane.start_api();
        plane.start_controllers();
        plane
    }

    /// The namespace that everything is in.
    pub(crate) fn netns(&self) -> &Netns {
        &self.namespaces.a
    }

    /// A file of the control plane's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("it can be written");
    }

    /// What each part shows to the others.
    fn write_identities(&self) {
        let tokens = USERS.map(|(user, group)| format!("{user},{user},{user},\"{group}\"\n"));
        self.write("tokens.csv", &tokens.concat());
        for (user, _) in USERS {
            let config = serde_json::json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{ "name": "c", "cluster": {
                    "server": format!("https://{ADDRESS}:{PORT}"), "insecure-skip-tls-verify": true,
                } }],
                "users": [{ "name": "u", "user": { "token": user } }],
                "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            });
            self.write(user, &config.to_string());
        }
        let key = KeyPair::generate().expect("a key");
        self.write("accounts.key", &key.serialize_pem());
        // Of private keys the API server reads other forms only.
        self.write("accounts.pub", &key.public_key_pem());
        // By these the API server shows who asks an aggregated one.
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        self.write("proxy-ca.crt", &params.self_signed(&key).expect("a certificate").pem());
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "front-proxy");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        self.write("proxy.crt", &certificate.pem());
        self.write("proxy.key", &key.serialize_pem());
    }

    /// The path of a program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.tools.join(name)
    }

    /// Starts a command in the namespace; what it says is in a file of the control plane's directory.
    pub(crate) fn spawn(&self, name: &str, command: &mut Command) -> Process {
        let said = File::create(self.file(&format!("{name}.log"))).expect("it can be written");
        let same = said.try_clone().expect("one more of it");
        command.stdin(Stdio::null()).stdout(same).stderr(said);
        let child = self.netns().enter(command).spawn();
        Process::new(child.unwrap_or_else(|error| panic!("cannot run {name}: {error}")), name)
    }

    fn start_part(&mut self, program: &str, arguments: &[String]) {
        let part = self.spawn(program, Command::new(self.program(program)).args(arguments));
        self.parts.push(part);
    }

    /// The last of what a program has said.
    pub(crate) fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn start_storage(&mut self) {
        let url = |port: u16| format!("http://{ADDRESS}:{port}");
        let options = [
            ("name", "one".to_owned()),
            ("data-dir", self.path("etcd")),
            ("listen-client-urls", url(2379)),
            ("advertise-client-urls", url(2379)),
            ("listen-peer-urls", url(2380)),
            ("initial-advertise-peer-urls", url(2380)),
            ("initial-cluster", format!("one={}", url(2380))),
        ];
        let mut arguments = flags(&options);
        // It does not outlive the test.
        arguments.push("--unsafe-no-fsync".to_owned());
        self.start_part("etcd", &arguments);
    }

    fn start_api(&mut self) {
        let header = |name: &str| format!("X-Remote-{name}");
        let options = [
            ("etcd-servers", format!("http://{ADDRESS}:2379")),
            ("advertise-address", ADDRESS.to_owned()),
            ("bind-address", ADDRESS.to_owned()),
            ("secure-port", PORT.to_string()),
            ("cert-dir", self.path("api")),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", self.path("tokens.csv")),
            ("service-cluster-ip-range", "10.67.0.0/24".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", self.path("accounts.pub")),
            ("service-account-signing-key-file", self.path("accounts.key")),
            ("requestheader-client-ca-file", self.path("proxy-ca.crt")),
            ("requestheader-allowed-names", "front-proxy".to_owned()),
            ("requestheader-username-headers", header("User")),
            ("requestheader-group-headers", header("Group")),
            ("requestheader-extra-headers-prefix", header("Extra-")),
            ("proxy-client-cert-file", self.path("proxy.crt")),
            ("proxy-client-key-file", self.path("proxy.key")),
            // There is no kube-proxy.
            ("enable-aggregator-routing", "true".to_owned()),
        ];
        self.start_part("kube-apiserver", &flags(&options));
        let ready = || self.try_kubectl(&["get", "--raw", "/readyz"], None).is_ok().then_some(());
        poll(PATIENCE, ready).unwrap_or_else(|| panic!("{}", self.said("kube-apiserver")));
    }

    fn start_controllers(&mut self) {
        let options = |user: &str, port: u16| {
            flags(&[
                ("kubeconfig", self.path(user)),
                ("leader-elect", "false".to_owned()),
                ("bind-address", ADDRESS.to_owned()),
                ("secure-port", port.to_string()),
                ("cert-dir", self.path(user) + "-certificates"),
            ])
        };
        let mut manager = options("system:kube-controller-manager", 10257);
        manager.extend(flags(&[
            // The HPA has its real role.
            ("use-service-account-credentials", "true".to_owned()),
            ("service-account-private-key-file", self.path("accounts.key")),
            // The nodes are made up, and never heard of again.
            ("controllers", "*,-node-lifecycle-controller,-taint-eviction-controller".to_owned()),
        ]));
        let scheduler = options("system:kube-scheduler", 10259);
        self.start_part("kube-controller-manager", &manager);
        self.start_part("kube-scheduler", &scheduler);
    }

    /// Runs kubectl as who may do everything, with this on its stdin: what it prints, or what it complains of.
    pub(crate) fn try_kubectl(
        &self,
        arguments: &[&str],
        stdin: Option<&str>,
    ) -> Result<String, String> {
        let mut kubectl = Command::new(self.program("kubectl"));
        kubectl.args(["--kubeconfig", &self.path(ADMIN)]).args(arguments);
        // Its cache of what there is would outlive the test.
        kubectl.env("HOME", self.directory.path()).stdin(Stdio::piped());
        let child =
            self.netns().enter(&mut kubectl).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let mut pipe = child.stdin.take().expect("it is piped");
        pipe.write_all(stdin.unwrap_or_default().as_bytes()).map_err(|error| error.to_string())?;
        drop(pipe);
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The same, where it must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str], stdin: Option<&str>) -> String {
        let said = self.try_kubectl(arguments, stdin);
        said.unwrap_or_else(|complaint| panic!("kubectl {arguments:?}: {complaint}"))
    }

    /// An object, or a list of objects.
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "--output", "json"], arguments].concat(), None);
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// What lets a pod of this service account ask the API server: a directory for `/var/run/secrets/kubernetes.io/serviceaccount`.
    pub(crate) fn account(&self, namespace: &str, name: &str) -> PathBuf {
        let directory = self.file(&format!("account-{namespace}-{name}"));
        fs::create_dir_all(&directory).expect("it can be written");
        let token = self.kubectl(&["create", "token", "--namespace", namespace, name], None);
        let write = |file: &str, text: &[u8]| {
            fs::write(directory.join(file), text).expect("it can be written");
        };
        write("token", token.trim().as_bytes());
        write("namespace", namespace.as_bytes());
        write("ca.crt", &fs::read(self.file("api/apiserver.crt")).expect("it made one"));
        directory
    }
}

fn flags(options: &[(&str, String)]) -> Vec<String> {
    options.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// A command that runs in a mount namespace of its own, in which it finds itself in a pod: a service account, and names of hosts.
pub(crate) fn in_pod(program: &Path, account: &Path, hosts: &Path) -> Command {
    const ENTER: &str = r#"
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount /run/observer
cp "$1"/* /run/secrets/kubernetes.io/serviceaccount
mount --bind "$2" /etc/hosts
shift 2
exec "$@"
"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
    command.args([account, hosts, program]);
    command.env("KUBERNETES_SERVICE_HOST", ADDRESS);
    command.env("KUBERNETES_SERVICE_PORT", PORT.to_string());
    command
}
