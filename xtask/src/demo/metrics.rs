//! The daemon's metrics, read as Prometheus would read them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// One line of the classic text format.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// The label's value; empty without such a label.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Whether the daemon says that it is ready.
pub(crate) fn is_ready(address: &str) -> bool {
    get(address, "/readyz").is_ok()
}

/// All samples of `/metrics`.
pub(crate) fn read(address: &str) -> Result<Vec<Sample>> {
    let text = get(address, "/metrics")?;
    Ok(text.lines().filter_map(sample).collect())
}

/// Fetches a page.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let mut answer = Vec::new();
    fetch(address, path, &mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{path}: {status}");
    Ok(body.to_owned())
}

/// Fetches a page, head and body, as it is. In HTTP/1.0 the body ends with the connection.
pub(crate) fn fetch(address: &str, path: &str, answer: &mut Vec<u8>) -> Result<()> {
    fetch_as(address, path, "", answer)
}

/// The same, with more lines of the request's head.
pub(crate) fn fetch_as(address: &str, path: &str, lines: &str, answer: &mut Vec<u8>) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{lines}\r\n")?;
    stream.read_to_end(answer)?;
    Ok(())
}

/// The sample in a line; `None` for a comment or anything else.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels as in `pod="a",port="80"`.
fn parse_labels(mut rest: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let (value, end) = unquote(after)?;
        labels.insert(name.to_owned(), value);
        rest = after[end..].trim_start_matches(',');
    }
    Some(labels)
}

/// A label's value up to its closing quote, and where what follows that begins.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, at + 1)),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_name_labels_and_value() {
        let sample = sample(r#"tcp_connections_active{pod="a,b\"}c",port="80"} 3"#).unwrap();
        assert_eq!(sample.name, "tcp_connections_active");
        assert_eq!(sample.label("pod"), "a,b\"}c");
        assert_eq!(sample.label("port"), "80");
        assert_eq!(sample.label("role"), "");
        assert!((sample.value - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn other_lines_are_none() {
        assert_eq!(sample("# HELP a b 1"), None);
        assert_eq!(sample(""), None);
        assert_eq!(sample(r#"a{b="c} 1"#), None);
        assert!(sample("up 1").unwrap().labels.is_empty());
    }
}
