//! From the rows of a scrape to what is sent, by prometheus-client: one registry with one collector for each family, so that
//! no more than a family is in memory at a time.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use observer_common::{
    counters::{Level, Owner, Rows, Zeros},
    protocol::Protocol,
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, prometheus_protobuf, prometheus_protobuf::prometheus_data_model::Metric,
        prometheus_text, text,
    },
    registry::Registry,
};
use prost::Message as _;

use super::{
    families::{DERIVED, FOUND, OWN, TRUST, combinations, counted, of_counters, tells},
    family::{Family, Part, Samples},
    kubernetes,
    negotiate::Format,
    out::Out,
    process,
    rows::{About, Row, Scrape},
    select::Selection,
};
use crate::collect::Snapshot;

/// What a scrape is to have.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much of it.
    pub detail: Level,
    /// Which families, by their names without prefix.
    pub families: Selection,
    /// Whose series.
    pub namespaces: Selection,
    /// Stands before the names of all families but the observer's own.
    pub prefix: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            detail: Level::Standard,
            families: Selection::default(),
            namespaces: Selection::default(),
            prefix: String::new(),
        }
    }
}

impl Settings {
    /// So many classic buckets of histograms by powers of two are one.
    fn merged(&self) -> usize {
        if self.detail == Level::Full { 1 } else { 3 }
    }

    fn wants(&self, family: &Family, part: Part) -> bool {
        family.belongs_to(part)
            && family.level <= self.detail
            && (family.is_about_knowing() || {
                let sample = format!("{}{}", family.name, family.kind.suffix());
                self.families.takes_known_as(&[family.name, &sample])
            })
    }
}

/// All families, in the order in which they are sent.
pub(super) static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let written = [DERIVED, FOUND, kubernetes::FAMILIES, TRUST, OWN, process::FAMILIES].concat();
    of_counters().chain(written).collect()
});

/// How many series of each family the last scrape had.
pub(super) type Served = Arc<Mutex<BTreeMap<String, u64>>>;

/// Locks the numbers of series; nothing leaves them half-done.
pub(super) fn lock(served: &Mutex<BTreeMap<String, u64>>) -> MutexGuard<'_, BTreeMap<String, u64>> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One family of a scrape.
#[derive(Debug)]
struct One {
    scrape: Arc<Scrape>,
    /// Index in [`FAMILIES`].
    family: usize,
    name: String,
    /// Whether nothing is left out of a row.
    everything: bool,
    merged: usize,
    /// When each sample began to count, as they were encoded.
    created: Mutex<Vec<Option<SystemTime>>>,
}

impl Collector for One {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let family = &FAMILIES[self.family];
        let mut encoder =
            encoder.encode_descriptor(&self.name, family.help, None, family.kind.into())?;
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.clear();
        let mut out = Out::new(&mut encoder, family.kind, self.merged, &mut created);
        self.write(&family.samples, &mut out);
        out.outcome()
    }
}

impl One {
    fn write(&self, samples: &Samples, out: &mut Out<'_, '_>) {
        let scrape = &*self.scrape;
        let shown = |row: &&Row| self.everything || !row.is_passage();
        match samples {
            Samples::Counter(counter, rows, zeros) => {
                let rows = match (rows, counter.owner) {
                    (Rows::Series, _) => &scrape.series,
                    (Rows::Endpoint, _) => &scrape.endpoints,
                    (Rows::Replica, Owner::Protocol(number)) => {
                        Protocol::from_wire(number).map_or(&[][..], |of| scrape.replicas(of))
                    }
                    (Rows::Replica, Owner::Cell | Owner::Ends) => &[],
                };
                // Made once: there are many rows.
                let combinations: Vec<_> = combinations(counter).collect();
                let attempts = matches!(zeros, Zeros::Attempts(_));
                let shown = |row: &&Row| shown(row) || (attempts && row.begins_attempts());
                for row in rows.iter().filter(shown).filter(|row| row.has(counter)) {
                    let zero = |combination| match zeros {
                        Zeros::All => true,
                        Zeros::None => false,
                        Zeros::Of { server, client } => {
                            let values = if row.is_client() { client } else { server };
                            values.contains(&combination)
                        }
                        Zeros::Attempts(values) => {
                            row.begins_attempts() && values.contains(&combination)
                        }
                    };
                    if self.everything || tells(counter, row) {
                        counted(out, row, counter, &combinations, zero);
                    }
                }
            }
            Samples::Series(write) => scrape.series.iter().for_each(|row| write(out, row)),
            Samples::Present(write) => {
                scrape.series.iter().filter(shown).for_each(|row| write(out, row));
            }
            Samples::Replicas(protocol, write) => {
                scrape.replicas(*protocol).iter().for_each(|row| write(out, row));
            }
            Samples::Pods(write) => {
                scrape.pods.iter().for_each(|pod| write(out, pod, &scrape.own.about.node));
            }
            Samples::Totals(write) => scrape.totals.iter().for_each(|total| write(out, total)),
            Samples::Trust(write) => scrape.trust.iter().for_each(|trust| write(out, trust)),
            Samples::Cuts(write) => {
                scrape.cuts.iter().for_each(|(whose, cut)| write(out, whose, cut));
            }
            Samples::Own(write) => write(out, &scrape.own),
        }
    }
}

/// Writes a scrape.
///
/// # Errors
/// If the writer fails.
pub(super) fn write(
    scrape: Scrape,
    settings: &Settings,
    format: Format,
    part: Part,
    to: &mut dyn Write,
) -> io::Result<()> {
    let served = Arc::clone(&scrape.own.served);
    let scrape = Arc::new(scrape);
    for (index, family) in FAMILIES.iter().enumerate() {
        if !settings.wants(family, part) {
            continue;
        }
        let prefix = if family.is_about_knowing() { "" } else { &settings.prefix };
        let one = Arc::new(One {
            scrape: Arc::clone(&scrape),
            family: index,
            name: format!("{prefix}{}", family.name),
            everything: settings.detail == Level::Full,
            merged: settings.merged(),
            created: Mutex::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&one)));
        encode_one(&one, &registry, format, to)?;
        let samples = one.created.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        if !family.is_own() {
            lock(&served).insert(format!("{}{}", one.name, family.kind.suffix()), samples);
        }
    }
    if format == Format::OpenMetrics {
        text_to(to, |to| text::encode_eof(to))?;
    }
    Ok(())
}

fn encode_one(
    one: &One,
    registry: &Registry,
    format: Format,
    to: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::OpenMetrics => text_to(to, |to| text::encode_registry(to, registry)),
        Format::Classic => text_to(to, |to| prometheus_text::encode(to, registry)),
        Format::Protobuf => {
            let families = prometheus_protobuf::encode(registry).map_err(io::Error::other)?;
            let created = one.created.lock().unwrap_or_else(PoisonError::into_inner);
            for mut family in families.into_iter().filter(|family| !family.metric.is_empty()) {
                for (metric, created) in family.metric.iter_mut().zip(created.iter()) {
                    begin(metric, *created);
                }
                to.write_all(&family.encode_length_delimited_to_vec())?;
            }
            Ok(())
        }
    }
}

/// Tells when a sample began to count, which the library knows of native histograms only.
fn begin(metric: &mut Metric, created: Option<SystemTime>) {
    let start = created.map(Into::into);
    if let Some(counter) = &mut metric.counter {
        counter.start_timestamp = start;
    } else if let Some(histogram) = &mut metric.histogram {
        histogram.start_timestamp = start;
    }
}

/// Text into a writer of bytes.
struct Text<'a> {
    to: &'a mut dyn Write,
    /// Why it failed: a formatter's error says nothing.
    failed: Option<io::Error>,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.to.write_all(text.as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

fn text_to(to: &mut dyn Write, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) -> io::Result<()> {
    let mut text = Text { to, failed: None };
    write(&mut text).map_err(|error| text.failed.unwrap_or_else(|| io::Error::other(error)))
}

/// A snapshot as `OpenMetrics` text.
///
/// # Panics
/// Never: it is written into memory.
#[must_use]
pub fn encode(snapshot: Snapshot, about: &About, settings: &Settings, part: Part) -> String {
    let wanted = |namespace: &str| settings.namespaces.takes(namespace);
    let scrape = Scrape::new(snapshot, about, &Served::default(), wanted);
    let mut bytes = Vec::new();
    write(scrape, settings, Format::OpenMetrics, part, &mut bytes).expect("memory takes it");
    String::from_utf8(bytes).expect("text")
}

#[cfg(test)]
mod tests {
    use observer_common::{
        label::{Reason, Role},
        protocol::Protocol,
        wire::slot,
    };
    use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;

    use super::*;
    use crate::{
        aggregate::{Series, SeriesKey},
        attribute::identify,
        bpf::Origin,
        export::DroppedLines,
        model::Counts,
    };

    fn about() -> About {
        About {
            node: "n".to_owned(),
            kernel: "k".to_owned(),
            origin: Origin::Created,
            dropped: DroppedLines::default(),
        }
    }

    fn series(role: Role, protocol: Protocol, port: u16, counts: Counts) -> Series {
        let identity = Arc::new(identify("/system.slice/a \"b\"\\c.service"));
        let path = observer_common::label::Path::External;
        Series { key: SeriesKey { identity, role, protocol, port, path }, counts }
    }

    /// A server's connection that lives as WebSocket, the way it came, and one that was reset.
    fn snapshot() -> Snapshot {
        let passage = |counter| {
            let mut counts = Counts::default();
            counts.words_mut(counter)[0] = 2;
            counts.words_mut(&slot::LEFT)[0] = 2;
            counts.words_mut(&slot::BYTES)[0] = 100;
            counts.words_mut(&slot::ROUND_TRIP)[3] = 1;
            counts
        };
        let mut stays = Counts::default();
        stays.since = Some(SystemTime::UNIX_EPOCH);
        stays.words_mut(&slot::ENTERED)[0] = 2;
        stays.words_mut(&slot::ACTIVE)[0] = 1;
        stays.words_mut(&slot::BYTES)[1] = 9;
        stays.words_mut(&slot::CLOSED)[Reason::ResetPeer as usize] = 1;
        let lifetime = stays.words_mut(&slot::LIFETIME);
        (lifetime[0], lifetime[11]) = (1_500_000_000, 1);
        Snapshot {
            series: vec![
                series(Role::Server, Protocol::Tcp, 80, passage(&slot::OPENED)),
                series(Role::Server, Protocol::Http1, 80, passage(&slot::ENTERED)),
                series(Role::Server, Protocol::WebSocket, 80, stays),
            ],
            ..Snapshot::default()
        }
    }

    fn text(settings: &Settings) -> String {
        encode(snapshot(), &about(), settings, Part::Workloads)
    }

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn what_was_only_passed_through_makes_no_series() {
        let standard = text(&Settings::default());
        let of = |text: &str, name: &str, protocol: &str| {
            let label = format!("protocol=\"{protocol}\"");
            samples(text).iter().filter(|l| l.starts_with(name) && l.contains(&label)).count()
        };
        for name in ["tcp_payload_bytes", "tcp_connections_active", "tcp_connections_closed"] {
            assert_eq!(of(&standard, name, "tcp") + of(&standard, name, "http1"), 0, "{name}");
            assert!(of(&standard, name, "websocket") > 0, "{name}");
        }
        assert_eq!(of(&standard, "tcp_connections_identified", "http1"), 1, "it was one");
        assert!(standard.contains("tcp_connections_opened_total{"), "each was opened once");
        let full = text(&Settings { detail: Level::Full, ..Settings::default() });
        assert_eq!(of(&full, "tcp_payload_bytes", "tcp"), 1);
    }

    #[test]
    fn levels_hold_what_the_one_below_holds_and_more() {
        let at = |detail| {
            let text = text(&Settings { detail, ..Settings::default() });
            let heads = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            let heads: Vec<String> = heads.map(str::to_owned).collect();
            (heads, samples(&text).len())
        };
        let [core, standard, full] = [Level::Core, Level::Standard, Level::Full].map(at);
        assert!(core.0.iter().all(|family| standard.0.contains(family)));
        assert!(standard.0.iter().all(|family| full.0.contains(family)));
        assert!(core.1 < standard.1 && standard.1 < full.1, "{core:?} {standard:?} {full:?}");
        assert!(core.1 <= 16 && standard.1 <= 45, "{} and {}", core.1, standard.1);
    }

    #[test]
    fn families_and_namespaces_can_be_chosen() {
        let families = Selection::parse("websocket_*,!websocket_errors").unwrap();
        let chosen = text(&Settings { families, ..Settings::default() });
        assert!(samples(&chosen).iter().all(|line| line.starts_with("websocket_")), "{chosen}");
        assert!(chosen.contains("websocket_messages_total{") && !chosen.contains("_errors"));
        let namespaces = Selection::parse("!systemd").unwrap();
        assert!(samples(&text(&Settings { namespaces, ..Settings::default() })).is_empty());
    }

    #[test]
    fn the_prefix_is_for_the_workloads_families() {
        let settings = Settings { prefix: "edge_".to_owned(), ..Settings::default() };
        let text = encode(snapshot(), &about(), &settings, Part::All);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let own = line.starts_with("observer_") || line.starts_with("process_");
            assert!(own || line.starts_with("edge_"), "{line}");
        }
        assert!(text.contains("\nobserver_series{family=\"edge_tcp_connections_active\"} 1\n"));
    }

    #[test]
    fn labels_are_escaped() {
        let escaped = r#"pod="a \"b\"\\c.service""#;
        assert!(text(&Settings::default()).contains(escaped), "{}", text(&Settings::default()));
    }

    #[test]
    fn protobuf_has_native_buckets_and_begins() {
        let (settings, mut bytes) = (Settings::default(), Vec::new());
        let scrape = Scrape::new(snapshot(), &about(), &Served::default(), |_| true);
        write(scrape, &settings, Format::Protobuf, Part::All, &mut bytes).unwrap();
        let mut families = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        let family = |name: &str| families.iter().find(|family| family.name == name).unwrap();
        let lifetimes = &family("tcp_connection_duration_seconds").metric;
        let histogram = lifetimes[0].histogram.as_ref().unwrap();
        assert_eq!(
            (lifetimes.len(), histogram.schema, histogram.zero_threshold),
            (1, 0, 1.0 / 1024.0)
        );
        assert_eq!(
            (histogram.positive_span[0].offset, &histogram.positive_delta[..]),
            (0, &[1][..])
        );
        assert_eq!(histogram.sample_count, 1);
        assert_eq!(histogram.start_timestamp.as_ref().map(|start| start.seconds), Some(0));
        let closed = &family("tcp_connections_closed_total").metric;
        assert_eq!(closed.len(), 2, "with zeros: {closed:?}");
        for metric in closed {
            let counter = metric.counter.as_ref().unwrap();
            assert_eq!(counter.start_timestamp.as_ref().map(|start| start.seconds), Some(0));
        }
        assert!(families.iter().all(|family| !family.metric.is_empty()));
    }
}
