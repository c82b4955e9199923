//! What HTTP/1 connections are counted by, beside what all connections are.

use super::upgrade;
use crate::{
    counters,
    counters::{Counter, Family, Level, Owner, Rows, Zeros},
    label::wire_enum,
    protocol::Protocol,
};

wire_enum! {
    /// What a request asked to upgrade to.
    To as "upgrade" {
        /// WebSocket (RFC 6455).
        WebSocket = 0 => "websocket",
        /// Something else: `h2c`, or a protocol of the program's own.
        Other = 1 => "other",
    }
}

wire_enum! {
    /// How a request for an upgrade was answered.
    Answer as "code" {
        /// Switching Protocols: the upgrade.
        Switching = 0 => "101",
        /// OK: the server has ignored it.
        Ok = 1 => "200",
        /// Moved Permanently.
        MovedPermanently = 2 => "301",
        /// Found.
        Found = 3 => "302",
        /// Temporary Redirect.
        TemporaryRedirect = 4 => "307",
        /// Permanent Redirect.
        PermanentRedirect = 5 => "308",
        /// Bad Request.
        BadRequest = 6 => "400",
        /// Unauthorized.
        Unauthorized = 7 => "401",
        /// Forbidden.
        Forbidden = 8 => "403",
        /// Not Found.
        NotFound = 9 => "404",
        /// Request Timeout.
        RequestTimeout = 10 => "408",
        /// Misdirected Request.
        Misdirected = 11 => "421",
        /// Upgrade Required.
        UpgradeRequired = 12 => "426",
        /// Too Many Requests.
        TooManyRequests = 13 => "429",
        /// Internal Server Error.
        InternalServerError = 14 => "500",
        /// Bad Gateway.
        BadGateway = 15 => "502",
        /// Service Unavailable.
        ServiceUnavailable = 16 => "503",
        /// Gateway Timeout.
        GatewayTimeout = 17 => "504",
        /// Another 2xx.
        Success = 18 => "2xx",
        /// Another 3xx.
        Redirection = 19 => "3xx",
        /// Another 4xx.
        ClientError = 20 => "4xx",
        /// Another 5xx.
        ServerError = 21 => "5xx",
        /// What is no status of HTTP.
        Other = 22 => "other",
        /// None: the connection was closed first.
        Closed = 23 => "closed",
        /// None: the connection was reset, or failed, first.
        Reset = 24 => "reset",
    }
}

impl Answer {
    /// That of a status.
    #[inline(always)]
    #[must_use]
    pub fn of(status: u32) -> usize {
        /// By status.
        static ANSWERS: [u8; 1024] = answers();
        // The mask shows the verifier that the index is inside; statuses have three digits.
        usize::from(ANSWERS[status as usize & 1023])
    }
}

const fn answers() -> [u8; 1024] {
    let mut all = [Answer::Other as u8; 1024];
    let mut status = 200;
    while status < 600 {
        all[status] = match status / 100 {
            2 => Answer::Success as u8,
            3 => Answer::Redirection as u8,
            4 => Answer::ClientError as u8,
            _ => Answer::ServerError as u8,
        };
        status += 1;
    }
    let mut i = 0;
    while i < Answer::Success as usize {
        let [a, b, c] = *Answer::ALL[i].label().as_bytes() else { panic!("no status") };
        let digits = [(a - b'0') as usize, (b - b'0') as usize, (c - b'0') as usize];
        all[100 * digits[0] + 10 * digits[1] + digits[2]] = i as u8;
        i += 1;
    }
    all
}

counters! {
    /// What an HTTP/1 cell has in which an upgrade was asked for.
    BLOCK: Owner::Protocols(1 << Protocol::Http1 as u32), from 3;
    words {
        /// Requests for an upgrade.
        UPGRADES: 64 by [To::LABEL, Answer::LABEL] => Family {
            name: "http_upgrades",
            help: "Requests for an upgrade of the connection, by what they asked for and how they were answered.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
    }
    shares {}
}

/// The combination of [`UPGRADES`] for a request that asked for these [`upgrade`]s.
#[inline(always)]
#[must_use]
pub const fn upgrade(asked: u8, answer: Answer) -> usize {
    to(asked) + answer as usize
}

/// The first combination of [`UPGRADES`] for a request that asked for these [`upgrade`]s.
#[inline(always)]
#[must_use]
pub const fn to(asked: u8) -> usize {
    let to = if asked & upgrade::WEBSOCKET != 0 { To::WebSocket } else { To::Other };
    to as usize * Counter::places(&Answer::LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_an_answer() {
        let label = |status| Answer::LABEL.values[Answer::of(status)];
        for (status, expected) in [
            (101, "101"),
            (200, "200"),
            (204, "2xx"),
            (308, "308"),
            (399, "3xx"),
            (426, "426"),
            (418, "4xx"),
            (502, "502"),
            (599, "5xx"),
            (600, "other"),
            (999, "other"),
            (0, "other"),
        ] {
            assert_eq!(label(status), expected, "{status}");
        }
    }
}
