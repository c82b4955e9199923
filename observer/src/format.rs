//! Numbers and tables for people.

use std::fmt::Write as _;

/// A count in at most five letters: `9999`, `12.3k`, `4.5M`.
pub(crate) fn count(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", "k", "M", "G", "T"], count < 10_000)
}

/// A number of bytes: `512`, `1.5Ki`, `2.0Gi`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["", "Ki", "Mi", "Gi", "Ti"], bytes < 1024)
}

fn scaled(mut number: f64, step: f64, units: &[&str], is_small: bool) -> String {
    if is_small {
        return format!("{number:.0}");
    }
    let mut unit = 0;
    while number >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = usize::from(number < 100.0);
    format!("{number:.digits$}{}", units[unit])
}

/// A rate for each second.
pub(crate) fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => count(rate.round() as u64),
    }
}

/// A time: `250ms`, `9.5s`, `4m05s`, `3h07m`, `12d4h`.
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        _ if seconds < 1.0 => format!("{:.0}ms", seconds * 1e3),
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table with a heading, as wide as its cells need.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (heading, _))| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([heading.len()]).max().unwrap_or(0)
        })
        .collect();
    let headings: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let mut text = String::new();
    for row in [&headings].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(columns) {
            // Writing to a string does not fail.
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What was counted by reason, the most first: `reset_peer 12, timeout 3`.
pub(crate) fn by_reason<'a>(counts: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, one), (b, other)| other.cmp(one).then(a.cmp(b)));
    let parts: Vec<String> =
        counts.into_iter().map(|(reason, number)| format!("{reason} {number}")).collect();
    parts.join(", ")
}

/// Text of others on a terminal: no control characters, which may be commands to it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        let counts = [0, 9_999, 10_000, 12_345, 123_456, 4_500_000, u64::MAX];
        let shown = counts.map(count);
        assert_eq!(shown, ["0", "9999", "10.0k", "12.3k", "123k", "4.5M", "18446744T"]);
        assert_eq!(
            [0, 1023, 1024, 1536, 150 << 20].map(bytes),
            ["0", "1023", "1.0Ki", "1.5Ki", "150Mi"]
        );
        assert_eq!([0.0, 0.25, 9.94, 12.6, 12_345.0].map(rate), ["0", "0.2", "9.9", "13", "12.3k"]);
    }

    #[test]
    fn times_are_short() {
        let times = [0.0, 0.25, 9.5, 59.9, 61.0, 245.0, 11_220.0, 90_000.0];
        let shown = times.map(time);
        assert_eq!(shown, ["0ms", "250ms", "9.5s", "59s", "1m01s", "4m05s", "3h07m", "1d1h"]);
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let columns = [("POD", Align::Left), ("ACTIVE", Align::Right)];
        let rows = [["chat-0", "7"], ["a", "12345678"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&columns, &rows),
            "POD       ACTIVE\nchat-0         7\na       12345678\n"
        );
    }

    #[test]
    fn names_are_no_commands_to_a_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}m"), "a?[2Jb?c?m");
    }
}
