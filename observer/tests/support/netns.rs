//! Two network namespaces joined by a cable, for traffic that leaves its host.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, setns};

use super::lock::require_root;

/// A named network namespace with an up `lo` and an up `veth0`.
pub(crate) struct Netns {
    name: String,
    /// `veth0`'s addresses; the same in every pair, since namespaces share nothing.
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Netns {
    fn new(name: String, host: u8) -> Self {
        ip(&format!("netns add {name}"));
        // Both ranges are reserved for examples: they lead nowhere, should anything go astray.
        let ipv4 = Ipv4Addr::new(192, 0, 2, host);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host));
        Self { name, ipv4, ipv6 }
    }

    /// The name that `ip netns` knows.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The address towards the other namespace of the pair.
    pub(crate) fn ipv4(&self) -> IpAddr {
        self.ipv4.into()
    }

    /// The address towards the other namespace of the pair.
    pub(crate) fn ipv6(&self) -> IpAddr {
        self.ipv6.into()
    }

    /// The file that stands for the namespace.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Makes the command's process enter the namespace before it executes anything.
    pub(crate) fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let namespace = File::open(self.path())
            .unwrap_or_else(|error| panic!("no namespace {}: {error}", self.name));
        let enter = move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec the closure makes one system call on a file that was
        // opened before. It neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) }
    }

    /// Writes a setting of the namespace below `/proc/sys/net`.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        let write = format!("echo {value} > /proc/sys/net/{setting}");
        let status = self.enter(Command::new("sh").args(["-c", &write])).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot set {setting}");
    }

    /// Its IPv4 TCP sockets as `/proc/net/tcp` has them, but for those in `TIME_WAIT`, a hundred at most; and how many
    /// there are as `/proc/net/sockstat` has it: `alloc` has also those that no table has.
    pub(crate) fn sockets(&self) -> String {
        const TIME_WAIT: &str = "06";
        let table = self.read(&["/proc/net/sockstat", "/proc/net/tcp"]);
        let state = |line: &&str| line.split_whitespace().nth(3) != Some(TIME_WAIT);
        table.lines().filter(state).take(100).collect::<Vec<_>>().join("\n")
    }

    /// Resets that its sockets and its kernel have sent (`OutRsts` of `/proc/net/snmp`).
    pub(crate) fn resets_sent(&self) -> u64 {
        let table = self.read(&["/proc/net/snmp"]);
        // A line of names, and one of values.
        let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let mut words = [(); 2].map(|()| lines.next().unwrap_or_default().split_whitespace());
        let [names, values] = &mut words;
        let sent = names
            .zip(values)
            .find_map(|(name, value)| (name == "OutRsts").then(|| value.parse().ok()));
        sent.flatten().expect("the kernel counts the resets that it sends")
    }

    /// What files of `/proc/net` say there, one after the other; nothing if they cannot be read.
    fn read(&self, files: &[&str]) -> String {
        let output = self.enter(Command::new("cat").args(files)).output();
        let said = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Configures the cable's end and brings the namespace up.
    fn configure(&self) {
        // Duplicate address detection would keep the address unusable for a second or two.
        ip(&format!("-n {} address add {}/64 dev veth0 nodad", self.name, self.ipv6));
        ip(&format!("-n {} address add {}/24 dev veth0", self.name, self.ipv4));
        ip(&format!("-n {} link set veth0 up", self.name));
        ip(&format!("-n {} link set lo up", self.name));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The cable goes with the first of its ends. Processes inside would keep the namespace,
        // but not its name.
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("the network namespace {} could not be removed", self.name);
        }
    }
}

/// Two namespaces that reach each other over IPv4 and IPv6, and nothing else.
pub(crate) struct NetnsPair {
    /// One end, `.1` and `::1` of the example networks.
    pub(crate) a: Netns,
    /// The other end, `.2` and `::2`.
    pub(crate) b: Netns,
}

impl NetnsPair {
    /// Makes both and plugs the cable in. They go when this value does.
    pub(crate) fn new() -> Self {
        static PAIRS: AtomicU32 = AtomicU32::new(0);
        require_root();
        let stem = format!("observer-{}-{}", process::id(), PAIRS.fetch_add(1, Ordering::Relaxed));
        let pair =
            Self { a: Netns::new(format!("{stem}-a"), 1), b: Netns::new(format!("{stem}-b"), 2) };
        let (a, b) = (pair.a.name(), pair.b.name());
        ip(&format!("-n {a} link add veth0 type veth peer name veth0 netns {b}"));
        pair.a.configure();
        pair.b.configure();
        pair
    }
}

/// Runs `ip` with these arguments; panics with its complaint if it fails.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run ip (iproute2): {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
}
