//! The live table: one line per pod of the demo.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::metrics::Sample;
use super::pods::{NAMESPACE, Pod};

/// Prints tables one over the other on a terminal, one below the other elsewhere.
pub(super) struct Table {
    terminal: bool,
    /// Lines to go back before the next one.
    height: usize,
}

/// What the metrics tell about a pod.
#[derive(Debug, Default, PartialEq)]
struct Row {
    role: String,
    protocol: String,
    active: f64,
    opened: f64,
    closed: f64,
}

impl Table {
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal, height: 0 }
    }

    pub(super) fn show(&mut self, pods: &[Pod], samples: &[Sample]) {
        let text = render(pods, samples);
        if self.terminal && self.height > 0 {
            // To the first line of the previous table, and clear from there.
            print!("\x1b[{}A\x1b[J", self.height);
        }
        self.height = text.lines().count();
        print!("{text}");
    }
}

fn render(pods: &[Pod], samples: &[Sample]) -> String {
    let mut text = String::from("\n");
    let heads = ["pod", "role", "protocol", "active", "opened", "closed"];
    let [pod, role, protocol, active, opened, closed] = heads;
    // Writing to a String does not fail.
    let _ =
        writeln!(text, "{pod:<16} {role:<8} {protocol:<12} {active:>8} {opened:>8} {closed:>8}");
    for pod in pods {
        let Row { role, protocol, active, opened, closed } = row(pod.name, samples);
        let name = format!("{NAMESPACE}/{}", pod.name);
        let _ = writeln!(
            text,
            "{name:<16} {role:<8} {protocol:<12} {active:>8} {opened:>8} {closed:>8}"
        );
    }
    let ours = |sample: &&Sample| pods.iter().any(|pod| is_of(sample, pod.name));
    for family in ["websocket_connections_active", "grpc_connections_active"] {
        let series = samples.iter().filter(ours).filter(|sample| sample.name == family);
        // Not `sum`: that of nothing is -0.
        let sum = series.fold(0.0, |sum, sample| sum + sample.value);
        let _ = writeln!(text, "{family:<46} {sum}");
    }
    text
}

fn is_of(sample: &Sample, pod: &str) -> bool {
    sample.label("namespace") == NAMESPACE && sample.label("pod") == pod
}

/// Adds up the series of one pod. Each pod of the demo has one role and speaks one protocol: the
/// one of most of its connections (a new one is plain tcp until it has said something).
fn row(pod: &str, samples: &[Sample]) -> Row {
    let mut row = Row::default();
    let mut connections = BTreeMap::<&str, f64>::new();
    for sample in samples.iter().filter(|sample| is_of(sample, pod)) {
        let sum = match sample.name.as_str() {
            "tcp_connections_active" => &mut row.active,
            "tcp_connections_opened_total" => &mut row.opened,
            "tcp_connections_closed_total" => &mut row.closed,
            _ => continue,
        };
        *sum += sample.value;
        if sample.value > 0.0 {
            sample.label("role").clone_into(&mut row.role);
            *connections.entry(sample.label("protocol")).or_default() += sample.value;
        }
    }
    // The opened connections have no protocol yet.
    connections.remove("");
    let most = connections.into_iter().max_by(|(_, one), (_, other)| one.total_cmp(other));
    row.protocol = most.map_or_else(String::new, |(protocol, _)| protocol.to_owned());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, labels: &[(&str, &str)], value: f64) -> Sample {
        let own = |text: &str| text.to_owned();
        let labels = labels.iter().map(|(name, value)| (own(name), own(value))).collect();
        Sample { name: own(name), labels, value }
    }

    #[test]
    fn a_row_adds_up_the_series_of_its_pod() {
        let ws =
            [("namespace", "shop"), ("pod", "a"), ("role", "server"), ("protocol", "websocket")];
        let tcp = [("namespace", "shop"), ("pod", "a"), ("role", "server"), ("protocol", "tcp")];
        let samples = [
            sample("tcp_connections_active", &ws, 3.0),
            sample("tcp_connections_active", &tcp, 1.0),
            sample(
                "tcp_connections_opened_total",
                &[("namespace", "shop"), ("pod", "a"), ("role", "server")],
                9.0,
            ),
            sample("tcp_connections_closed_total", &ws, 5.0),
            sample("tcp_connections_active", &[("namespace", "other"), ("pod", "a")], 7.0),
            sample("up", &ws, 1.0),
        ];
        let expected = Row {
            role: "server".into(),
            protocol: "websocket".into(),
            active: 4.0,
            opened: 9.0,
            closed: 5.0,
        };
        assert_eq!(row("a", &samples), expected);
        assert_eq!(row("c", &samples), Row::default());
    }
}
