//! `deploy/observer.service`: what it leaves the daemon of root's privileges is enough, and over a restart no count is lost.
//!
//! This machine need not have been booted by systemd: the test gives the daemon what the unit says, the capabilities and
//! the mounts, and reads both from the unit.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration,
};

use support::{
    bpffs::Bpffs,
    cgroup::ROOT,
    daemon::{self, Daemon},
    lock::SystemLock,
    metrics::Expected,
    pod::Pod,
    process::run_to_end,
    tools,
    workload::{Drive, Driver, Protocol, Server},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The unit's settings; the last of those that stand there more than once.
fn unit() -> BTreeMap<String, String> {
    let text = fs::read_to_string(tools::checkout().join("deploy/observer.service"));
    let text = text.expect("there is a unit");
    let settings = text.lines().filter(|line| !line.starts_with('#'));
    let settings = settings.filter_map(|line| line.split_once('='));
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A command of the program with the unit's privileges, and the unit's variable for pins with this directory.
fn confined(unit: &BTreeMap<String, String>, pins: &str) -> Command {
    let capabilities = unit["CapabilityBoundingSet"].replace("CAP_", "+").to_lowercase();
    let capabilities = format!("-all,{}", capabilities.replace(' ', ","));
    assert_eq!(
        (unit["ProtectKernelTunables"].as_str(), unit["ProtectControlGroups"].as_str()),
        ("yes", "yes")
    );
    assert_eq!((unit["NoNewPrivileges"].as_str(), unit.get("User")), ("yes", None));
    // A mount at another place is none of /sys, as that of the BPF file system in the unit.
    assert_eq!(unit["ReadWritePaths"], "-/sys/fs/bpf");
    let (variable, _) = unit["Environment"].split_once('=').expect("a variable");
    assert_eq!(unit["Environment"], "OBSERVER_PIN=/sys/fs/bpf/observer");
    let mut command = Command::new("unshare");
    let script =
        "mount -o remount,bind,ro /sys && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    command.args(["--mount", "--propagation=slave", "sh", "-c", script, "sh"]).arg(&*ROOT);
    command.args([
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set",
        &capabilities,
        "--",
    ]);
    command.arg(daemon::executable()).env(variable, pins);
    command
}

#[test]
fn a_restart_loses_no_count_with_what_the_unit_leaves() {
    let _lock = SystemLock::acquire();
    let (unit, bpffs) = (unit(), Bpffs::new());
    // As systemd mounts it: for root alone.
    fs::set_permissions(bpffs.path(), fs::Permissions::from_mode(0o1700)).expect("it is ours");
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("observer.sock");
    let socket = socket.to_str().expect("a plain path");
    // That which stands before the start in the unit.
    assert_eq!(unit["ExecStartPre"], "-/usr/local/bin/observer check");
    let mut check = confined(&unit, bpffs.pins());
    let output = run_to_end(check.args(["check", "--listen", "127.0.0.1:0"]), PATIENCE);
    assert!(output.status.success(), "{output:?}");
    assert!(bpffs.is_clean(), "a check leaves nothing");

    assert_eq!(unit["ExecStart"], "/usr/local/bin/observer run");
    let start = || {
        let mut run = confined(&unit, bpffs.pins());
        run.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--socket", socket]);
        Daemon::spawn(&mut run)
    };
    let first = start();
    let (pod, clients) = (Pod::new(), Pod::new());
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &pod.cgroup, None);
    let drive = |short, long| {
        let drive = Drive { short, long, ..Drive::new(Protocol::Ws, server.addr) };
        let mut driver = Driver::start(&drive, &clients.cgroup, None);
        driver.ready();
        driver
    };
    let expected = |active, closed| {
        let labels = [("pod", pod.name.as_str())];
        [
            Expected::sum("tcp_connections_active", &labels, active),
            Expected::sum("tcp_connections_closed_total", &labels, closed),
        ]
    };
    let _before = drive(20, 5);
    first.wait_for(PATIENCE, &expected(5, 20));
    first.stop();
    // Nobody looks, and the kernel counts.
    let _meanwhile = drive(10, 2);
    let second = start();
    second.wait_for(PATIENCE, &expected(7, 30));
    let origin = [("origin", "taken_over")];
    second.wait_for(PATIENCE, &[Expected::sum("observer_kernel_side_info", &origin, 1)]);
    second.stop();
    let mut detach = confined(&unit, bpffs.pins());
    let output = run_to_end(detach.arg("detach"), PATIENCE);
    assert!(output.status.success() && bpffs.is_clean(), "{output:?}");
}
