//! The text formats of Prometheus, written line by line: `OpenMetrics` 1.0 and the classic format 0.0.4.
//!
//! A scrape of a large node has a hundred thousand lines, whose cost is that of copying their labels; these are therefore
//! made into text once for each series, not once for each line.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use observer_common::counters::Bounds;

use super::negotiate::Format;
use crate::model::Histogram;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    /// What the name of a sample has behind the family's.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// A label and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Labels as they stand between the braces.
pub(super) fn labels(labels: &[Label<'_>]) -> String {
    let mut text = String::new();
    append(&mut text, labels);
    text
}

/// Writes labels behind others, if there are any.
pub(super) fn append(text: &mut String, labels: &[Label<'_>]) {
    for (name, value) in labels {
        if !text.is_empty() && !text.ends_with('{') {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        escape(text, value);
        text.push('"');
    }
}

fn escape(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

/// A scrape as far as it is written.
#[derive(Debug)]
pub(super) struct Text {
    format: Format,
    prefix: String,
    out: String,
    /// The name of the samples of the family under way.
    name: String,
}

impl Text {
    /// Nothing yet; every name will have `prefix` before it.
    pub(super) fn new(format: Format, prefix: &str) -> Self {
        Self { format, prefix: prefix.to_owned(), out: String::new(), name: String::new() }
    }

    /// Bytes that were written and not taken.
    pub(super) const fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes what is written; `room` bytes are set aside for what follows.
    pub(super) fn take(&mut self, room: usize) -> String {
        std::mem::replace(&mut self.out, String::with_capacity(room))
    }

    /// Begins a family. The classic format names it as its samples, and knows no infos.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (of_type, suffix) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Info) => ("info", ""),
            (Format::Classic, Kind::Info) | (_, Kind::Gauge) => ("gauge", kind.suffix()),
            (Format::OpenMetrics, Kind::Counter) => ("counter", ""),
            (Format::Classic, Kind::Counter) => ("counter", kind.suffix()),
            (_, Kind::Histogram) => ("histogram", ""),
        };
        self.name = format!("{}{name}{}", self.prefix, kind.suffix());
        let family = &self.name[..self.name.len() - kind.suffix().len() + suffix.len()];
        // Writing to a string does not fail.
        let _ = write!(self.out, "# HELP {family} {help}\n# TYPE {family} {of_type}\n");
    }

    /// Writes the end mark of formats that have one.
    pub(super) fn end(&mut self) {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
    }

    /// A sample of the family under way: `labels` are text already, `more` follow them.
    pub(super) fn sample(&mut self, labels: &str, more: &[Label<'_>], value: impl itoa::Integer) {
        if labels.is_empty() && more.is_empty() {
            self.out.push_str(&self.name);
        } else {
            self.open("", labels, more);
            self.out.push('}');
        }
        self.value(value);
    }

    /// The sample of a family without labels whose values are no whole numbers.
    pub(super) fn number(&mut self, value: f64) {
        let _ = writeln!(self.out, "{} {value:?}", self.name);
    }

    /// The samples of a histogram of times, in seconds. There are labels.
    pub(super) fn histogram(&mut self, labels: &str, more: &[Label<'_>], histogram: Histogram<'_>) {
        let bounds = bounds(histogram.bounds);
        let start = self.out.len();
        self.open("_bucket", labels, more);
        self.out.push_str(",le=\"");
        let head = start..self.out.len();
        let mut count = 0;
        for (index, (bound, here)) in bounds.iter().zip(histogram.buckets).enumerate() {
            if index != 0 {
                self.out.extend_from_within(head.clone());
            }
            count += here;
            self.out.push_str(bound);
            self.out.push_str("\"}");
            self.value(count);
        }
        self.open("_sum", labels, more);
        let (seconds, rest) = (histogram.sum_ns / 1_000_000_000, histogram.sum_ns % 1_000_000_000);
        let _ = writeln!(self.out, "}} {seconds}.{rest:09}");
        self.open("_count", labels, more);
        self.out.push('}');
        self.value(count);
    }

    fn open(&mut self, suffix: &str, labels: &str, more: &[Label<'_>]) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        self.out.push('{');
        self.out.push_str(labels);
        append(&mut self.out, more);
    }

    fn value(&mut self, value: impl itoa::Integer) {
        self.out.push(' ');
        self.out.push_str(itoa::Buffer::new().format(value));
        self.out.push('\n');
    }
}

/// Bounds of buckets as they are written, made once for each histogram of the tables.
fn bounds(bounds: &'static Bounds) -> Arc<[String]> {
    type Made = (&'static Bounds, Arc<[String]>);
    static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, text)) = made.iter().find(|(of, _)| std::ptr::eq(*of, bounds)) {
        return Arc::clone(text);
    }
    let text = bounds.upper.iter().copied().map(decimal).chain(["+Inf".to_owned()]).collect();
    made.push((bounds, Arc::clone(&text)));
    text
}

/// A number as `OpenMetrics` wants it: with a point, and no exponent.
fn decimal(number: f64) -> String {
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use observer_common::wire::slot::{IDLE_TIMES, LIFETIMES, ROUND_TRIPS};

    use super::*;

    static BOUNDS: Bounds = Bounds { words: 4, upper: &[0.5, 2.0], powers_of_two: false };

    #[test]
    fn bounds_are_decimal() {
        let bounds = |of: &'static Bounds, at: usize| bounds(of)[at].clone();
        assert_eq!([0, 10].map(|at| bounds(&LIFETIMES, at)), ["0.0009765625", "1.0"]);
        assert_eq!([27, 28].map(|at| bounds(&LIFETIMES, at)), ["131072.0", "+Inf"]);
        assert_eq!([7, 27].map(|at| bounds(&IDLE_TIMES, at)), ["59.0", "+Inf"]);
        let round_trips = [0, 18, 19].map(|at| bounds(&ROUND_TRIPS, at));
        assert_eq!(round_trips, ["0.0000152587890625", "4.0", "+Inf"]);
    }

    fn written(format: Format) -> String {
        let mut text = Text::new(format, "edge_");
        text.family("a", Kind::Counter, "Things.");
        text.sample(&labels(&[("x", "\\ \"\n")]), &[("y", "z")], 1_u64);
        text.family("b", Kind::Gauge, "B.");
        text.sample("", &[], -2_i64);
        text.family("c", Kind::Info, "C.");
        text.sample("", &[("v", "1")], 1_u64);
        text.family("d", Kind::Histogram, "D.");
        let histogram = Histogram { sum_ns: 2_000_000_001, buckets: &[1, 0, 2], bounds: &BOUNDS };
        text.histogram("x=\"1\"", &[], histogram);
        text.end();
        text.take(0)
    }

    #[test]
    fn open_metrics() {
        let expected = r#"# HELP edge_a Things.
# TYPE edge_a counter
edge_a_total{x="\\ \"\n",y="z"} 1
# HELP edge_b B.
# TYPE edge_b gauge
edge_b -2
# HELP edge_c C.
# TYPE edge_c info
edge_c_info{v="1"} 1
# HELP edge_d D.
# TYPE edge_d histogram
edge_d_bucket{x="1",le="0.5"} 1
edge_d_bucket{x="1",le="2.0"} 1
edge_d_bucket{x="1",le="+Inf"} 3
edge_d_sum{x="1"} 2.000000001
edge_d_count{x="1"} 3
# EOF
"#;
        assert_eq!(written(Format::OpenMetrics), expected);
    }

    #[test]
    fn classic() {
        let text = written(Format::Classic);
        for line in [
            "# HELP edge_a_total Things.",
            "# TYPE edge_a_total counter",
            "# TYPE edge_b gauge",
            "# HELP edge_c_info C.",
            "# TYPE edge_c_info gauge",
            "edge_c_info{v=\"1\"} 1",
            "# TYPE edge_d histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert!(!text.contains("# EOF") && text.ends_with("edge_d_count{x=\"1\"} 3\n"), "{text}");
    }
}
