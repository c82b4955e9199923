//! From series to text to HTTP: the only user of prometheus-client and axum.

mod families;
mod http;
mod negotiate;
mod process;

pub use families::{BuildInfo, Part, encode};
pub use http::{App, serve};
