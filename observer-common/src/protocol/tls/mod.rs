//! TLS (RFC 8446), as far as its records tell without being opened.

mod guess;

pub use guess::TlsGuess;
