//! From series to the formats of Prometheus to HTTP: the only user of axum and of prometheus-client.
//!
//! ```text
//!   families ─▶ encode ◀─ rows        which samples there are, and of what
//!                 │  out              a sample, with its labels and when it began to count
//!                 ▼
//!               page ─▶ http          compressed, page by page, as fast as the scraper reads
//!                        ▲
//!                        │
//!   rows ─▶ workloads ───┤            short answers for autoscalers
//!          views ─▶ ui ──┘            the page for people
//! ```

mod encode;
mod families;
mod family;
mod http;
mod kubernetes;
mod negotiate;
mod out;
mod page;
mod process;
mod reference;
mod rows;
mod select;
mod ui;
mod users;
mod workloads;

pub use encode::{Settings, encode};
pub use family::Part;
pub use http::{App, serve};
pub use reference::{Described, describe};
pub use rows::{About, DroppedLines};
pub use select::{Selection, Unusable};
pub use ui::Ui;
