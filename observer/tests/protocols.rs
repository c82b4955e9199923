//! What protocols say, by real programs, counted exactly at both ends: upgrades by their answers, what is answered in another
//! protocol, how TLS handshakes end. nginx serves, curl asks.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use support::{
    daemon::Daemon, lock::SystemLock, metrics::Expected, pod::Pod, poll::poll, process::Process,
    process::run_to_end,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// What nginx listens for.
struct Addresses {
    plain: SocketAddr,
    http2: SocketAddr,
    tls: SocketAddr,
    tls_1_2: SocketAddr,
}

struct Nginx {
    pod: Pod,
    process: Process,
    at: Addresses,
    directory: TempDir,
}

impl Nginx {
    fn start() -> Self {
        let (pod, directory) = (Pod::new(), tempfile::tempdir().expect("a directory"));
        let listeners = [(); 4].map(|()| TcpListener::bind("127.0.80.81:0").expect("a free port"));
        let [plain, http2, tls, tls_1_2] =
            listeners.each_ref().map(|listener| listener.local_addr().expect("it is bound"));
        drop(listeners);
        let at = Addresses { plain, http2, tls, tls_1_2 };
        let path = directory.path();
        certificate(path);
        let configuration = path.join("nginx.conf");
        fs::write(&configuration, at.configuration(path)).expect("it is our directory");
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&configuration).stdin(Stdio::null());
        let process = Process::new(pod.cgroup.spawn_in(&mut command), "nginx");
        for address in [plain, http2, tls, tls_1_2] {
            poll(PATIENCE, || TcpStream::connect(address).ok())
                .unwrap_or_else(|| panic!("nginx does not listen on {address}"));
        }
        Self { pod, process, at, directory }
    }

    /// Runs curl in a pod; its exit code.
    fn curl(&self, pod: &Pod, arguments: &[&str], url: &str) -> Option<i32> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--output", "/dev/null", "--max-time", "10", "--noproxy", "*"]);
        command.args(arguments).arg(url).current_dir(self.directory.path());
        run_to_end(pod.cgroup.enter(&mut command), PATIENCE).status.code()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The workers, too.
        let _ = fs::write(self.pod.cgroup.path().join("cgroup.kill"), "1");
        self.process.kill();
    }
}

impl Addresses {
    fn configuration(&self, directory: &Path) -> String {
        let Self { plain, http2, tls, tls_1_2 } = self;
        let directory = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {directory}/{kind};\n"))
            .concat();
        let certificate = format!(
            "ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;"
        );
        format!(
            "daemon off; user root; worker_processes 2; pid {directory}/pid; error_log stderr crit;
            events {{ worker_connections 512; }}
            http {{
                access_log off;
                {temporary}
                server {{
                    listen {plain};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                    location /dead {{ proxy_pass http://127.0.80.81:1; }}
                    location /back {{ proxy_pass http://{plain}/old; }}
                    location /old {{ return 426; }}
                    location / {{ return 200 ok; }}
                }}
                server {{ listen {http2} http2; location / {{ return 200 ok; }} }}
                server {{ listen {tls} ssl; {certificate} ssl_protocols TLSv1.2 TLSv1.3; location / {{ return 200 ok; }} }}
                server {{ listen {tls_1_2} ssl; {certificate} ssl_protocols TLSv1.2; location / {{ return 200 ok; }} }}
            }}"
        )
    }
}

/// Makes a certificate that nobody has signed.
fn certificate(directory: &Path) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command.args([
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    let output = run_to_end(command.current_dir(directory), PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const UPGRADE: [&str; 4] = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];

#[test]
fn upgrades_are_told_by_their_answers_at_each_hop() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let (nginx, client) = (Nginx::start(), Pod::new());
    for (path, times) in [("dead", 3), ("back", 2), ("fine", 1)] {
        for _ in 0..times {
            let url = format!("http://{}/{path}", nginx.at.plain);
            assert_eq!(nginx.curl(&client, &UPGRADE, &url), Some(0));
        }
    }
    // What asks for no upgrade is no attempt.
    assert_eq!(nginx.curl(&client, &[], &format!("http://{}/dead", nginx.at.plain)), Some(0));
    let count = |pod: &Pod, role, code, count| {
        let labels =
            [("pod", pod.name.as_str()), ("role", role), ("code", code), ("upgrade", "websocket")];
        Expected::sum("http_upgrades_total", &labels, count)
    };
    let all = |pod: &Pod, role, count| {
        Expected::sum("http_upgrades_total", &[("pod", pod.name.as_str()), ("role", role)], count)
    };
    daemon.wait_for(
        PATIENCE,
        &[
            count(&client, "client", "502", 3),
            count(&client, "client", "426", 2),
            count(&client, "client", "200", 1),
            all(&client, "client", 6),
            count(&nginx.pod, "server", "502", 3),
            // What it asks itself for those that it passes on, and answers.
            count(&nginx.pod, "server", "426", 4),
            count(&nginx.pod, "server", "200", 1),
            all(&nginx.pod, "server", 8),
            count(&nginx.pod, "client", "426", 2),
            all(&nginx.pod, "client", 2),
        ],
    );
    drop(nginx);
    daemon.stop();
}

#[test]
fn another_protocol_than_the_one_spoken_is_a_mismatch() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&["--detail", "full"]);
    let (nginx, client) = (Nginx::start(), Pod::new());
    let grpc = ["--http2-prior-knowledge", "-H", "Content-Type: application/grpc"];
    for _ in 0..2 {
        // What is understood is none.
        assert_eq!(nginx.curl(&client, &grpc, &format!("http://{}/", nginx.at.http2)), Some(0));
    }
    let ends = [(&client, "client"), (&nginx.pod, "server")];
    let requests = ends.map(|(pod, role)| {
        Expected::sum("http2_streams_total", &[("pod", &pod.name), ("role", role)], 2)
    });
    daemon.wait_for(PATIENCE, &requests);
    for _ in 0..3 {
        assert_ne!(nginx.curl(&client, &grpc, &format!("http://{}/", nginx.at.plain)), Some(0));
    }
    for _ in 0..2 {
        assert_ne!(nginx.curl(&client, &["-k"], &format!("https://{}/", nginx.at.plain)), Some(0));
    }
    let mut expected = Vec::new();
    for (pod, role) in ends {
        let of = |name, labels: &[(&str, &str)], count| {
            let all = [&[("pod", pod.name.as_str()), ("role", role)], labels].concat();
            Expected::sum(name, &all, count)
        };
        expected.extend([
            of("protocol_mismatches_total", &[("expected", "http2"), ("actual", "http1")], 3),
            of("protocol_mismatches_total", &[("expected", "tls"), ("actual", "http1")], 2),
            of("protocol_mismatches_total", &[], 5),
            of("tls_handshakes_total", &[("outcome", "mismatch")], 2),
            of("tcp_connections_identified_total", &[("protocol", "http2")], 5),
            of("tcp_connections_identified_total", &[("protocol", "grpc")], 2),
        ]);
    }
    let grpc = [("pod", nginx.pod.name.as_str())];
    expected.push(Expected::sum("grpc_connections_total", &grpc, 2));
    daemon.wait_for(PATIENCE, &expected);
    drop(nginx);
    daemon.stop();
}

#[test]
fn handshakes_end_as_they_do() {
    let _lock = SystemLock::acquire();
    let daemon = Daemon::start(&[]);
    let (nginx, client) = (Nginx::start(), Pod::new());
    let (both, older) =
        (format!("https://{}/", nginx.at.tls), format!("https://{}/", nginx.at.tls_1_2));
    // Completed: TLS 1.3 and 1.2.
    assert_eq!(nginx.curl(&client, &["-k"], &both), Some(0));
    assert_eq!(nginx.curl(&client, &["-k"], &both), Some(0));
    assert_eq!(nginx.curl(&client, &["-k"], &older), Some(0));
    // The certificate is not accepted.
    assert_eq!(nginx.curl(&client, &[], &both), Some(60));
    assert_eq!(nginx.curl(&client, &[], &older), Some(60));
    // No version in common.
    assert_eq!(nginx.curl(&client, &["-k", "--tlsv1.3"], &older), Some(35));
    let mut expected = Vec::new();
    for (pod, role, to_server, to_client) in
        [(&client, "client", "sent", "received"), (&nginx.pod, "server", "received", "sent")]
    {
        let of = |name, labels: &[(&str, &str)], count| {
            let all = [&[("pod", pod.name.as_str()), ("role", role)], labels].concat();
            Expected::sum(name, &all, count)
        };
        expected.extend([
            of("tls_handshakes_total", &[("outcome", "completed")], 3),
            of("tls_handshakes_total", &[("outcome", "alert")], 3),
            of("tls_handshakes_total", &[], 6),
            // With TLS 1.3 it depends on the client's library whether this is encrypted already.
            of("tls_alerts_total", &[("direction", to_server)], 2),
            of(
                "tls_alerts_total",
                &[("direction", to_client), ("description", "protocol_version")],
                1,
            ),
            of("tls_alerts_total", &[], 3),
        ]);
    }
    daemon.wait_for(PATIENCE, &expected);
    drop(nginx);
    daemon.stop();
}
