//! From series to text to HTTP: the only user of prometheus-client and axum.

mod families;
mod http;
mod kubernetes;
mod negotiate;

pub use families::{BuildInfo, encode};
pub use http::{App, serve};
