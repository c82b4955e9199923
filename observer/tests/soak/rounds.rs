//! The kinds of rounds.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use fastrand::Rng;

use observer_common::wire::slot::RESERVED_SLOTS;

use crate::{
    accounts::{Account, Compared, Watch, strays},
    bulk::Bulk,
    held::{Held, Place, Way},
    report::Reached,
    storm::{Calm, Storm},
    support::{
        bpffs::Bpffs,
        cgroup::ROOT,
        daemon::Daemon,
        netns::{Netns, NetnsPair},
        pod::Pod,
        scale::{is_slow, patience, scaled},
        workload::Protocol,
    },
};

/// Connections that one process may hold; a file each, of which root without `CAP_SYS_RESOURCE` gets 20,000.
const PER_PROCESS: u64 = 16_000;
/// Messages of a flood, on all connections together.
const FLOOD: u64 = 2_000_000;
/// Daemons that are killed in a round with pins.
const KILLS: u32 = 3;
/// Loads in a round of sizes.
const BULKS: usize = 8;
/// How long a storm lasts that is measured.
const STORM: Duration = Duration::from_secs(5);
/// Until a pod has a name, at most.
const NAMED: Duration = Duration::from_mins(1);

/// What a round is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Load,
    Sizes,
    Faults,
    SmallTable,
    Restart,
    Pinned,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Load, Self::Sizes, Self::Faults, Self::SmallTable, Self::Restart, Self::Pinned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Sizes => "sizes",
            Self::Faults => "faults",
            Self::SmallTable => "small table",
            Self::Restart => "restart",
            Self::Pinned => "pinned",
        }
    }
}

/// One thing that goes wrong in a round of faults.
#[derive(Clone, Copy, Debug)]
enum Fault {
    StormLosesClient,
    StormLosesServer,
    NamespaceVanishes,
    CgroupRemoved,
    HeldEnd,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::StormLosesClient,
        Self::StormLosesServer,
        Self::NamespaceVanishes,
        Self::CgroupRemoved,
        Self::HeldEnd,
    ];
}

/// Where a round takes place.
pub(crate) struct Stage {
    random: Rng,
    /// Connections to hold in a round of load.
    held: u64,
    namespaces: NetnsPair,
    watch: Watch,
    /// What must be shown of all that is over, and the cgroups that stay until the round's end.
    over: Vec<Account>,
    kept: Vec<Pod>,
    /// Of what a daemon has seen a part: only the resets can be told.
    partly: Vec<Account>,
    reached: Reached,
}

/// Two namespaces with room for all that storms leave behind. A client that closes a connection when there are too many
/// in `TIME_WAIT` forgets it at once, and answers its server's FIN with a reset.
fn namespaces() -> NetnsPair {
    let pair = NetnsPair::new();
    for netns in [&pair.a, &pair.b] {
        netns.set("ipv4/tcp_max_tw_buckets", "10000000");
        // The kernel looks for a free port one by one: half of them must be free.
        netns.set("ipv4/ip_local_port_range", "1024 65535");
    }
    pair
}

/// Short connections a second without anybody watching.
pub(crate) fn unobserved(seed: u64) -> f64 {
    let namespaces = namespaces();
    let storm = Storm::start(&namespaces.a, seed);
    thread::sleep(STORM);
    let Calm { connections, took, .. } = storm.end();
    connections as f64 / took.as_secs_f64()
}

impl Stage {
    pub(crate) fn new(random: Rng, held: u64) -> Self {
        Self {
            random,
            held,
            namespaces: namespaces(),
            watch: Watch::default(),
            over: Vec::new(),
            kept: Vec::new(),
            partly: Vec::new(),
            reached: Reached::default(),
        }
    }

    /// Runs the round; panics with what does not add up.
    pub(crate) fn run(&mut self, kind: Kind) -> Reached {
        match kind {
            Kind::Load => self.load(),
            Kind::Sizes => self.sizes(),
            Kind::Faults => self.faults(),
            Kind::SmallTable => self.small_table(),
            Kind::Restart => self.restart(),
            Kind::Pinned => self.pinned(),
        }
        self.over.clear();
        self.kept.clear();
        std::mem::take(&mut self.reached)
    }

    fn load(&mut self) {
        let daemon = Daemon::start(&[]);
        let mut groups = Vec::new();
        let mut left = self.held;
        while left > 0 {
            let long = left.min(PER_PROCESS);
            let place = Place::Loopback(&self.namespaces.a);
            groups.push(Held::start(Protocol::Ws, place, 0, long));
            left -= long;
        }
        groups.iter_mut().for_each(Held::up);
        self.check(&daemon, &groups);
        self.reached.held = groups.iter().map(Held::active).sum();
        self.reached.resident_kib = resident_kib(daemon.id());

        let each = FLOOD.min(self.held * 100) / self.held;
        let started = Instant::now();
        self.reached.messages = groups.iter_mut().map(|group| group.flood(each.max(1))).sum();
        self.reached.flood_seconds = started.elapsed().as_secs_f64();
        self.check(&daemon, &groups);

        let storm = Storm::start(&self.namespaces.a, self.random.u64(..));
        self.watch_for(&daemon, STORM);
        self.calm(storm.end());
        for group in groups {
            self.end(group);
        }
        self.check(&daemon, &[]);
        daemon.stop();
    }

    /// Messages and bytes of all sizes, by direction. What was lost cannot be excused here.
    fn sizes(&mut self) {
        let daemon = Daemon::start(&[]);
        let (a, b) = (&self.namespaces.a, &self.namespaces.b);
        let random = &mut self.random;
        let bulks: Vec<_> = (0..if is_slow() { 2 } else { BULKS })
            .map(|_| {
                let place = if random.bool() { Place::Loopback(a) } else { Place::Cable(a, b) };
                let bulk = Bulk::run(place, random);
                // While its cgroups are there: one that comes and goes between two walks of the tree has no name.
                for pod in &bulk.pods {
                    let labels = [("pod", pod.name.as_str())];
                    daemon.wait_until(patience(NAMED), |metrics| {
                        !metrics.select("tcp_connections_opened_total", &labels).is_empty()
                    });
                }
                bulk
            })
            .collect();
        for Bulk { accounts, pods, messages } in bulks {
            self.reached.messages += messages;
            self.put_away(accounts, pods);
        }
        self.check(&daemon, &[]);
        let lost = daemon.scrape().sum("observer_lost_total", &[]);
        assert!(lost == 0.0, "{lost} losses");
        daemon.stop();
    }

    fn faults(&mut self) {
        let daemon = Daemon::start(&[]);
        let background = Storm::start(&self.namespaces.a, self.random.u64(..));
        let mut groups = self.groups();
        groups.iter_mut().for_each(Held::up);
        self.check(&daemon, &groups);
        let times = if is_slow() { 1 } else { 2 };
        let mut faults = Fault::ALL.repeat(times);
        self.random.shuffle(&mut faults);
        for fault in faults {
            self.fault(fault, &daemon, &mut groups);
            self.check(&daemon, &groups);
        }
        groups.iter_mut().for_each(Held::talk);
        self.check(&daemon, &groups);
        for group in groups {
            self.end(group);
        }
        self.calm(background.end());
        self.check(&daemon, &[]);
        daemon.kill();
    }

    fn fault(&mut self, fault: Fault, daemon: &Daemon, groups: &mut Vec<Held>) {
        match fault {
            Fault::StormLosesClient | Fault::StormLosesServer => {
                let mut storm = Storm::start(&self.namespaces.b, self.random.u64(..));
                storm.wait();
                // A cgroup must be met while it is there, or its name is never known.
                self.watch.look(daemon);
                let calm = match fault {
                    Fault::StormLosesClient => storm.kill_client(),
                    _ => storm.kill_server(),
                };
                self.put_away(calm.accounts, calm.pods);
            }
            Fault::NamespaceVanishes => {
                let namespaces = NetnsPair::new();
                let place = Place::Cable(&namespaces.a, &namespaces.b);
                let mut group = Held::start(self.protocol(), place, scaled(50), scaled(50));
                group.up();
                self.check(daemon, std::slice::from_ref(&group));
                let (accounts, pods) = group.end(Way::KillBoth);
                drop(namespaces);
                // Which FIN still got through nobody knows.
                self.put_away(accounts.map(Account::anyhow), pods);
            }
            Fault::CgroupRemoved => {
                let protocol = self.protocol();
                let place = Place::Loopback(&self.namespaces.b);
                let mut group = Held::start(protocol, place, scaled(50), scaled(50));
                group.up();
                self.check(daemon, std::slice::from_ref(&group));
                group.orphan();
                group.talk();
                groups.push(group);
            }
            Fault::HeldEnd => {
                if !groups.is_empty() {
                    let group = groups.swap_remove(self.random.usize(..groups.len()));
                    self.end(group);
                }
            }
        }
    }

    /// What finds no cell of its own is counted together with others: only the sums can be compared. The tree that is
    /// watched is the kubelet's, since nobody else's connections must be among them.
    fn small_table(&mut self) {
        let first = Pod::new();
        let tree = ROOT.join("kubepods.slice");
        let cells = (RESERVED_SLOTS + self.random.u32(4..44)).to_string();
        let daemon = Daemon::start(&["--cells", &cells, "--cgroup-root", &tree.to_string_lossy()]);
        let mut groups: Vec<_> = (0..8).flat_map(|_| self.groups()).collect();
        groups.iter_mut().for_each(Held::up);
        self.sums(&daemon, &groups);
        for group in groups {
            self.end(group);
            if self.random.bool() {
                // Its cgroups go at once, and their cells are used again.
                self.kept.clear();
            }
        }
        self.sums(&daemon, &[]);
        daemon.kill();
        drop(first);
    }

    fn restart(&mut self) {
        let daemon = Daemon::start(&[]);
        let mut storm = Storm::start(&self.namespaces.a, self.random.u64(..));
        storm.wait();
        let mut carried = self.groups();
        carried.iter_mut().for_each(Held::up);
        self.check(&daemon, &carried);
        daemon.kill();

        let daemon = Daemon::start(&[]);
        self.watch = Watch::default();
        carried.iter_mut().for_each(Held::adopt);
        self.check(&daemon, &carried);
        carried.iter_mut().for_each(Held::recognise);
        self.check(&daemon, &carried);
        carried.iter_mut().for_each(Held::talk);
        let mut groups = self.groups();
        groups.iter_mut().for_each(Held::up);
        groups.append(&mut carried);
        self.check(&daemon, &groups);
        self.random.shuffle(&mut groups);
        for group in groups {
            self.end(group);
        }
        let Calm { accounts, pods, .. } = storm.end();
        for account in &accounts {
            self.watch.over(&daemon, &account.pod);
        }
        self.partly.extend(accounts);
        drop(pods);
        self.check(&daemon, &[]);
        daemon.stop();
    }

    /// Killed again and again, with connections opened and ended while there is no daemon; nothing may be missing.
    fn pinned(&mut self) {
        let bpffs = Bpffs::new();
        let pin = ["--pin", bpffs.pins()];
        let mut daemon = Daemon::start(&pin);
        let mut storm = Storm::start(&self.namespaces.a, self.random.u64(..));
        storm.wait();
        let mut groups = self.groups();
        groups.iter_mut().for_each(Held::up);
        self.check(&daemon, &groups);
        for _ in 0..KILLS {
            daemon.kill();
            let group = groups.swap_remove(self.random.usize(..groups.len()));
            let (accounts, pods) = group.end(Way::any(&mut self.random));
            self.over.extend(accounts);
            // What goes while nobody looks stays without a name.
            self.kept.extend(pods);
            groups.iter_mut().for_each(Held::talk);
            let mut more = self.groups();
            more.iter_mut().for_each(Held::up);
            groups.extend(more);
            daemon = Daemon::start(&pin);
            self.check(&daemon, &groups);
        }
        self.calm(storm.end());
        for group in groups {
            self.end(group);
        }
        self.check(&daemon, &[]);
        daemon.stop();
    }

    /// One group of each protocol, on loopback or a cable, of any size.
    fn groups(&mut self) -> Vec<Held> {
        let (a, b) = (&self.namespaces.a, &self.namespaces.b);
        let random = &mut self.random;
        Protocol::ALL
            .into_iter()
            .map(|protocol| {
                let place = if random.bool() { Place::Loopback(a) } else { Place::Cable(a, b) };
                let [short, long] = [(); 2].map(|()| random.u64(1..=scaled(200)));
                Held::start(protocol, place, short, long)
            })
            .collect()
    }

    fn protocol(&mut self) -> Protocol {
        Protocol::ALL[self.random.usize(..Protocol::ALL.len())]
    }

    /// Ends a group in any way, and removes its cgroups at once or later.
    fn end(&mut self, group: Held) {
        let (accounts, pods) = group.end(Way::any(&mut self.random));
        self.put_away(accounts, pods);
    }

    fn calm(&mut self, calm: Calm) {
        self.reached.connections += calm.connections;
        self.reached.storm_seconds += calm.took.as_secs_f64();
        self.put_away(calm.accounts, calm.pods);
    }

    fn put_away(&mut self, accounts: [Account; 2], pods: [Pod; 2]) {
        self.over.extend(accounts);
        if self.random.bool() {
            self.kept.extend(pods);
        }
    }

    /// Scrapes as others do, for a while.
    fn watch_for(&mut self, daemon: &Daemon, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.watch.look(daemon);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Compares all that is over and all that is held.
    fn check(&mut self, daemon: &Daemon, held: &[Held]) {
        let accounts = self.accounts(held);
        let (NetnsPair { a, b, .. }, partly) = (&self.namespaces, &self.partly);
        let strays = |netns: &Netns| {
            strays(netns.name(), netns.resets_sent(), accounts.iter().chain(partly))
        };
        let of_both = || [a, b].map(|netns| (netns.name().to_owned(), strays(netns))).into();
        let compared = self.watch.settle(daemon, &accounts, of_both);
        self.judge(daemon, compared);
    }

    /// Compares the sums over all pods, by role, protocol and reason.
    fn sums(&mut self, daemon: &Daemon, held: &[Held]) {
        let accounts = self.accounts(held);
        let compared = self.watch.settle_sums(daemon, &accounts);
        self.judge(daemon, compared);
    }

    /// Goes on if all was right.
    fn judge(&mut self, daemon: &Daemon, compared: Result<Compared, String>) {
        let Compared { series, otherwise } =
            compared.unwrap_or_else(|wrong| self.give_up(daemon, &wrong));
        self.reached.compared += series;
        // All that is over is compared again each time.
        self.reached.otherwise = otherwise;
    }

    /// Of all that is over and all that is held.
    fn accounts(&self, held: &[Held]) -> Vec<Account> {
        self.over.iter().cloned().chain(held.iter().flat_map(Held::accounts)).collect()
    }

    /// Tells what may explain the difference: what the observer has missed and what it shows, and which sockets the kernel
    /// has: one for whose FIN there was no memory stays open (`tcp_send_fin`).
    fn give_up(&self, daemon: &Daemon, wrong: &str) -> ! {
        for sample in daemon.scrape().samples {
            let telling =
                sample.name.starts_with("observer_") || sample.name.starts_with("tcp_connections_");
            if telling && sample.value != 0.0 {
                println!("{sample} {}", sample.value);
            }
        }
        for netns in [&self.namespaces.a, &self.namespaces.b] {
            println!("{}:\n{}", netns.name(), netns.sockets());
        }
        panic!("{wrong}");
    }
}

/// Resident memory of a process.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|text| text.split_whitespace().next()?.parse().ok()).expect("it is running")
}
