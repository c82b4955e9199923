//! What keeps observer from running is said in one line with its remedy, has the documented exit
//! code, and leaves nothing in the kernel. A signal that ends it leaves nothing either.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    fs::{self, Permissions},
    io::Read as _,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{
    cgroup::TestCgroup,
    daemon::{Daemon, executable},
    leaks::BpfSnapshot,
    lock::SystemLock,
    poll::poll,
    process::{Process, run_to_end},
    scale::scaled,
    workload::{Drive, Driver, Protocol, Server},
};
use tempfile::TempDir;

/// How long a refusal may take; loading the programs comes first in some.
const PATIENCE: Duration = Duration::from_mins(1);

// The exit codes as documented in `observer --help`.
const USAGE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const ADDRESS: i32 = 4;

/// A free port, so that the address is not what fails.
const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// `observer` with these arguments, and nothing of the tests' own environment.
fn observer(args: &[&str]) -> Command {
    clean(Command::new(executable()), args)
}

/// `observer` in a mount namespace of its own, which the shell changes first.
fn observer_in_mounts(change: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{change} && exec \"$@\""), "sh"]);
    clean(command, &[&[executable().to_str().expect("a readable path")], args].concat())
}

fn clean(mut command: Command, args: &[&str]) -> Command {
    command.args(args).env_remove("RUST_LOG").env_remove("NODE_NAME").env_remove("NO_COLOR");
    command
}

/// How a program ended that was expected to end by itself, and left nothing in the kernel.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(mut command: Command) -> Self {
        let before = BpfSnapshot::take();
        let output = run_to_end(&mut command, PATIENCE);
        before.assert_same();
        let text = |bytes| String::from_utf8(bytes).expect("observer speaks UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn context(&self) -> String {
        let Self { code, stdout, stderr } = self;
        format!("exit code {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }

    /// The refusal of `run`: the log, then one line with all of `words`, then the end.
    fn refused(&self, code: i32, words: &[&str]) {
        let context = self.context();
        assert_eq!(self.code, Some(code), "{context}");
        assert_eq!(self.stdout, "", "{context}");
        assert!(!self.stderr.contains('\x1b'), "colours, and no terminal: {context}");
        let errors: Vec<_> = self.stderr.lines().filter(|l| l.starts_with("observer: ")).collect();
        let [error] = errors[..] else { panic!("not one line of error: {context}") };
        assert_eq!(self.stderr.lines().last(), Some(error), "{context}");
        for word in words {
            assert!(error.contains(word), "`{word}` is not in the error: {context}");
        }
        // What the kernel said must be there once, not once for each layer it came through.
        let repeated = error.split(": ").skip(1).find(|part| error.matches(part).count() > 1);
        assert_eq!(repeated, None, "it comes twice: {context}");
    }

    /// The refusal of `check`: one line that fails, with all of `words`, and the verdict.
    fn failed_check(&self, code: i32, words: &[&str]) {
        let context = self.context();
        assert_eq!(self.code, Some(code), "{context}");
        assert_eq!(self.stderr, "", "{context}");
        let failures: Vec<_> = self.stdout.lines().filter(|l| l.starts_with("FAIL ")).collect();
        let [failure] = failures[..] else { panic!("not one line that fails: {context}") };
        for word in words {
            assert!(failure.contains(word), "`{word}` is not in the line: {context}");
        }
        let verdict = self.stdout.lines().last().unwrap_or_default();
        assert!(verdict.starts_with("observer cannot run here"), "{context}");
    }
}

/// `run` and `check` in the same circumstances fail for the same reason.
fn both_refuse(circumstances: impl Fn(&[&str]) -> Command, code: i32, words: &[&str]) {
    Ended::of(circumstances(&[&["run"], &LISTEN[..]].concat())).refused(code, words);
    Ended::of(circumstances(&[&["check"], &LISTEN[..]].concat())).failed_check(code, words);
}

/// A copy of the binary where everyone may run it: build directories often lie in a home that is
/// closed to others.
fn public_executable() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).expect("it is ours");
    let path = directory.path().join("observer");
    fs::copy(executable(), &path).expect("the binary can be copied");
    (directory, path)
}

#[test]
fn a_healthy_machine_is_told_so() {
    let _lock = SystemLock::acquire();
    let ended = Ended::of(observer(&["check", "--listen", "127.0.0.1:0"]));
    let context = ended.context();
    assert_eq!(ended.code, Some(0), "{context}");
    assert_eq!(ended.stderr, "", "{context}");
    assert_eq!(ended.stdout.lines().last(), Some("observer can run here."), "{context}");
    let verdicts = ended.stdout.lines().filter(|line| !line.starts_with("observer "));
    // An older kernel may miss what is optional; what is mandatory is named below.
    let fine = |line: &str| ["ok ", "miss "].iter().any(|state| line.starts_with(state));
    assert!(verdicts.clone().all(fine), "{context}");
    for thing in ["kernel", "privileges", "cgroup v2", "inet_sock_set_state", "cgroup_skb/egress"] {
        let told = |line: &str| line.starts_with("ok ") && line.contains(thing);
        assert!(verdicts.clone().any(told), "{thing}: {context}");
    }
}

#[test]
fn without_root() {
    let _lock = SystemLock::acquire();
    let (_directory, path) = public_executable();
    let as_nobody = |args: &[&str]| {
        let mut command = clean(Command::new(&path), args);
        command.uid(65534).gid(65534);
        command
    };
    let words = ["CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN", "run it as root, or give it CAP_BPF"];
    both_refuse(as_nobody, UNSUPPORTED, &words);
}

#[test]
fn a_root_that_lacks_a_capability() {
    let _lock = SystemLock::acquire();
    let as_limited_root = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-net_admin").arg(executable());
        clean(command, args)
    };
    both_refuse(as_limited_root, UNSUPPORTED, &["it lacks CAP_NET_ADMIN;", "give it"]);
}

#[test]
fn without_cgroup_v2() {
    let _lock = SystemLock::acquire();
    let words = ["no cgroup-v2 tree is mounted", "mount -t cgroup2"];
    let unmounted = |args: &[&str]| observer_in_mounts("umount -a -l -t cgroup2", args);
    both_refuse(unmounted, UNSUPPORTED, &words);
    // As in a container that sees the mount table, but not the tree.
    let root = support::cgroup::ROOT.display();
    let hidden = |args: &[&str]| observer_in_mounts(&format!("mount -t tmpfs none {root}"), args);
    both_refuse(hidden, UNSUPPORTED, &words);
}

#[test]
fn a_cgroup_root_that_is_none() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().to_str().expect("a readable path");
    let elsewhere = |args: &[&str]| observer(&[args, &["--cgroup-root", path]].concat());
    let words = [path, "is no cgroup-v2 tree", "--cgroup-root", "mount -t cgroup2"];
    both_refuse(elsewhere, UNSUPPORTED, &words);
    let missing = format!("{path}/missing");
    let elsewhere = |args: &[&str]| observer(&[args, &["--cgroup-root", &missing]].concat());
    both_refuse(elsewhere, UNSUPPORTED, &words);
}

#[test]
fn a_cgroup_root_that_only_looks_like_one() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.controllers"] {
        fs::write(directory.path().join(file), "").expect("it is our directory");
    }
    let path = directory.path().to_str().expect("a readable path");
    let elsewhere = |args: &[&str]| observer(&[args, &["--cgroup-root", path]].concat());
    both_refuse(elsewhere, UNSUPPORTED, &[path, "is no cgroup-v2 tree", "--cgroup-root"]);
}

#[test]
fn without_type_information() {
    let _lock = SystemLock::acquire();
    let hidden = |args: &[&str]| observer_in_mounts("mount -t tmpfs none /sys/kernel/btf", args);
    // `check` tries the programs all the same, and tells of both.
    let words = ["type information", "CONFIG_DEBUG_INFO_BTF"];
    Ended::of(hidden(&[&["run"], &LISTEN[..]].concat())).refused(UNSUPPORTED, &words);
    let check = Ended::of(hidden(&[&["check"], &LISTEN[..]].concat()));
    let context = check.context();
    assert_eq!(check.code, Some(UNSUPPORTED), "{context}");
    let failures = check.stdout.lines().filter(|line| line.starts_with("FAIL "));
    for failure in failures.clone() {
        assert!(words.iter().all(|word| failure.contains(word)), "{context}");
    }
    assert!(failures.count() > 0, "{context}");
}

#[test]
fn a_kernel_that_lacks_a_hook() {
    let _lock = SystemLock::acquire();
    for hook in ["inet_sock_set_state", "cgroup_skb/ingress", "cgroup_skb/egress"] {
        let lacking = |args: &[&str]| observer(&[args, &["--simulate-lacking", hook]].concat());
        let words = [&format!("this kernel has no hook {hook}"), "observer needs Linux 5.15"];
        both_refuse(lacking, UNSUPPORTED, &words);
    }
}

#[test]
fn an_address_in_use() {
    let _lock = SystemLock::acquire();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let words = [&address, "in use", "--listen", "ss -ltnp"];
    Ended::of(observer(&["run", "--listen", &address])).refused(ADDRESS, &words);
    Ended::of(observer(&["check", "--listen", &address])).failed_check(ADDRESS, &words);
    // By the environment as well.
    let mut command = observer(&["run"]);
    command.env("OBSERVER_LISTEN", &address);
    Ended::of(command).refused(ADDRESS, &words);
}

#[test]
fn an_address_of_another_host() {
    let _lock = SystemLock::acquire();
    // Reserved for examples: nobody's address.
    let words = ["192.0.2.1:9435", "--listen"];
    Ended::of(observer(&["run", "--listen", "192.0.2.1:9435"])).refused(ADDRESS, &words);
}

#[test]
fn a_second_observer_leaves_the_first_alone() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let daemon = Daemon::start(&[]);
    let address = daemon.address().to_string();
    Ended::of(observer(&["run", "--listen", &address])).refused(ADDRESS, &[&address, "--listen"]);
    daemon.scrape();
    daemon.stop();
    before.assert_same();
}

#[test]
fn values_that_cannot_be_used() {
    let _lock = SystemLock::acquire();
    let refused = |args: &[&str], words: &[&str]| {
        for command in ["run", "check"] {
            Ended::of(observer(&[&[command], args].concat())).refused(USAGE, words);
        }
    };
    for prefix in ["1st", "with-dash", "with space", "naïve", "a:b"] {
        let words = ["--metrics-prefix", prefix, "letters, digits and _"];
        refused(&["--metrics-prefix", prefix], &words);
    }
    for cells in ["0", "4294967295"] {
        refused(&["--cells", cells], &["--cells", cells, "is out of range: use 73 to "]);
    }
    let mut command = observer(&["run"]);
    command.env("OBSERVER_METRICS_PREFIX", "1st");
    Ended::of(command).refused(USAGE, &["--metrics-prefix", "1st"]);
}

/// The command line's own parser speaks for itself: the error first, then how to get help.
#[test]
fn a_command_line_that_is_none() {
    let _lock = SystemLock::acquire();
    for (args, words) in [
        (&["run", "--bogus"][..], &["--bogus", "unexpected"][..]),
        (&["check", "--bogus"], &["--bogus", "unexpected"]),
        (&["observe"], &["observe", "unrecognized subcommand"]),
        (&["run", "--listen", "nowhere"], &["--listen", "nowhere", "invalid"]),
        (&["run", "--cells", "many"], &["--cells", "many", "invalid"]),
        (&["run", "--cells", "-1"], &["-1"]),
        (&["run", "--log-format", "xml"], &["--log-format", "xml", "invalid"]),
        (&["run", "--listen"], &["--listen", "a value is required"]),
    ] {
        let ended = Ended::of(observer(args));
        let context = format!("{args:?}: {}", ended.context());
        assert_eq!(ended.code, Some(USAGE), "{context}");
        assert_eq!(ended.stdout, "", "{context}");
        let error = ended.stderr.lines().next().unwrap_or_default();
        assert!(error.starts_with("error: "), "{context}");
        assert!(words.iter().all(|word| error.contains(word)), "{context}");
        assert!(ended.stderr.contains("--help"), "{context}");
    }
}

/// Variables are as good as options, and an error about one says where the value comes from.
#[test]
fn values_that_come_from_variables() {
    let _lock = SystemLock::acquire();
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = observer(args);
        command.envs(variables.iter().copied());
        Ended::of(command)
    };
    // By the command line's parser, by the check of the configuration, and by the kernel.
    for (option, variable, value) in [
        ("--listen", "OBSERVER_LISTEN", "nowhere"),
        ("--self-listen", "OBSERVER_SELF_LISTEN", ":x"),
        ("--log-format", "OBSERVER_LOG_FORMAT", "xml"),
        ("--connection-log", "OBSERVER_CONNECTION_LOG", "perhaps"),
        ("--cells", "OBSERVER_CELLS", "many"),
        ("--cells", "OBSERVER_CELLS", "1"),
        ("--metrics-prefix", "OBSERVER_METRICS_PREFIX", "1st"),
        ("--wait", "OBSERVER_WAIT", "1"),
        ("--tls-cert", "OBSERVER_TLS_CERT", "/missing"),
        ("--bearer-token-file", "OBSERVER_BEARER_TOKEN_FILE", "/missing"),
    ] {
        let ended = with(&[(variable, value)], &["run"]);
        let context = format!("{variable}={value}: {}", ended.context());
        assert_eq!(ended.code, Some(USAGE), "{context}");
        assert!(ended.stderr.contains(option) && ended.stderr.contains(variable), "{context}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let words = [&address, "--listen", "OBSERVER_LISTEN"];
    with(&[("OBSERVER_LISTEN", &address)], &["run"]).refused(ADDRESS, &words);
    with(&[("OBSERVER_LISTEN", &address)], &["check"]).failed_check(ADDRESS, &words);
    // What is typed is not the variable's fault.
    let typed = with(&[("OBSERVER_CELLS", "17")], &["run", "--cells", "1"]);
    assert!(!typed.stderr.contains("OBSERVER_CELLS"), "{}", typed.context());

    // A blank one is none, and there are several ways to say yes and no.
    let blank = ["OBSERVER_LISTEN", "OBSERVER_SELF_LISTEN", "OBSERVER_CELLS", "OBSERVER_PIN"];
    let blank = [&blank[..], &["OBSERVER_WAIT", "OBSERVER_KUBE", "NODE_NAME", "RUST_LOG"]].concat();
    for nothing in ["", " "] {
        let mut variables: Vec<_> = blank.iter().map(|variable| (*variable, nothing)).collect();
        variables.push(("OBSERVER_TLS_CERT", nothing));
        let ended = with(&variables, &["check", "--listen", "127.0.0.1:0"]);
        assert_eq!(ended.code, Some(0), "{}", ended.context());
        assert_eq!(ended.stderr, "", "{}", ended.context());
    }
    for word in ["1", "0", "yes", "no", "on", "off", "true", "false"] {
        let variables = [("OBSERVER_CONNECTION_LOG", word)];
        let ended = with(&variables, &["check", "--listen", "127.0.0.1:0"]);
        assert_eq!(ended.code, Some(0), "{word}: {}", ended.context());
    }
}

#[test]
fn an_address_as_other_programs_take_it() {
    let _lock = SystemLock::acquire();
    let ended = Ended::of(observer(&["run", "--listen", ":9435"]));
    assert_eq!(ended.code, Some(USAGE), "{}", ended.context());
    for hint in ["0.0.0.0:9435", "[::]:9435"] {
        assert!(ended.stderr.contains(hint), "{}", ended.context());
    }
}

#[test]
fn a_log_level_that_is_none_is_told_and_the_log_goes_on() {
    let _lock = SystemLock::acquire();
    for level in ["ifno", "observer=loud", "info,observer"] {
        let mut command = Command::new(executable());
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        // It is ready when its log says so.
        let daemon = Daemon::spawn(command.env("RUST_LOG", level));
        let log = daemon.stop();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("RUST_LOG")).collect();
        let [warning] = warnings[..] else { panic!("{level}: {log}") };
        assert!(warning.contains("WARN") && warning.contains("is not used"), "{level}: {log}");
    }
}

/// As `observer check | head -1` does.
#[test]
fn a_reader_that_has_seen_enough() {
    let _lock = SystemLock::acquire();
    for args in [&["check", "--listen", "127.0.0.1:0"][..], &["--help"], &["--version"]] {
        let before = BpfSnapshot::take();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = observer(args);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut process = Process::new(child, format!("{args:?}"));
        // It keeps what it has of the pipe.
        drop(command);
        let mut said = String::new();
        process.take_stderr().read_to_string(&mut said).expect("a pipe can be read");
        assert_eq!((process.wait(PATIENCE).code(), said.as_str()), (Some(0), ""), "{args:?}");
        before.assert_same();
    }
    // Nobody hears the error, and its code is the same.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = observer(&["run", "--cells", "1"]);
    let child = command.stderr(writer).spawn().expect("it runs");
    assert_eq!(Process::new(child, "run").wait(PATIENCE).code(), Some(USAGE));
}

#[test]
fn the_version_tells_what_was_built_of_what() {
    let _lock = SystemLock::acquire();
    let ended = Ended::of(observer(&["--version"]));
    let begin = format!("observer {} (revision ", env!("CARGO_PKG_VERSION"));
    let rest = ended.stdout.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(")\n"));
    let (revision, abi) = rest.and_then(|rest| rest.split_once(", ABI ")).unwrap_or_default();
    assert!(!revision.is_empty() && !abi.is_empty(), "{}", ended.context());
}

/// Before anything is attached or bound.
#[test]
fn files_of_certificates_and_tokens_that_cannot_be_used() {
    let _lock = SystemLock::acquire();
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let empty = directory.path().join("empty");
    fs::write(&empty, "").expect("it is our directory");
    let path = empty.to_str().expect("a readable path");
    let tls = ["--tls-cert", path, "--tls-key", path];
    for (args, words) in [
        (&tls[..], &["--tls-cert", path, "no certificate", "PEM"][..]),
        (&["--bearer-token-file", path], &["--bearer-token-file", path, "no token"]),
    ] {
        let run = [&["run"], &LISTEN[..], args].concat();
        Ended::of(observer(&run)).refused(USAGE, words);
        let check = [&["check"], &LISTEN[..], args].concat();
        Ended::of(observer(&check)).failed_check(USAGE, words);
    }
    for (args, words) in [
        (["--tls-key", path], ["--tls-cert", "go together"]),
        (["--tls-client-ca", path], ["--tls-client-ca", "needs TLS"]),
    ] {
        Ended::of(observer(&[&["run"], &LISTEN[..], &args].concat())).refused(USAGE, &words);
    }
}

/// The codes that the other tests expect are the ones the user is told.
#[test]
fn exit_codes_are_documented() {
    let _lock = SystemLock::acquire();
    let help = Ended::of(observer(&["--help"]));
    assert_eq!(help.code, Some(0), "{}", help.context());
    let codes = help.stdout.split("Exit codes:").nth(1).unwrap_or_default();
    for code in ["0 ended as asked", "1 failed", "2 wrong command line", "3 the machine lacks"] {
        assert!(codes.contains(code), "{code}: {}", help.context());
    }
    assert!(codes.contains("4 the listen address"), "{}", help.context());
}

/// Neither the traffic nor the kernel notices that observer leaves.
#[test]
fn a_signal_under_load_ends_it_and_leaves_nothing() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let cgroup = TestCgroup::new("observer-failures");
        let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &cgroup, None);
        let daemon = Daemon::start(&[]);
        let short = scaled(5000);
        let drive = Drive { short, long: 50, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &cgroup, None);
        daemon.wait_until(PATIENCE, |metrics| {
            metrics.sum("websocket_connections_total", &[("pod", "/observer-failures")]) > 100.0
        });
        kill(Pid::from_raw(daemon.id().cast_signed()), signal).expect("the daemon runs");
        let heard = || daemon.log().contains(signal.as_str()).then_some(());
        poll(PATIENCE, heard).unwrap_or_else(|| panic!("{signal} was not heard"));
        // The second signal changes nothing.
        let log = daemon.stop();
        assert!(log.contains("stopped"), "{signal}: {log}");
        before.assert_same();
        let books = driver.ready();
        assert_eq!(books.opened, short + 50, "the load was to go on unharmed: {books:?}");
        driver.finish();
    }
}
