//! Scrapes: the classic Prometheus text format, taken apart and asked questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::poll::poll;

/// The `Accept` header that asks for the classic format.
pub(crate) const CLASSIC: &str = "text/plain; version=0.0.4";

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The name as it stands there, `_total`, `_bucket`, `_sum` and `_count` included.
    pub(crate) name: String,
    /// The labels and their values, unescaped.
    pub(crate) labels: BTreeMap<String, String>,
    /// The value.
    pub(crate) value: f64,
}

impl Sample {
    /// Whether the sample has that name and, among others, those labels.
    fn matches(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name
            && labels.iter().all(|(key, value)| self.labels.get(*key).is_some_and(|v| v == value))
    }
}

/// Name and labels: what tells one series from another.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        let labels: Vec<_> = self.labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        if labels.is_empty() { Ok(()) } else { write!(f, "{{{}}}", labels.join(",")) }
    }
}

/// A whole scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// In the order of the scrape.
    pub(crate) samples: Vec<Sample>,
    /// The type of each family that states one: `counter`, `gauge`, `histogram`, …
    pub(crate) types: BTreeMap<String, String>,
}

impl Metrics {
    /// Parses a scrape. A series that comes twice is an error, as it is for Prometheus.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(family) = comment.strip_prefix(" TYPE ") {
                    let (name, kind) = family.split_once(' ').context("a TYPE without a type")?;
                    let before = metrics.types.insert(name.to_owned(), kind.to_owned());
                    ensure!(before.is_none(), "{name} has two TYPE lines");
                }
            } else if !line.trim().is_empty() {
                let sample = sample(line).with_context(|| format!("not a sample: {line}"))?;
                ensure!(seen.insert(sample.to_string()), "{sample} comes twice");
                metrics.samples.push(sample);
            }
        }
        Ok(metrics)
    }

    /// The samples of that name with, among others, those labels.
    pub(crate) fn select(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.matches(name, labels)).collect()
    }

    /// The sum over [`select`](Self::select); 0 if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // Not `sum()`, to which nothing amounts to -0.
        self.select(name, labels).iter().fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The value of the one sample that fits; panics if there is none, or more than one.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        match *self.select(name, labels) {
            [sample] => sample.value,
            [] => panic!("no {name} with {labels:?}; there are:\n{}", self.lines_of(name)),
            _ => panic!("{name} with {labels:?} is ambiguous:\n{}", self.lines_of(name)),
        }
    }

    /// All samples of that name, one to a line.
    fn lines_of(&self, name: &str) -> String {
        let mut lines = String::new();
        for sample in self.select(name, &[]) {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "  {sample} {}", sample.value);
        }
        if lines.is_empty() { "  (none of that name)\n".to_owned() } else { lines }
    }

    /// Whether the kernel tells why it resets (6.10). Else an abort cannot be told from a reset that was asked for.
    pub(crate) fn tells_causes(&self) -> bool {
        self.sum("observer_probe_active", &[("program", "reset_sent")]) != 0.0
    }

    /// What changed since `before`, one line to a series and value, marked `-` and `+`.
    pub(crate) fn diff(&self, before: &Self) -> String {
        let by_series = |metrics: &Self| -> BTreeMap<String, String> {
            metrics.samples.iter().map(|s| (s.to_string(), s.value.to_string())).collect()
        };
        let (old, new) = (by_series(before), by_series(self));
        let series: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let mut lines = String::new();
        for name in series {
            let (before, after) = (old.get(name), new.get(name));
            if before != after {
                for (mark, value) in [('-', before), ('+', after)] {
                    if let Some(value) = value {
                        let _ = writeln!(lines, "{mark} {name} {value}");
                    }
                }
            }
        }
        lines
    }
}

/// A sum that a test waits for.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    name: String,
    labels: Vec<(String, String)>,
    sum: f64,
}

impl Expected {
    /// [`Metrics::sum`] of these is to be `sum`, exactly.
    pub(crate) fn sum(name: &str, labels: &[(&str, &str)], sum: u64) -> Self {
        let labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Self { name: name.to_owned(), labels, sum: sum as f64 }
    }

    /// Why the scrape is not as expected.
    pub(crate) fn mismatch(&self, metrics: &Metrics) -> Option<String> {
        let labels: Vec<_> = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let actual = metrics.sum(&self.name, &labels);
        #[expect(clippy::float_cmp, reason = "counts are whole and below 2^53, hence exact")]
        let equal = actual == self.sum;
        (!equal).then(|| {
            let Self { name, sum, .. } = self;
            format!(
                "{name} {labels:?}\n- expected {sum}\n+ got      {actual}\n{}",
                metrics.lines_of(name)
            )
        })
    }
}

/// Scrapes until all sums are as expected; panics with the ones that are not.
pub(crate) fn wait_for(
    deadline: Duration,
    mut scrape: impl FnMut() -> Metrics,
    expected: &[Expected],
) -> Metrics {
    let mut mismatches = Vec::new();
    poll(deadline, || {
        let metrics = scrape();
        mismatches = expected.iter().filter_map(|sum| sum.mismatch(&metrics)).collect();
        mismatches.is_empty().then_some(metrics)
    })
    .unwrap_or_else(|| panic!("not as expected within {deadline:?}:\n{}", mismatches.join("\n")))
}

/// Scrapes until `holds`; panics with what changed meanwhile and with the last scrape.
pub(crate) fn wait_until(
    deadline: Duration,
    mut scrape: impl FnMut() -> Metrics,
    mut holds: impl FnMut(&Metrics) -> bool,
) -> Metrics {
    let (mut first, mut last) = (None, Metrics::default());
    poll(deadline, || {
        last = scrape();
        first.get_or_insert_with(|| last.clone());
        holds(&last).then(|| last.clone())
    })
    .unwrap_or_else(|| {
        panic!(
            "it did not come to hold within {deadline:?}\nwhat changed meanwhile:\n{}\nall:\n{}",
            last.diff(&first.unwrap_or_default()),
            last.diff(&Metrics::default()),
        )
    })
}

/// `name{label="value",…} value [timestamp]`
fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    ensure!(is_name(name), "`{name}` is no name");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut fields = rest.split_ascii_whitespace();
    // Rust reads `+Inf`, `-Inf` and `NaN` as Prometheus writes them.
    let value = fields.next().context("no value")?.parse()?;
    if let Some(timestamp) = fields.next() {
        timestamp.parse::<i64>().context("what follows the value is no timestamp")?;
    }
    ensure!(fields.next().is_none(), "something follows the timestamp");
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// The labels after the opening brace, and what follows the closing one.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (key, after) = rest.split_once("=\"").context("no label value")?;
        ensure!(is_name(key), "`{key}` is no label name");
        let (value, after) = quoted(after)?;
        ensure!(labels.insert(key.to_owned(), value).is_none(), "two labels `{key}`");
        rest = match after.strip_prefix(',') {
            Some(after) => after,
            None if after.starts_with('}') => after,
            None => bail!("neither comma nor brace after a label"),
        };
    }
}

/// A label value after the opening quote, and what follows the closing one.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return Ok((value, chars.as_str())),
            '\\' => value.push(match chars.next() {
                Some('n') => '\n',
                Some(char @ ('\\' | '"')) => char,
                other => bail!("unknown escape {other:?}"),
            }),
            char => value.push(char),
        }
    }
    bail!("the label value does not end")
}

/// Whether it is a metric's name or a label's.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}
