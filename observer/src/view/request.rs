//! What a client asks for, in one line of JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Filter;

/// Connections that one listing shows at most.
pub const MOST: usize = 10_000;

/// What is asked for, and of which connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Request {
    /// What is to be shown.
    #[serde(flatten)]
    pub show: Show,
    /// Of which connections.
    #[serde(flatten)]
    pub filter: Filter,
}

/// What is to be shown; records unless the request says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "show", rename_all = "snake_case", deny_unknown_fields)]
pub enum Show {
    /// Records of connections as they end, and as they turn out to speak a protocol.
    #[default]
    Records,
    /// The table of all that is counted.
    Table {
        /// Once a second, until the client closes its direction; otherwise once.
        #[serde(default)]
        follow: bool,
    },
    /// The connections that are open.
    Connections {
        /// Which come first.
        #[serde(default)]
        sort: Sort,
        /// How many at most.
        #[serde(default = "most")]
        limit: usize,
    },
}

/// By what connections are sorted, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// How long they have lived.
    #[default]
    Age,
    /// How long they have been silent.
    Idle,
    /// Payload bytes, both directions together.
    Bytes,
    /// Segments that were sent again.
    Retransmits,
}

const fn most() -> usize {
    MOST
}

/// The fields that belong to what is to be shown; all others are the filter's.
const OF_SHOW: [&str; 4] = ["show", "follow", "sort", "limit"];

impl Request {
    /// Reads a request. What a newer version may ask for is refused, not half understood.
    ///
    /// # Errors
    /// If it is no JSON object, or one of its fields is unknown.
    pub fn read(line: &str) -> serde_json::Result<Self> {
        let mut filter: Map<String, Value> = serde_json::from_str(line)?;
        let of_show: Map<String, Value> =
            OF_SHOW.iter().filter_map(|&name| filter.remove_entry(name)).collect();
        let show = if of_show.is_empty() {
            Show::default()
        } else {
            serde_json::from_value(of_show.into())?
        };
        Ok(Self { show, filter: serde_json::from_value(filter.into())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let filter = Filter { pod: vec!["chat-*".to_owned()], ..Filter::default() };
        for show in [
            Show::Records,
            Show::Table { follow: true },
            Show::Connections { sort: Sort::Idle, limit: 5 },
        ] {
            let request = Request { show, filter: filter.clone() };
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(Request::read(&line).unwrap(), request, "{line}");
        }
    }

    #[test]
    fn a_filter_alone_asks_for_records() {
        let request = Request::read(r#"{"pod":["chat-0"]}"#).unwrap();
        assert_eq!((request.show, request.filter.pod), (Show::Records, vec!["chat-0".to_owned()]));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for line in [
            r#"{"show":"dreams"}"#,
            r#"{"show":"table","sort":"age"}"#,
            r#"{"show":"connections","limit":-1}"#,
            r#"{"limit":1}"#,
            r#"{"colour":["blue"]}"#,
            "[]",
            "",
        ] {
            assert!(Request::read(line).is_err(), "{line}");
        }
    }
}
