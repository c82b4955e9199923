//! Names from an API server that comes late, goes away, forgets and breaks off: names and numbers are exact throughout.
//!
//! - [`api`]: the server, for lists and watches of pods;
//! - [`tls`]: its certificate;
//! - [`objects`]: pods as it describes them;
//! - [`pods`]: the same pods in cgroups, with real connections.

mod api;
mod objects;
mod pods;
#[expect(dead_code, reason = "each test file uses its part of the support library")]
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::{fs, process::Command};

use api::{ADDRESS, ApiServer, Ending, NODE};
use objects::{Object, SECRET, Started};
use pods::{
    PATIENCE, Running, absent, container, counts, current, drive_once, short, stateful, totals, uid,
};
use support::{
    bpffs::Bpffs,
    cgroup::TestCgroup,
    daemon::{Daemon, executable},
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::{Expected, Metrics},
    process::run_to_end,
    workload::{Drive, Protocol, Server},
};

const USERS: [&str; 2] = ["websocket_connections_active", "websocket_connections_total"];

/// How long the last counts of a pod are shown, so that a test need not wait a minute.
const SHOW_ENDED: &str = "3s";

/// Starts the daemon with the server's kubeconfig.
fn start(api: &ApiServer) -> Daemon {
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    Daemon::start(&["--node-name", NODE, "--kube", kubeconfig, "--show-ended", SHOW_ENDED])
}

/// The sum of a user family over all names that these pods may have: no count under two of them.
fn in_all(metrics: &Metrics, family: &str, names: &[(&str, &str)]) -> f64 {
    names.iter().map(|&(ns, pod)| metrics.sum(family, &[("namespace", ns), ("pod", pod)])).sum()
}

/// Waits for the sums; in every scrape until then all counts are under one name or the other, and never go down.
fn rename(daemon: &Daemon, names: &[(&str, &str)], opened: u64, expected: &[Expected]) -> Metrics {
    daemon.wait_until(PATIENCE, |metrics| {
        let shown = in_all(metrics, USERS[1], names);
        assert!(
            (shown - opened as f64).abs() < 0.5,
            "{shown} of {opened} are shown under {names:?}"
        );
        expected.iter().all(|sum| sum.mismatch(metrics).is_none())
    })
}

#[test]
fn names_come_late_and_counts_do_not_wait() {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let mut api = ApiServer::new();
    let (web, client, idle) = (uid(), uid(), uid());

    // The API server is away; all is counted, by UID.
    let daemon = start(&api);
    let mut running = Running::start(&web, &client, 20, 5);
    let metrics = daemon.wait_for(PATIENCE, &counts("", &web, 25, 5));
    let label = [("namespace", ""), ("pod", web.as_str()), ("container", short(&running.id))];
    assert!(metrics.sum("tcp_connections_opened_total", &label) > 24.0);
    assert!(metrics.value("observer_kube_watch_active", &[]) < 0.5);
    daemon.wait_until(PATIENCE, |metrics| {
        metrics.sum("observer_kube_watch_errors_total", &[("kind", "list")]) > 0.5
            && metrics.sum("observer_kube_pods_unnamed", &[]) > 1.5
    });
    assert!(daemon.log().contains("no names from the API server"), "{}", daemon.log());

    // It comes. It knows of the pods, but not yet of their containers.
    let names = [("", web.as_str()), ("shop", "web-0")];
    let mut web_0 = stateful(&web, "web-0", "web");
    api.apply(&web_0);
    api.apply(&Object {
        template_hash: Some("7d9c"),
        ..Object::new(&client, "shop", "load-7d9c-x2").owned_by("ReplicaSet", "load-7d9c")
    });
    let _idle_cgroup = TestCgroup::pod(&idle, &container());
    api.apply(&Object::new(&idle, "shop", "idle").owned_by("DaemonSet", "idle"));
    api.appear();
    let expected = [counts("shop", "web-0", 25, 5), totals("StatefulSet", "web", 25, 5)].concat();
    rename(&daemon, &names, 25, &expected);
    let metrics = current(&daemon, 3);
    absent(&metrics, &[("namespace", ""), ("pod", &web)]);
    absent(&metrics, &[("namespace", ""), ("pod", &client)]);
    let label = [("namespace", "shop"), ("pod", "web-0"), ("container", short(&running.id))];
    assert!(metrics.sum("tcp_connections_opened_total", &label) > 24.0);
    let client_label = [("namespace", "shop"), ("pod", "load-7d9c-x2"), ("role", "client")];
    assert!((metrics.sum("tcp_connections_opened_total", &client_label) - 25.0).abs() < 0.5);
    let deployment = [("workload_kind", "Deployment"), ("workload", "load"), ("role", "client")];
    assert!((metrics.sum("workload_tcp_connections_opened_total", &deployment) - 25.0).abs() < 0.5);

    // A pod that runs and never had a connection has zeros, one of each; so has one for the other protocol.
    // The cgroup tree is walked once a second.
    let metrics = daemon
        .wait_until(PATIENCE, |metrics| !metrics.select(USERS[0], &[("pod", "idle")]).is_empty());
    for family in [
        "websocket_connections_active",
        "grpc_connections_active",
        "websocket_connections_total",
        "grpc_connections_total",
    ] {
        assert!(metrics.value(family, &[("namespace", "shop"), ("pod", "idle")]).abs() < 0.5);
    }
    assert!(
        metrics.value("grpc_connections_active", &[("namespace", "shop"), ("pod", "web-0")]).abs()
            < 0.5
    );
    let info = [
        ("namespace", "shop"),
        ("pod", "idle"),
        ("uid", idle.as_str()),
        ("node", NODE),
        ("workload_kind", "DaemonSet"),
        ("workload", "idle"),
    ];
    assert!((metrics.value("workload_pod_info", &info) - 1.0).abs() < 0.5);

    // The container's name comes last.
    web_0 = web_0.container("app", &running.id);
    api.apply(&web_0);
    let label = [("namespace", "shop"), ("pod", "web-0"), ("container", "app"), ("role", "server")];
    rename(&daemon, &names, 25, &[Expected::sum("tcp_connections_opened_total", &label, 25)]);
    absent(&daemon.scrape(), &[("container", short(&running.id))]);

    // Counting goes on under the name, and the API server was asked for this node's pods only, in pages.
    running.more(10);
    daemon.wait_for(PATIENCE, &counts("shop", "web-0", 35, 5));
    let requests = api.requests();
    assert!(
        requests.iter().all(|r| r.starts_with("/api/v1/pods?") && r.contains("fieldSelector")),
        "{requests:?}"
    );
    assert!(requests.iter().any(|r| r.contains("continue=")), "{requests:?}");
    let exported = daemon.scrape();
    let values = exported.samples.iter().flat_map(|sample| sample.labels.values());
    assert!(values.into_iter().all(|value| !value.contains(SECRET)), "a secret is exported");
    running.stop();
    let log = daemon.stop();
    assert!(!log.contains(SECRET), "a secret is logged: {log}");
    before.assert_same();
}

#[test]
fn a_pod_keeps_its_counts_through_restarts_and_a_new_one_starts_anew() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let (web, client) = (uid(), uid());
    let daemon = start(&api);
    let name = [("shop", "web-0")];

    // A container restarts twice; its cells are recycled, and no count ever goes down.
    let mut object = stateful(&web, "web-0", "web");
    // Something of the pod is there all the time, as its sandbox is.
    let sandbox = TestCgroup::pod(&web, &container());
    let mut opened = 0;
    for restart in 1..=3 {
        let running = Running::start(&web, &client, 10, 2);
        object.containers = vec![Started { name: "app", id: running.id.clone() }];
        api.apply(&object);
        opened += 12;
        let app =
            [("namespace", "shop"), ("pod", "web-0"), ("container", "app"), ("role", "server")];
        let at_app = Expected::sum("tcp_connections_opened_total", &app, opened);
        daemon.wait_for(PATIENCE, &[counts("shop", "web-0", opened, 2), vec![at_app]].concat());
        let used = daemon.scrape().value("observer_cells_used", &[]);
        running.stop();
        let over =
            [counts("shop", "web-0", opened, 0), totals("StatefulSet", "web", opened, 0)].concat();
        daemon.wait_for(PATIENCE, &over);
        // Until its cells are free again, and after.
        let metrics = daemon.wait_until(PATIENCE, |metrics| {
            let shown = in_all(metrics, USERS[1], &name);
            assert!((shown - opened as f64).abs() < 0.5, "restart {restart}: {shown} of {opened}");
            metrics.value("observer_cells_used", &[]) < used
        });
        assert!(over.iter().all(|sum| sum.mismatch(&metrics).is_none()));
    }

    // It is deleted, and made again under the same name before anybody has scraped.
    let last = Running::start(&web, &client, 5, 1);
    object.containers = vec![Started { name: "app", id: last.id.clone() }];
    api.apply(&object);
    opened += 6;
    daemon.wait_for(PATIENCE, &counts("shop", "web-0", opened, 1));
    last.stop();
    drop(sandbox);
    api.delete(&web);
    let next = uid();
    let mut running = Running::start(&next, &client, 3, 1);
    api.apply(&stateful(&next, "web-0", "web").container("app", &running.id));
    // The old one's last counts are shown under its UID, the new one's begin at zero, and the workload has both.
    let both = [
        counts("shop", &web, opened, 0),
        counts("shop", "web-0", 4, 1),
        totals("StatefulSet", "web", opened + 4, 1),
    ];
    daemon.wait_for(PATIENCE, &both.concat());
    daemon.wait_until(PATIENCE, |metrics| metrics.select(USERS[0], &[("pod", &web)]).is_empty());
    let metrics = daemon.scrape();
    absent(&metrics, &[("pod", &web)]);
    assert!(
        (metrics.value(USERS[1], &[("namespace", "shop"), ("pod", "web-0")]) - 4.0).abs() < 0.5
    );

    // Until the old one's cells are free again, and after, the total stays.
    running.more(7);
    let now =
        [counts("shop", "web-0", 11, 1), totals("StatefulSet", "web", opened + 11, 1)].concat();
    daemon.wait_for(PATIENCE, &now);
    running.stop();
    daemon.stop();
}

#[test]
fn a_pod_is_shown_once_more_and_counted_for_ever() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let daemon = start(&api);
    let (job, client, nameless) = (uid(), uid(), uid());

    // A Job's pod lives and dies between two scrapes; so does one of which the API server never tells.
    let running = Running::start(&job, &client, 30, 0);
    api.apply(
        &Object::new(&job, "shop", "report-29391840-abcde").owned_by("Job", "report-29391840"),
    );
    let other = Running::start(&nameless, &client, 40, 0);
    current(&daemon, 1);
    // Both are known; what follows happens between two scrapes.
    let label = ("shop", "report-29391840-abcde");
    daemon.wait_for(
        PATIENCE,
        &[counts(label.0, label.1, 30, 0), counts("", &nameless, 40, 0)].concat(),
    );
    let used = daemon.scrape().value("observer_cells_used", &[]);
    running.stop();
    other.stop();
    api.delete(&job);
    let last = [
        counts(label.0, label.1, 30, 0),
        counts("", &nameless, 40, 0),
        totals("CronJob", "report", 30, 0),
    ];
    daemon.wait_for(PATIENCE, &last.concat());
    let over = |metrics: &Metrics| {
        metrics.select(USERS[1], &[("pod", label.1)]).is_empty()
            && metrics.select(USERS[1], &[("pod", &nameless)]).is_empty()
    };
    let metrics = daemon.wait_until(PATIENCE, over);
    let total = totals("CronJob", "report", 30, 0);
    assert!(total.iter().all(|sum| sum.mismatch(&metrics).is_none()), "gone with the pod");
    absent(&metrics, &[("pod", label.1)]);

    // Its cells are recycled; the total stays.
    let metrics = daemon.wait_until(PATIENCE, |metrics| {
        assert!(total.iter().all(|sum| sum.mismatch(metrics).is_none()), "gone with the cells");
        metrics.value("observer_cells_used", &[]) < used
    });
    absent(&metrics, &[("pod", &job)]);

    // The API server tells of the other one after all, as it does of a Job that is over.
    let mut late = Object::new(&nameless, "shop", "late").owned_by("Job", "late");
    late.running = false;
    api.apply(&late);
    let metrics = daemon.wait_for(PATIENCE, &totals("Job", "late", 40, 0));
    absent(&metrics, &[("pod", "late")]);
    daemon.stop();
}

#[test]
fn static_init_and_ephemeral_containers_have_names() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let daemon = start(&api);
    let (uid, hash) = (uid(), format!("{:032x}", 0xf4a1_u32));
    let [setup, app, debug, proxy] = [(); 4].map(|()| container());
    let static_cgroup = TestCgroup::new(&format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/cri-containerd-{proxy}.scope"
    ));
    let mut object = stateful(&uid, "db-0", "db").container("app", &app);
    object.init_containers = vec![Started { name: "setup", id: setup.clone() }];
    object.ephemeral_containers = vec![Started { name: "debug", id: debug.clone() }];
    api.apply(&object);
    let mut mirror = Object::new(&pods::uid(), "kube-system", &format!("kube-proxy-{NODE}"))
        .owned_by("Node", NODE);
    mirror.manifest = Some(hash.clone());
    mirror = mirror.container("proxy", &proxy);
    api.apply(&mirror);

    let cgroups = [&setup, &app, &debug].map(|id| TestCgroup::pod(&uid, id));
    let server = Server::start(Protocol::Ws, ([127, 0, 0, 1], 0).into(), &static_cgroup, None);
    for (number, cgroup) in (1..).zip(&cgroups) {
        let drive = Drive { short: number, ..Drive::new(Protocol::Ws, server.addr) };
        drive_once(&drive, cgroup);
    }
    let of = |pod: &'static str, container: &'static str, role, count| {
        let labels = [("pod", pod), ("container", container), ("role", role)];
        Expected::sum("tcp_connections_opened_total", &labels, count)
    };
    let static_pod =
        [("workload_kind", "StaticPod"), ("workload", "kube-proxy"), ("namespace", "kube-system")];
    daemon.wait_for(
        PATIENCE,
        &[
            of("db-0", "setup", "client", 1),
            of("db-0", "app", "client", 2),
            of("db-0", "debug", "client", 3),
            of("kube-proxy-node-1", "proxy", "server", 6),
            Expected::sum("workload_tcp_connections_opened_total", &static_pod, 6),
        ],
    );
    assert_eq!(server.stop().accepted, 6);
    daemon.stop();
}

#[test]
fn the_watch_expires_breaks_and_waits_and_names_stay_right() {
    let _lock = SystemLock::acquire();
    let mut api = ApiServer::present();
    let daemon = start(&api);
    let client = uid();
    let mut pods: Vec<(String, Running)> = Vec::new();
    // A pod comes after each mishap.
    let add = |api: &ApiServer, pods: &mut Vec<(String, Running)>| {
        let (uid, name) = (uid(), format!("web-{}", pods.len()));
        let running = Running::start(&uid, &client, 3, 1);
        api.apply(&stateful(&uid, &name, "web").container("app", &running.id));
        pods.push((uid, running));
    };
    let all = |pods: &[(String, Running)]| {
        let each = (0..).zip(pods).flat_map(|(number, (_, running))| {
            counts("shop", &format!("web-{number}"), running.opened, running.active)
        });
        let opened = pods.iter().map(|(_, running)| running.opened).sum();
        let active = pods.iter().map(|(_, running)| running.active).sum();
        each.chain(totals("StatefulSet", "web", opened, active)).collect::<Vec<_>>()
    };
    let troubles = |kind: &'static str, daemon: &Daemon| {
        daemon.scrape().value("observer_kube_watch_errors_total", &[("kind", kind)])
    };
    add(&api, &mut pods);
    daemon.wait_for(PATIENCE, &all(&pods));
    current(&daemon, 1);
    assert!(
        troubles("list", &daemon) + troubles("watch", &daemon) + troubles("expired", &daemon) < 0.5
    );

    // The history is compacted, and the watch told so.
    api.compact();
    add(&api, &mut pods);
    daemon.wait_for(PATIENCE, &all(&pods));
    current(&daemon, 2);
    assert!((troubles("expired", &daemon) - 1.0).abs() < 0.5, "{}", daemon.log());

    // The connection breaks in the middle of an event. The watch goes on where it was.
    let lists = |api: &ApiServer| api.requests().iter().filter(|r| !r.contains("watch=")).count();
    let listed = lists(&api);
    api.end_watches(Ending::MidEvent);
    add(&api, &mut pods);
    daemon.wait_for(PATIENCE, &all(&pods));
    current(&daemon, 3);
    assert_eq!(lists(&api), listed, "listed anew for nothing");

    // Answers take their time; scrapes do not wait for them.
    api.hold(true);
    api.end_watches(Ending::Gone);
    add(&api, &mut pods);
    let (slow, _) = pods.last().expect("just added");
    daemon.wait_for(PATIENCE, &counts("", slow, 4, 1));
    api.hold(false);
    daemon.wait_for(PATIENCE, &all(&pods));
    current(&daemon, 4);

    // A long outage: one pod ends, another takes its name, a third is new, and the history is gone.
    api.vanish();
    daemon.wait_for(PATIENCE, &[Expected::sum("observer_kube_watch_active", &[], 0)]);
    let (old, ended) = pods.remove(0);
    let (opened, total): (u64, u64) = (ended.opened, pods.iter().map(|(_, r)| r.opened).sum());
    ended.stop();
    daemon.wait_for(PATIENCE, &counts("shop", "web-0", opened, 0));
    daemon.wait_until(PATIENCE, |metrics| metrics.select(USERS[0], &[("pod", "web-0")]).is_empty());
    api.delete(&old);
    add(&api, &mut pods);
    let (new, running) = pods.pop().expect("just added");
    let new_name = format!("web-{}", pods.len());
    api.delete(&new);
    api.apply(&stateful(&new, "web-0", "web").container("app", &running.id));
    pods.insert(0, (new.clone(), running));
    let metrics = daemon.wait_for(
        PATIENCE,
        &[counts("", &new, 4, 1), counts("shop", "web-1", 4, 1), counts("shop", "web-3", 4, 1)]
            .concat(),
    );
    absent(&metrics, &[("pod", &new_name), ("namespace", "")]);
    // The client, and the new one.
    assert!(metrics.sum("observer_kube_pods_unnamed", &[]) > 1.5);
    api.compact();
    api.appear();
    let mut expected = all(&pods);
    // What ended during the outage still counts for the workload.
    expected.truncate(expected.len() - 2);
    expected.extend(totals("StatefulSet", "web", total + opened + 4, 4));
    rename(&daemon, &[("", &new), ("shop", "web-0")], 4, &[]);
    daemon.wait_for(PATIENCE, &expected);
    let metrics = current(&daemon, 4);
    absent(&metrics, &[("pod", &new)]);
    for (_, running) in pods {
        running.stop();
    }
    daemon.stop();
}

#[test]
fn after_a_restart_pods_go_on_and_totals_begin_anew() {
    let _lock = SystemLock::acquire();
    let api = ApiServer::present();
    let (web, client) = (uid(), uid());
    let bpffs = Bpffs::new();
    let kubeconfig = api.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a path of plain characters");
    let names = ["--node-name", NODE, "--kube", kubeconfig, "--show-ended", SHOW_ENDED];
    let start = || Daemon::start(&[&names[..], &["--pin", bpffs.pins()]].concat());
    let daemon = start();
    let mut running = Running::start(&web, &client, 10, 2);
    api.apply(&stateful(&web, "web-0", "web").container("app", &running.id));
    let both = |opened, since, active| {
        [counts("shop", "web-0", opened, active), totals("StatefulSet", "web", since, active)]
            .concat()
    };
    daemon.wait_for(PATIENCE, &both(12, 12, 2));
    daemon.kill();

    // A total that began with what the last one ended with would count it twice.
    let daemon = start();
    daemon.wait_for(PATIENCE, &counts("shop", "web-0", 12, 2));
    let of = [("workload", "web"), ("role", "server")];
    let opened = "workload_tcp_connections_opened_total";
    let closed = "workload_tcp_connections_closed_total";
    let metrics = daemon.scrape();
    assert!(metrics.sum(opened, &of) + metrics.sum(closed, &of) < 0.5);
    running.more(5);
    let sums = [Expected::sum(opened, &of, 5), Expected::sum(closed, &of, 5)];
    daemon.wait_for(PATIENCE, &[counts("shop", "web-0", 17, 2), sums.to_vec()].concat());
    running.stop();
    let sums = [Expected::sum(opened, &of, 5), Expected::sum(closed, &of, 7)];
    let metrics = daemon.wait_for(PATIENCE, &sums);
    assert!(metrics.sum("websocket_connections_active", &[("pod", "web-0")]).abs() < 0.5);
    daemon.wait_until(PATIENCE, |metrics| {
        assert!(sums.iter().all(|sum| sum.mismatch(metrics).is_none()), "changed with the pod");
        metrics.select(USERS[1], &[("pod", "web-0")]).is_empty()
    });
    daemon.stop();
    let mut detach = Command::new(executable());
    let detached = run_to_end(detach.args(["detach", "--pin", bpffs.pins()]), PATIENCE);
    assert!(detached.status.success(), "{detached:?}");
    assert!(bpffs.is_clean());
}

#[test]
fn in_a_cluster_it_asks_by_its_service_account() {
    let _lock = SystemLock::acquire();
    let token = "a-token-of-a-service-account";
    let mut api = ApiServer::with_tls(ADDRESS, token);
    api.appear();
    let (web, client) = (uid(), uid());
    api.apply(&stateful(&web, "web-0", "web"));
    let account = tempfile::TempDir::new().expect("a directory");
    for (file, content) in
        [("token", token), ("ca.crt", api.authority()), ("namespace", "observer")]
    {
        fs::write(account.path().join(file), content).expect("the directory can be written to");
    }
    // A pod has it mounted where only this daemon sees it.
    let script = r#"set -e
run=$(readlink -f /var/run)
mount -t tmpfs tmpfs "$run"
mkdir -p "$run/secrets/kubernetes.io/serviceaccount"
cp "$ACCOUNT"/* "$run/secrets/kubernetes.io/serviceaccount"
exec "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(executable())
        .args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .env("ACCOUNT", account.path())
        .env("KUBERNETES_SERVICE_HOST", api.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", api.address().port().to_string())
        .env("NODE_NAME", NODE);
    let daemon = Daemon::spawn(&mut command);
    let running = Running::start(&web, &client, 5, 1);
    daemon.wait_for(PATIENCE, &counts("shop", "web-0", 6, 1));
    running.stop();
    let log = daemon.stop();
    assert!(log.contains("service account"), "{log}");
    assert!(!log.contains(token), "the token is logged: {log}");
}

#[test]
fn without_a_source_of_names_it_says_why() {
    let check = |args: &[&str]| {
        let mut command = Command::new(executable());
        command.args(["run", "--listen", "127.0.0.1:0"]).args(args);
        command.env_remove("KUBERNETES_SERVICE_HOST");
        let output = run_to_end(&mut command, PATIENCE);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = check(&["--kube", "/nonexistent/kubeconfig"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--kube /nonexistent/kubeconfig: "), "{error}");

    let _lock = SystemLock::acquire();
    for (args, reason) in
        [(["--kube", "auto"], "this is no pod"), (["--kube", "off"], "--kube off")]
    {
        let mut command = Command::new(executable());
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json"]).args(args);
        command.env_remove("KUBERNETES_SERVICE_HOST");
        let daemon = Daemon::spawn(&mut command);
        assert!(daemon.scrape().select("observer_kube_watch_active", &[]).is_empty());
        let log = daemon.stop();
        assert!(log.contains("pods go by their UID") && log.contains(reason), "{log}");
    }
}
