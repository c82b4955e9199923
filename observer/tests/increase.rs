//! The first event of a kind is one that `increase()` sees, in text and over protobuf.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use anyhow::Result;
use support::{
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    prometheus::{Agent, Prometheus},
    provoke::Scene,
};

#[test]
fn the_first_of_each_kind_is_seen_without_created_timestamps() -> Result<()> {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let daemon = Daemon::start(&["--self-listen", "127.0.0.1:0", "--detail", "standard"]);
    let agents = [Agent::of(&daemon, "node-a")];
    let readers = [Prometheus::start(&agents), Prometheus::start_native(&agents)];
    let mut scene = Scene::new()?;
    for reader in &readers {
        for series in scene.series() {
            reader.wait_until(&series, |samples| samples.len() == 1 && samples[0].is(0));
        }
    }
    scene.provoke()?;
    for reader in &readers {
        for series in scene.series() {
            let seen = format!("increase({series}[5m]) >= 1");
            reader.wait_until(&seen, |samples| samples.len() == 1);
            reader.wait_until(&series, |samples| samples.len() == 1 && samples[0].is(1));
        }
    }
    drop(scene);
    daemon.stop();
    before.assert_same();
    Ok(())
}
