//! The documents against the program: the reference of metrics is made from the counter tables, every label value is
//! explained, every query names a family, every option stands in its table, every link leads somewhere; and the other
//! way round.

mod alerts;
mod dashboards;
mod documents;
mod exported;
mod metrics;
mod options;
mod pages;
mod queries;
mod runbooks;
mod schema;
