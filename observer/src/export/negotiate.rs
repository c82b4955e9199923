//! Which text format a scraper gets, and the older of the two made from the newer.

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

    /// `OpenMetrics` text in this format.
    ///
    /// The classic format names a counter's family with its `_total`, an info with its `_info`, and has neither units
    /// nor an end mark.
    #[must_use]
    pub(super) fn render(self, open_metrics: String) -> String {
        if self == Self::OpenMetrics {
            return open_metrics;
        }
        let mut text = String::with_capacity(open_metrics.len());
        // HELP comes before TYPE, but which suffix it needs depends on the type.
        let mut help: Option<&str> = None;
        for line in open_metrics.lines() {
            if line == "# EOF" || line.starts_with("# UNIT ") {
                continue;
            }
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = Some(rest);
                continue;
            }
            if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text_of_help)) = help.take().and_then(|help| help.split_once(' ')) {
                    text.extend(["# HELP ", name, suffix, " ", text_of_help, "\n"]);
                }
                text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
                continue;
            }
            text.extend([line, "\n"]);
        }
        text
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

    #[test]
    fn classic_text() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b B.\n# TYPE b gauge\n# UNIT b bytes\nb 2\n# HELP c C.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        assert_eq!(
            Format::Classic.render(open.to_owned()),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n# HELP b B.\n# TYPE b gauge\nb 2\n# HELP c_info C.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n"
        );
        assert_eq!(Format::OpenMetrics.render(open.to_owned()), open);
    }
}
