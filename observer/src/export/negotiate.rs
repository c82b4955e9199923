//! Which format a scraper gets, and whether it is compressed.

/// The formats of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Classic,
    /// Prometheus' protobuf, with native histograms and created timestamps.
    Protobuf,
}

/// Media type, what it must be said to be, and the format; of equal weight the first is taken.
const OFFERS: [(&str, &[&str], Format); 3] = [
    (
        "application/vnd.google.protobuf",
        &["proto=io.prometheus.client.MetricFamily", "encoding=delimited"],
        Format::Protobuf,
    ),
    ("application/openmetrics-text", &[], Format::OpenMetrics),
    ("text/plain", &[], Format::Classic),
];

impl Format {
    /// The format an `Accept` header asks for: of those that it names the one of the greatest weight.
    #[must_use]
    pub(super) fn negotiate(accept: Option<&str>) -> Self {
        let mut best = (0.0, Self::Classic);
        for (media, parameters, format) in OFFERS {
            let weight = items(accept)
                .filter(|(kind, said)| {
                    *kind == media && parameters.iter().all(|parameter| said.contains(parameter))
                })
                .map(|(_, said)| weight(&said))
                .fold(0.0, f32::max);
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Whether an `Accept-Encoding` header asks for gzip.
#[must_use]
pub(super) fn wants_gzip(accept: Option<&str>) -> bool {
    items(accept).any(|(encoding, said)| encoding == "gzip" && weight(&said) > 0.0)
}

/// The items of a header, each with its parameters.
fn items(header: Option<&str>) -> impl Iterator<Item = (&str, Vec<&str>)> {
    header.unwrap_or("").split(',').map(|item| {
        let mut parts = item.split(';').map(str::trim);
        (parts.next().unwrap_or(""), parts.collect())
    })
}

fn weight(parameters: &[&str]) -> f32 {
    let q = parameters.iter().find_map(|parameter| parameter.strip_prefix("q="));
    q.map_or(1.0, |q| q.parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

    #[test]
    fn accept_headers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let native = format!("{PROTOBUF};q=0.6,{prometheus}");
        let compact = native.replace("delimited", "compact-text");
        for (accept, format) in [
            (None, Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some("text/plain"), Format::Classic),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Format::Classic),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.5"), Format::Classic),
            (Some(prometheus), Format::OpenMetrics),
            (Some(native.as_str()), Format::Protobuf),
            (Some(compact.as_str()), Format::OpenMetrics),
            (Some(PROTOBUF), Format::Protobuf),
            (Some(";;q=,"), Format::Classic),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn compression() {
        for (accept, gzip) in [
            (None, false),
            (Some("gzip"), true),
            (Some("deflate, gzip;q=1.0, *;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("identity"), false),
        ] {
            assert_eq!(wants_gzip(accept), gzip, "{accept:?}");
        }
    }
}
