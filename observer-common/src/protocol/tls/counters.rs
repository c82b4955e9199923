//! What TLS connections are counted by, beside what all connections are.

use crate::{
    counters,
    counters::{Family, Level, Owner, Rows, Zeros},
    label::{Direction, wire_enum},
    protocol::Protocol,
};

wire_enum! {
    /// What a handshake has come to.
    Handshake as "outcome" {
        /// Both sides have gone on behind it.
        Completed = 0 => "completed",
        /// One side has sent an alert before.
        Alert = 1 => "alert",
        /// The server has answered with something else than TLS.
        Mismatch = 2 => "mismatch",
        /// The connection has ended before.
        Closed = 3 => "closed",
    }
}

wire_enum! {
    /// What an alert says (RFC 8446 section 6, and the registry that it goes on).
    Description as "description" {
        /// The sender writes nothing more.
        CloseNotify = 0 => "close_notify",
        /// An inappropriate message.
        UnexpectedMessage = 1 => "unexpected_message",
        /// A record that cannot be deprotected.
        BadRecordMac = 2 => "bad_record_mac",
        /// No acceptable set of parameters.
        HandshakeFailure = 3 => "handshake_failure",
        /// A certificate that is corrupt.
        BadCertificate = 4 => "bad_certificate",
        /// A certificate of an unsupported type.
        UnsupportedCertificate = 5 => "unsupported_certificate",
        /// A certificate that was revoked.
        CertificateRevoked = 6 => "certificate_revoked",
        /// A certificate that has expired, or is not valid yet.
        CertificateExpired = 7 => "certificate_expired",
        /// Another problem with a certificate.
        CertificateUnknown = 8 => "certificate_unknown",
        /// A field is out of range.
        IllegalParameter = 9 => "illegal_parameter",
        /// The certificate's authority is not known.
        UnknownCa = 10 => "unknown_ca",
        /// The certificate is valid, and access is refused.
        AccessDenied = 11 => "access_denied",
        /// A message that cannot be decoded.
        DecodeError = 12 => "decode_error",
        /// A signature or a Finished that cannot be verified.
        DecryptError = 13 => "decrypt_error",
        /// The version is not supported.
        ProtocolVersion = 14 => "protocol_version",
        /// Only parameters that are too weak.
        InsufficientSecurity = 15 => "insufficient_security",
        /// An error that has nothing to do with the peer.
        InternalError = 16 => "internal_error",
        /// A retry with a lower version than need be.
        InappropriateFallback = 17 => "inappropriate_fallback",
        /// The handshake is given up.
        UserCanceled = 18 => "user_canceled",
        /// A mandatory extension is missing.
        MissingExtension = 19 => "missing_extension",
        /// An extension that was not asked for.
        UnsupportedExtension = 20 => "unsupported_extension",
        /// No server of that name.
        UnrecognizedName = 21 => "unrecognized_name",
        /// An invalid OCSP response.
        BadCertificateStatusResponse = 22 => "bad_certificate_status_response",
        /// No such pre-shared key.
        UnknownPskIdentity = 23 => "unknown_psk_identity",
        /// The client has to have a certificate.
        CertificateRequired = 24 => "certificate_required",
        /// No protocol in common (ALPN).
        NoApplicationProtocol = 25 => "no_application_protocol",
        /// An encrypted one, of TLS 1.3: what a client says to a certificate that it does not accept.
        Encrypted = 26 => "encrypted",
        /// Another one.
        Other = 27 => "other",
    }
}

impl Description {
    /// That of an alert's second byte.
    #[inline(always)]
    #[must_use]
    pub fn of(byte: u8) -> usize {
        /// By byte.
        static DESCRIPTIONS: [u8; 256] = {
            let mut all = [Description::Other as u8; 256];
            let known = [
                0, 10, 20, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 71, 80, 86, 90, 109,
                110, 112, 113, 115, 116, 120,
            ];
            let mut i = 0;
            while i < known.len() {
                all[known[i]] = i as u8;
                i += 1;
            }
            all
        };
        usize::from(DESCRIPTIONS[byte as usize])
    }
}

counters! {
    /// What a TLS cell has.
    BLOCK: Owner::Protocols(1 << Protocol::Tls as u32), from 3;
    words {
        /// Handshakes that are over, one way or the other.
        HANDSHAKES: 4 by [Handshake::LABEL] => Family {
            name: "tls_handshakes",
            help: "TLS handshakes that have begun with a ClientHello, by what they have come to.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
        /// Alerts before the end of a handshake.
        ALERTS: 64 by [Description::LABEL, Direction::LABEL] => Family {
            name: "tls_alerts",
            help: "Alerts before the end of a TLS handshake, by what they say.",
            rows: Rows::Endpoint,
            level: Level::Standard,
            zeros: Zeros::None,
        };
    }
    shares {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_their_names() {
        for (byte, label) in [
            (0, "close_notify"),
            (40, "handshake_failure"),
            (48, "unknown_ca"),
            (70, "protocol_version"),
            (112, "unrecognized_name"),
            (120, "no_application_protocol"),
            (41, "other"),
            (255, "other"),
        ] {
            assert_eq!(Description::LABEL.values[Description::of(byte)], label, "{byte}");
        }
    }
}
