//! The daemon of observer: it loads the kernel programs, reads what they count, names it, and exports it.
//!
//! ```text
//!   kernel:  probes ─▶ socket state ─▶ cells          (observer-ebpf, observer-common)
//!                                        │ memory map
//!   bpf/     loader, programs, cells ◀───┘             the only user of aya, the only unsafe code
//!   decode   words ─▶ model                            pure
//!   attribute/  cgroup id ─▶ namespace, pod, container pure, but for reading the cgroup tree
//!   aggregate   cells ─▶ series per replica, totals    pure
//!   adopt/   connections from before the start ─▶ kernel
//!   kube/    the API server's pods ─▶ names            the only user of kube
//!   records     single connections, for the log and tail     pure
//!   tail/    records and views ─▶ Unix socket
//!   view/    series and open connections ─▶ tables for people
//!   look/    Unix socket ─▶ `observer top`, `ps`, `doctor`, `tail`     the only user of ratatui
//!   collect  one pass over all of the above            the only place that knows both ends
//!   export/  series ─▶ Prometheus' formats ─▶ HTTP     the only user of axum, with access/
//!   access/  who may read it: TLS and bearer tokens    the only user of rustls
//!   kernel_side             made, taken over, updated or replaced
//!   manual   manual pages and completions, of the command line
//!   run, check, detach, preflight, config, cli, logging, output, exit       the program around it
//! ```
//!
//! No count depends on an event reaching this process: the kernel keeps every one, and a scrape reads it. Only what is found
//! among records (`tcp_idle_cut_seconds`) does, and says so.

pub mod access;
pub mod adopt;
pub mod aggregate;
pub mod attribute;
pub mod bpf;
pub mod check;
pub mod cli;
pub mod collect;
pub mod config;
pub mod decode;
pub mod detach;
pub mod exit;
pub mod export;
mod format;
pub mod kernel_log;
pub mod kernel_side;
pub mod kube;
pub mod logging;
pub mod look;
pub mod manual;
pub mod model;
pub mod output;
pub mod preflight;
pub mod records;
pub mod run;
pub mod tail;
pub mod view;
