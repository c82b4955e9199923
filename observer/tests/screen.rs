//! `observer top` on a real terminal, that of tmux: what it shows is what `/metrics` says, at 80 columns and at 200, and each
//! key does what the help says. Those who are shown are containers of Docker and Podman, by the names that these gave them.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio, id},
    time::Duration,
};

use support::{
    cgroup::TestCgroup,
    daemon::{self, Daemon},
    lock::SystemLock,
    metrics::{Expected, Metrics},
    poll::poll,
    process::{Process, run_to_end},
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Containers: the servers and who talks to each.
struct Containers {
    chat: TestCgroup,
    browsers: TestCgroup,
    quotes: TestCgroup,
    traders: TestCgroup,
    /// Where their runtimes have noted their names.
    state: TempDir,
}

impl Containers {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let docker = |name: &str, number: u32| {
            let id = container_id(number);
            let directory = state.path().join("containers").join(&id);
            fs::create_dir_all(&directory).expect("a directory");
            let text = serde_json::json!({"ID": &id, "Name": format!("/{name}")}).to_string();
            fs::write(directory.join("config.v2.json"), text).expect("it can be written");
            TestCgroup::new(&format!("observer.slice/docker-{id}.scope"))
        };
        let (chat, browsers) = (docker("x-chat", 1), docker("x-browsers", 2));
        let podman = [("x-quotes", 3), ("x-traders", 4)];
        let stored = podman.map(|(name, number)| {
            serde_json::json!({"id": container_id(number), "names": [name], "image": "", "layer": ""})
        });
        let directory = state.path().join("overlay-containers");
        fs::create_dir(&directory).expect("a directory");
        let text = serde_json::json!(stored).to_string();
        fs::write(directory.join("containers.json"), text).expect("it can be written");
        let [quotes, traders] = podman.map(|(_, number)| {
            let id = container_id(number);
            TestCgroup::new(&format!("observer.slice/libpod-{id}.scope/container"))
        });
        Self { chat, browsers, quotes, traders, state }
    }
}

fn container_id(number: u32) -> String {
    // The first twelve digits tell one from another.
    format!("{number:08x}{:056x}", id())
}

/// Connections that stay: 7 of chat, after 40 that are over, of which 12 were reset; 3 of quotes.
struct Stage {
    daemon: Daemon,
    directory: TempDir,
    _drivers: [Driver; 2],
    chat: Server,
    _quotes: Server,
    containers: Containers,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let containers = Containers::new();
        let socket = directory.path().join("observer.sock");
        let state = containers.state.path();
        let daemon = Daemon::start(&["--socket", text(&socket), "--container-state", text(state)]);
        let listen = ([127, 0, 0, 1], 0).into();
        let chat = Server::start(Protocol::Ws, listen, &containers.chat, None);
        let quotes = Server::start(Protocol::Grpc, listen, &containers.quotes, None);
        let drive = |of: Protocol, server: &Server, short, long, from: &TestCgroup| {
            let drive = Drive { short, long, ..Drive::new(of, server.addr) };
            let mut driver = Driver::start(&drive, from, None);
            driver.ready();
            driver
        };
        drive(Protocol::Ws, &chat, 0, 12, &containers.browsers).reset();
        let drivers = [
            drive(Protocol::Ws, &chat, 28, 7, &containers.browsers),
            drive(Protocol::Grpc, &quotes, 0, 3, &containers.traders),
        ];
        Self { daemon, directory, _drivers: drivers, chat, _quotes: quotes, containers }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("observer.sock")
    }

    /// Metrics in which all that happens has happened.
    fn settled(&self) -> Metrics {
        let of = |name, pod, value| Expected::sum(name, &[("pod", pod)], value);
        self.daemon.wait_for(
            PATIENCE,
            &[
                of("tcp_connections_active", "x-chat", 7),
                of("tcp_connections_active", "x-browsers", 7),
                of("tcp_connections_active", "x-quotes", 3),
                of("tcp_connections_active", "x-traders", 3),
                of("tcp_connections_closed_total", "x-chat", 40),
                of("tcp_connections_closed_total", "x-browsers", 40),
            ],
        )
    }

    fn screen(&self, width: u16, height: u16) -> Screen {
        Screen::start(&self.socket(), width, height)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// `observer top` on a terminal of its own.
struct Screen {
    directory: TempDir,
    /// The terminal; it ends with the test, however that ends.
    _tmux: Process,
}

impl Screen {
    fn start(socket: &Path, width: u16, height: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut tmux = Command::new("setpriv");
        tmux.args(["--pdeathsig", "KILL", "tmux", "-D", "-u", "-f", "/dev/null", "-S"]);
        tmux.arg(directory.path().join("tmux")).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        tmux.env("SHELL", "/bin/sh").stdin(Stdio::null()).stdout(Stdio::null());
        let child = tmux.spawn().expect("setpriv runs");
        let screen = Self { directory, _tmux: Process::new(child, "tmux") };
        let there = poll(PATIENCE, || screen.directory.path().join("tmux").exists().then_some(()));
        there.expect("`cargo xtask setup --tests` installs tmux");
        // What is left on the screen after its end is looked at, too.
        let program = format!(
            "echo before; {} top --socket {}; echo \"code $?\"; exec cat",
            daemon::executable().display(),
            socket.display()
        );
        let (width, height) = (width.to_string(), height.to_string());
        screen.tmux(&["new-session", "-d", "-x", &width, "-y", &height, &program]);
        screen
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command.args(["-u", "-N", "-S"]).arg(self.directory.path().join("tmux")).args(args);
        let Output { status, stdout, stderr } = run_to_end(&mut command, PATIENCE);
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("text")
    }

    /// The lines of the screen, without what is blank at their ends.
    fn lines(&self) -> Vec<String> {
        let shown = self.tmux(&["capture-pane", "-p"]);
        shown.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Presses keys, as tmux calls them.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen is as it should be.
    fn wait(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
        let found = poll(PATIENCE, || Some(self.lines()).filter(|lines| holds(lines)));
        found.unwrap_or_else(|| panic!("{what}: {}", self.lines().join("\n")))
    }

    /// Presses keys and waits until the body of the screen is this.
    fn shows(&self, keys: &[&str], body: &[&str]) {
        self.press(keys);
        let is_it = |lines: &[String]| {
            let shown = lines.iter().skip(3).take(body.len() + 1).map(String::as_str);
            shown.eq(body.iter().copied().chain([""]))
        };
        self.wait(&format!("after {keys:?} {body:#?} was expected"), is_it);
    }

    /// Presses keys and waits until a line has these words.
    fn says(&self, keys: &[&str], words: &str) {
        self.press(keys);
        self.wait(&format!("after {keys:?} {words:?} was expected"), |lines| {
            lines.iter().any(|line| line.contains(words))
        });
    }
}

/// What `/metrics` says of a container's connections.
struct Figures {
    active: u64,
    closed: BTreeMap<String, u64>,
    short: u64,
}

impl Figures {
    fn of(metrics: &Metrics, pod: &str) -> Self {
        let labels = [("pod", pod)];
        let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as u64;
        let reasons =
            ["local", "peer", "reset_local", "reset_peer", "timeout", "aborted", "unknown"];
        let closed = reasons.map(|reason| {
            let labels = [labels[0], ("reason", reason)];
            (reason.to_owned(), sum("tcp_connections_closed_total", &labels))
        });
        Self {
            active: sum("tcp_connections_active", &labels),
            closed: closed.into(),
            short: sum("tcp_connection_duration_seconds_bucket", &[labels[0], ("le", "1")]),
        }
    }

    fn bad(&self) -> u64 {
        let orderly = ["local", "peer"].map(|reason| self.closed[reason]);
        self.closed.values().sum::<u64>() - orderly.iter().sum::<u64>()
    }
}

/// The two rows of a pair of containers, and which comes first.
const ROWS: [(&str, &str, &str); 4] = [
    ("docker/x-browsers", "client", "websocket"),
    ("docker/x-chat", "server", "websocket"),
    ("podman/x-quotes", "server", "grpc"),
    ("podman/x-traders", "client", "grpc"),
];

fn figures(metrics: &Metrics) -> Vec<(&'static str, &'static str, &'static str, Figures)> {
    ROWS.map(|(name, role, protocol)| {
        let (_, pod) = name.split_once('/').expect("a namespace and a name");
        (name, role, protocol, Figures::of(metrics, pod))
    })
    .into()
}

/// The table of pods at rest.
fn pods(metrics: &Metrics) -> Vec<String> {
    let heading =
        "  NAME              ROLE   PROTOCOL    ACTIVE▼  NEW/S  END/S   BAD   IN/S  OUT/S";
    let rows = figures(metrics).into_iter().map(|(name, role, protocol, figures)| {
        let (active, bad) = (figures.active, figures.bad());
        let mark = if bad > 0 { "!" } else { " " };
        let line = format!("{mark} {name:<17} {role:<6} {protocol:<11} {active:>7}      0      0");
        format!("{line} {bad:>5}      0      0")
    });
    [heading.to_owned()].into_iter().chain(rows).collect()
}

fn lines(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

#[test]
fn every_key_does_what_the_help_says_on_eighty_columns() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new();
    let metrics = stage.settled();
    let screen = stage.screen(80, 24);
    let table = pods(&metrics);
    let table = lines(&table);
    assert_eq!(Figures::of(&metrics, "x-chat").bad(), 12, "that many were reset");
    let head = screen.wait("the head", |lines| {
        let all = stage.daemon.scrape().sum("tcp_connections_active", &[]);
        lines[1].starts_with(&format!("{all} active  ")) && lines[1].contains("  lost 0  slots ")
    });
    assert_eq!(head[2], " 1 Workloads  2 Pods  3 Ends  4 Connections  5 Agent");
    assert!(head[23].starts_with("q end  1-5 views"), "{head:#?}");

    // Whoever else has connections on this machine is left out. It begins with the pods, whose rates are those between two
    // looks: 0, once all has happened.
    screen.shows(&["/", "x", "-", "Enter"], &table);

    // Order: by each column in turn, and reversed. What is equal is in the order of names.
    let by = |of: &str, mark: &str, rows: [usize; 4]| -> Vec<String> {
        let heading = table[0].replace("ACTIVE▼", " ACTIVE");
        // Beside it there is room at the side from which its column is not aligned.
        let place = if of == "NAME" { "NAME ".to_owned() } else { format!(" {of}") };
        let heading = heading.replacen(&place, &format!("{of}{mark}"), 1);
        [heading].into_iter().chain(rows.map(|row| table[row].to_owned())).collect()
    };
    for of in ["NEW/S", "END/S", "BAD", "IN/S", "OUT/S", "NAME"] {
        screen.shows(&["s"], &lines(&by(of, "▼", [1, 2, 3, 4])));
    }
    screen.shows(&["S"], &lines(&by("NAME", "▲", [4, 3, 2, 1])));
    screen.shows(&["S", "s"], &table);

    // Only what is troubled.
    screen.shows(&["e"], &[table[0], table[1], table[2]]);
    screen.says(&[], "only trouble");
    screen.shows(&["e"], &table);

    // The filter, letter by letter; Enter ends it, Esc forgets it.
    screen.says(&["/", "Space", "g", "r", "p"], "/x- grp_");
    screen.shows(&["BSpace"], &[table[0], table[3], table[4]]);
    screen.says(&["Enter"], "filter: x- gr  ");
    screen.press(&["Escape"]);
    screen.wait("nothing is filtered", |lines| lines[23].starts_with("q end  1-5 views"));
    screen.shows(&["/", "x", "-", "Enter"], &table);

    // Pause.
    screen.says(&["p"], "PAUSED");
    screen.press(&["Space"]);
    screen.wait("it goes on", |lines| lines.iter().all(|line| !line.contains("PAUSED")));

    // The views: by their numbers, and one after the other.
    screen.says(&["5"], "ok    nothing was lost");
    screen.press(&["Tab"]);
    screen.wait("another view", |lines| lines.iter().all(|line| !line.starts_with("ok ")));
    screen.says(&["BTab"], "ok    nothing was lost");
    let ends = figures(&metrics).into_iter().map(|(name, role, protocol, figures)| {
        let of = |reason: &str| figures.closed[reason];
        let mark = if figures.bad() > 0 { "!" } else { " " };
        format!(
            "{mark} {name:<22} {role:<6} {protocol:<11} {:>6} {:>6} {:>7} {:>6} {:>7}",
            of("local"),
            of("peer"),
            of("reset_local"),
            of("reset_peer"),
            of("timeout")
        )
    });
    let heading =
        "  NAME                   ROLE   PROTOCOL     LOCAL   PEER RST OUT RST IN TIMEOUT";
    let ends: Vec<String> = [heading.to_owned()].into_iter().chain(ends).collect();
    screen.shows(&["3"], &lines(&ends));

    // Down into the pod that is selected, and back.
    screen.shows(&["2"], &table);
    screen.says(&["j", "Down", "k", "Enter"], "Agent   x-chat");
    screen.says(&[], "7 of 7 connections, the oldest first");
    let port = format!("127.0.0.1:{}", stage.chat.addr.port());
    let shown = screen.wait("the connections of chat", |lines| {
        lines.iter().filter(|line| line.contains(&port)).count() == 7
    });
    assert!(shown.iter().all(|line| !line.contains("grpc")), "{shown:#?}");
    screen.shows(&["Escape"], &table);
    // The ends of the list, and no further.
    for (keys, name) in [
        (&["G"][..], "x-traders"),
        (&["g"], "x-browsers"),
        (&["NPage"], "x-traders"),
        (&["PPage"], "x-browsers"),
        (&["End"], "x-traders"),
        (&["Home"], "x-browsers"),
    ] {
        screen.says(&[keys, &["Enter"]].concat(), &format!("Agent   {name}"));
        screen.shows(&["BSpace"], &table);
    }
    screen.says(&["4"], " connections, the oldest first");

    // The help, which names each of these keys, and then the end: the screen is as it was before.
    screen.says(&["2", "?"], " Keys ");
    screen.shows(&["Escape"], &table);
    screen.press(&["q"]);
    let left = screen.wait("it ends", |lines| lines.iter().any(|line| line.starts_with("code")));
    let left: Vec<&str> = left.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    assert_eq!(left, ["before", "code 0"]);
}

#[test]
fn two_hundred_columns_show_all() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new();
    let metrics = stage.settled();
    let screen = stage.screen(200, 50);
    // Before it listens, the terminal takes Enter for something else.
    screen.says(&[], "q end  1-5 views");
    screen.press(&["/", "x", "-", "Enter"]);
    let shown = screen.wait("rates at rest and a whole trend", |lines| {
        let rows: Vec<&String> = lines.iter().filter(|line| line.contains("docker/")).collect();
        rows.len() == 2 && rows.iter().all(|row| row.contains("████████████"))
    });
    let heading: Vec<&str> = shown[3].split_whitespace().collect();
    let expected = [
        "NAME",
        "PODS",
        "ROLE",
        "PROTOCOL",
        "PORTS",
        "ACTIVE▼",
        "TREND",
        "NEW/S",
        "END/S",
        "BAD",
        "CUT",
        "IN/S",
        "OUT/S",
        "MSG",
        "IN",
        "MSG",
        "OUT",
        "RTT",
    ];
    assert_eq!(heading, expected);
    for (row, (name, role, protocol, figures)) in shown[4..].iter().zip(figures(&metrics)) {
        let mut cells: Vec<&str> = row.split_whitespace().collect();
        if figures.bad() > 0 {
            assert_eq!(cells.remove(0), "!");
        }
        let (active, bad) = (figures.active.to_string(), figures.bad().to_string());
        assert_eq!([cells[0], cells[1], cells[2], cells[3]], [name, "1", role, protocol]);
        let rest = [cells[5], cells[6], cells[7], cells[8], cells[9]];
        assert_eq!(rest, [&active, "████████████", "0", "0", &bad], "{row}");
    }
    // What 80 columns leave out of the ends.
    screen.says(&["3"], "ABORT");
    let shown = screen.lines();
    for (row, (name, .., figures)) in shown[4..].iter().zip(figures(&metrics)) {
        let cells: Vec<&str> = row.split_whitespace().filter(|cell| *cell != "!").collect();
        let reasons =
            ["local", "peer", "reset_local", "reset_peer", "timeout", "aborted", "unknown"];
        let numbers = reasons.map(|reason| figures.closed[reason].to_string());
        assert_eq!((cells[0], &cells[3..10]), (name, &numbers.each_ref().map(String::as_str)[..]));
        assert_eq!(cells[10], figures.short.to_string(), "{row}");
    }
    // Whoever ends it from elsewhere gets the screen back, too.
    screen.press(&["C-c"]);
    screen.wait("it ends", |lines| lines.iter().any(|line| line == "code 0"));
    drop(stage.containers.state);
}

/// As when a connection by SSH breaks.
#[test]
fn a_terminal_that_goes_away_ends_it() {
    let _lock = SystemLock::acquire();
    let stage = Stage::new();
    let screen = stage.screen(80, 24);
    screen.says(&[], "q end  1-5 views");
    let socket = stage.socket();
    let running = || -> Vec<u32> {
        let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_it = |process: &u32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"top"[..]) && words.contains(&text(&socket).as_bytes())
        };
        processes.filter(is_it).collect()
    };
    assert_eq!(running().len(), 1);
    drop(screen);
    let gone = poll(PATIENCE, || running().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?} are left", running());
}
