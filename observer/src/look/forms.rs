//! Records in other forms than that in which the daemon sends them. Pure.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::format::{bytes, plain, time};

/// The fields of a line, in its order.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Fields {
    /// Reads a line of JSON.
    pub(super) fn read(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }

    /// `name=value` for each, with quotes around what a reader would take for more than one value, or for none.
    pub(super) fn logfmt(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.0 {
            if !line.is_empty() {
                line.push(' ');
            }
            // Writing to a string cannot fail.
            let _ = match value {
                Value::String(text) if is_bare(text) => write!(line, "{name}={text}"),
                // In quotes and escaped as in JSON.
                value => write!(line, "{name}={value}"),
            };
        }
        line + "\n"
    }

    /// A line for people: when, what, whose, with whom, and what it was.
    pub(super) fn text(&self) -> String {
        let text = |name: &str| self.find(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| self.find(name).and_then(Value::as_u64).unwrap_or_default();
        if text("event") == "dropped" {
            let (ring, queue) = (number("ring"), number("queue"));
            return format!("dropped: {ring} by the kernel, {queue} here for want of speed\n");
        }
        let mut whose = text("namespace").to_owned();
        for name in ["pod", "container"] {
            let name = text(name);
            if !name.is_empty() {
                if !whose.is_empty() {
                    whose.push('/');
                }
                whose.push_str(name);
            }
        }
        let seconds = |name: &str| self.find(name).and_then(Value::as_f64).map(time);
        // An adopted one is older than is known.
        let older = if self.find("opened").is_some() { "" } else { ">" };
        let mut parts = vec![
            text("time").to_owned(),
            format!("{:<10}", text("event")),
            plain(&whose),
            text("role").to_owned(),
            text("protocol").to_owned(),
            self.address("local"),
            if text("role") == "client" { "->" } else { "<-" }.to_owned(),
            self.address("peer"),
            format!("age {older}{}", seconds("lifetime_seconds").unwrap_or_default()),
        ];
        parts.extend(seconds("idle_seconds").map(|idle| format!("idle {idle}")));
        parts.push(format!("in {}", bytes(number("received_bytes"))));
        parts.push(format!("out {}", bytes(number("sent_bytes"))));
        if number("retransmits") > 0 {
            parts.push(format!("retransmits {}", number("retransmits")));
        }
        let reasons = ["reason", "reset_cause"].map(text).into_iter();
        parts.extend(reasons.filter(|reason| !reason.is_empty()).map(plain));
        parts.join(" ") + "\n"
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Address and port of a side.
    fn address(&self, side: &str) -> String {
        let address = self.find(&format!("{side}_address")).and_then(Value::as_str);
        let port = self.find(&format!("{side}_port")).and_then(Value::as_u64);
        let ip = address.and_then(|address| address.parse::<IpAddr>().ok());
        let of = ip.zip(port.and_then(|port| u16::try_from(port).ok()));
        of.map_or_else(|| "?".to_owned(), |(ip, port)| SocketAddr::new(ip, port).to_string())
    }
}

/// Whether logfmt needs no quotes around it.
fn is_bare(text: &str) -> bool {
    let other = |letter: char| {
        letter <= ' ' || matches!(letter, '"' | '=' | '\\' | '\u{7f}') || letter.is_control()
    };
    !text.is_empty() && !text.contains(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = r#"{"event":"closed","time":"2026-11-20T13:55:54.764976Z","opened":"2026-11-20T13:55:54.561408Z","lifetime_seconds":0.203,"idle_seconds":0.1,"namespace":"shop","pod":"chat-0","container":"web","role":"server","local_address":"2001:db8::1","local_port":80,"peer_address":"192.0.2.7","peer_port":44564,"protocol":"websocket","reason":"reset_peer","received_bytes":1730,"sent_bytes":140,"retransmits":2}"#;

    fn fields(line: &str) -> Fields {
        Fields::read(line.as_bytes()).unwrap()
    }

    #[test]
    fn people_read_it() {
        assert_eq!(
            fields(CLOSED).text(),
            "2026-11-20T13:55:54.764976Z closed     shop/chat-0/web server websocket [2001:db8::1]:80 <- 192.0.2.7:44564 age 203ms idle 100ms in 1.7Ki out 140 retransmits 2 reset_peer\n"
        );
        let adopted = CLOSED.replace(r#""opened":"2026-11-20T13:55:54.561408Z","#, "");
        let adopted = adopted
            .replace("server", "client")
            .replace(r#""namespace":"shop""#, r#""namespace":"""#);
        assert_eq!(
            fields(&adopted).text(),
            "2026-11-20T13:55:54.764976Z closed     chat-0/web client websocket [2001:db8::1]:80 -> 192.0.2.7:44564 age >203ms idle 100ms in 1.7Ki out 140 retransmits 2 reset_peer\n"
        );
        assert_eq!(
            fields(r#"{"event":"dropped","ring":1,"queue":2}"#).text(),
            "dropped: 1 by the kernel, 2 here for want of speed\n"
        );
    }

    #[test]
    fn logfmt_has_every_field_in_order() {
        let line = fields(CLOSED).logfmt();
        assert!(
            line.starts_with("event=closed time=2026-11-20T13:55:54.764976Z opened="),
            "{line}"
        );
        assert!(line.ends_with("received_bytes=1730 sent_bytes=140 retransmits=2\n"), "{line}");
        assert_eq!(line.matches('=').count(), CLOSED.matches(r#"":"#).count());
    }

    #[test]
    fn no_name_ends_a_value_or_a_line() {
        let hostile = r#"{"event":"closed","pod":"a b=\"c\"\u001b[2J\n","namespace":""}"#;
        let line = fields(hostile).logfmt();
        assert_eq!(line, "event=closed pod=\"a b=\\\"c\\\"\\u001b[2J\\n\" namespace=\"\"\n");
        let line = fields(hostile).text();
        assert!(!line.trim_end_matches('\n').contains(['\u{1b}', '\n']), "{line}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for line in ["", "[]", "1", "{"] {
            assert!(Fields::read(line.as_bytes()).is_err(), "{line}");
        }
    }
}
