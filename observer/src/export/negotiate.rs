//! Which text format a scraper gets.

/// The formats of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Classic,
}

impl Format {
    /// The format an `Accept` header asks for: `OpenMetrics` if it is named with a weight not below plain text's.
    #[must_use]
    pub(super) fn negotiate(accept: Option<&str>) -> Self {
        let weight = |media: &str| {
            accept
                .unwrap_or("")
                .split(',')
                .filter_map(|item| {
                    let mut parts = item.split(';').map(str::trim);
                    let kind = parts.next()?;
                    let q = parts
                        .find_map(|p| p.strip_prefix("q="))
                        .map_or(1.0, |q| q.parse().unwrap_or(0.0));
                    (kind == media).then_some(q)
                })
                .fold(0.0_f32, f32::max)
        };
        let open = weight("application/openmetrics-text");
        if open > 0.0 && open >= weight("text/plain") { Self::OpenMetrics } else { Self::Classic }
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (None, Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some("text/plain"), Format::Classic),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Format::Classic),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.5"), Format::Classic),
            (Some(prometheus), Format::OpenMetrics),
            (Some(";;q=,"), Format::Classic),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }
}
