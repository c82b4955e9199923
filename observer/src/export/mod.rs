//! From series to text to HTTP: the only user of axum.

mod families;
mod http;
mod kubernetes;
mod negotiate;
mod pages;
mod process;
mod text;

pub use http::{App, serve};
pub use pages::{BuildInfo, Pages, Part, encode};
