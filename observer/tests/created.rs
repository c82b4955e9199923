//! What a Prometheus of this year does with what the distribution's does not know: created timestamps, and a choice of
//! formats. `cargo xtask setup --tests` builds it where there is a compiler for it.

#[expect(dead_code, reason = "each test file uses its part of the support library")]
mod support;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use support::{
    daemon::Daemon,
    leaks::BpfSnapshot,
    lock::SystemLock,
    metrics::Expected,
    prometheus::{Agent, Format, Prometheus, Sample},
    provoke::Scene,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What happened before the first scrape is seen, too.
#[test]
#[ignore = "needs a newer Prometheus than distributions have: `cargo xtask test` runs it where Go can build one"]
fn created_timestamps_tell_what_happened_before_the_first_scrape() -> Result<()> {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let daemon = Daemon::start(&["--self-listen", "127.0.0.1:0", "--detail", "standard"]);
    let mut scene = Scene::new()?;
    scene.provoke()?;
    // The connection that times out takes longest.
    let timed_out = [("pod", scene.far()), ("reason", "timeout")];
    daemon.wait_for(PATIENCE, &[Expected::sum("tcp_connections_closed_total", &timed_out, 1)]);

    let agents = [Agent::of(&daemon, "node-a")];
    let [text, created] =
        [Format::OpenMetrics, Format::Protobuf].map(|f| Prometheus::start_latest(&agents, f));
    for series in scene.series() {
        let seen = format!("increase({series}[5m]) >= 1");
        created.wait_until(&seen, |samples| samples.len() == 1);
        created.wait_until(&series, |samples| samples.len() == 1 && samples[0].is(1));
        // It is the timestamps that do it: without them there was no zero.
        text.wait_until(&series, |samples| samples.len() == 1 && samples[0].is(1));
        let lowest = format!("min_over_time({series}[5m])");
        text.wait_until(&lowest, |samples| samples.len() == 1 && samples[0].is(1));
        created.wait_until(&lowest, |samples| samples.len() == 1 && samples[0].is(0));
    }
    drop(scene);
    daemon.stop();
    before.assert_same();
    Ok(())
}

/// Every series that is no histogram's, and of histograms all that text has.
#[test]
#[ignore = "needs a newer Prometheus than distributions have: `cargo xtask test` runs it where Go can build one"]
fn text_compressed_text_and_protobuf_have_equal_values() -> Result<()> {
    let _lock = SystemLock::acquire();
    let before = BpfSnapshot::take();
    let daemon = Daemon::start(&["--self-listen", "127.0.0.1:0", "--detail", "full"]);
    let mut scene = Scene::new()?;
    scene.provoke()?;
    let timed_out = [("pod", scene.far()), ("reason", "timeout")];
    daemon.wait_for(PATIENCE, &[Expected::sum("tcp_connections_closed_total", &timed_out, 1)]);

    let agents = [Agent::of(&daemon, "node-a")];
    let readers = Format::ALL.map(|format| Prometheus::start_latest(&agents, format));
    for pod in scene.pods() {
        // Native histograms have no `le` and stand beside the classic ones.
        let series = format!(r#"{{pod="{pod}",__name__!~".+_seconds"}}"#);
        let [plain, packed, protobuf] = readers.each_ref().map(|reader| {
            let samples = reader.wait_until(&series, |samples| samples.len() > 50);
            values(&samples)
        });
        assert_eq!(plain, packed, "{pod}: classic text against OpenMetrics by gzip");
        assert_eq!(plain, protobuf, "{pod}: text against protobuf");
    }
    drop(scene);
    daemon.stop();
    before.assert_same();
    Ok(())
}

/// By all labels; the bound of a bucket is a number, however it is written.
fn values(samples: &[Sample]) -> BTreeMap<String, String> {
    let by_labels = samples.iter().map(|sample| {
        let mut labels = sample.labels.clone();
        if let Some(bound) = labels.get_mut("le") {
            let number: f64 = bound.parse().expect("a number");
            *bound = number.to_string();
        }
        (format!("{labels:?}"), sample.value().to_string())
    });
    by_labels.collect()
}
