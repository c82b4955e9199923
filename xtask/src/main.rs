//! The project's own commands, run as `cargo xtask <command>`.
//!
//! | module | what it does |
//! |---|---|
//! | [`setup`] | installs what a build or the tests lack, saying what and why |
//! | [`run`] | builds the daemon and runs it on this host |
//! | [`demo`] | a small real workload in cgroups shaped like pods, and a live table of its metrics |
//! | [`test`] | every test, those that need root and a kernel included |
//! | [`image`] | a container image of the daemon, without a container engine |
//! | [`dist`] | what people install: tarballs, Debian packages, an image of all architectures, bills of materials |
//! | [`cluster`] | a real control plane that scales by what the observer counts |
//! | [`lab`] | the tests of the kernel on real distribution kernels, in QEMU |
//! | [`bench`] | what the kernel programs and the daemon cost, beside the targets |
//! | [`soak`] | load and faults for a long time, every count compared |
//! | [`deep`] | repetitions on a busy machine, many cases, a long soak: what the gate has no time for |
//! | [`dashboards`] | writes what is made for Grafana and prometheus-operator |
//! | [`lint`] | formatting, clippy, licences and sources of the dependencies |
//!
//! A command that needs root for one step takes it through sudo for that step alone.

#![forbid(unsafe_code)]

mod archive;
mod artifacts;
mod bench;
mod cgroup;
#[cfg(test)]
mod circles;
mod cluster;
mod cmd;
mod cross;
mod dashboards;
mod deep;
mod demo;
mod dist;
mod documents;
mod image;
mod lab;
mod leftovers;
mod lint;
mod machine;
mod run;
mod setup;
mod soak;
mod spread;
#[path = "../../observer/build/strip.rs"]
mod strip;
mod suite;
mod test;
#[path = "../../observer/build/toolchain.rs"]
mod toolchain;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use setup::Purpose;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what a build lacks, saying what and why
    Setup {
        /// Also what the tests need
        #[arg(long)]
        tests: bool,
        /// Also what the benchmarks need
        #[arg(long)]
        bench: bool,
        /// Also what the lints need
        #[arg(long)]
        lint: bool,
    },
    /// Build the daemon for release, installing first what that lacks
    Build,
    /// Build the daemon and run it on this host, installing first what that lacks
    Run {
        /// Add a small real workload in cgroups shaped like pods, and show its metrics
        #[arg(long)]
        demo: bool,
        /// End the demo after this many seconds instead of at Ctrl-C
        #[arg(long = "for", value_name = "SECONDS", requires = "demo")]
        seconds: Option<u64>,
        /// Arguments for `observer run`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run every test, installing first what they lack; those of the kernel run as root
    Test(TestArgs),
    /// Build a container image of the daemon, as an OCI archive
    Image(image::Options),
    /// Build what people install, for amd64 and arm64: tarballs, Debian packages, an image, bills of materials, checksums
    Dist(dist::Options),
    /// Check formatting, clippy (warnings are errors) and, offline, the dependencies
    Lint,
    /// Write the reference of metrics into docs/metrics.md
    Docs,
    /// Write what is made for Grafana and prometheus-operator, of what stands in the code and in deploy
    Dashboards,
    /// Take the pictures of the documents, of the demo
    Pictures,
    /// Boot real distribution kernels in QEMU and run the tests of the kernel inside
    Lab(lab::LabArgs),
    /// Measure what the kernel programs and the daemon cost, as root; installs first what it lacks
    Bench(bench::Options),
    /// Load and faults, with every count compared after each round, as root
    Soak(soak::Options),
    /// Have a real control plane scale a workload by what the observer counts, as root; builds one where there is none
    Cluster(cluster::Options),
    /// Repeat the tests of the kernel on a busy machine, and run properties and soak for long, as root
    Deep(deep::Options),
    /// What continuous integration runs: lint, then test
    Ci,
    /// The part of `run --demo` that needs root
    #[command(hide = true)]
    Demo(demo::Options),
}

#[derive(Args)]
struct TestArgs {
    /// Arguments for every test program, such as a part of a test's name
    #[arg(last = true)]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup { tests, bench, lint } => {
            let wanted = [(tests, Purpose::Test), (bench, Purpose::Bench), (lint, Purpose::Lint)];
            let extra = wanted.into_iter().filter(|(wanted, _)| *wanted);
            let purposes: Vec<_> =
                [Purpose::Build].into_iter().chain(extra.map(|(_, purpose)| purpose)).collect();
            setup::report(&purposes)
        }
        Command::Build => run::build(),
        Command::Run { demo: false, args, .. } => run::run(&args),
        Command::Run { demo: true, seconds, args } => run::demo(seconds, args),
        Command::Test(TestArgs { args }) => test::run(&args),
        Command::Image(options) => image::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Lint => lint::run(),
        Command::Docs => docs(),
        Command::Dashboards => dashboards::run(),
        Command::Pictures => run::pictures(),
        Command::Lab(args) => lab::run(&args),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Deep(options) => deep::run(&options),
        Command::Ci => ci(),
        Command::Demo(options) => demo::run(&options),
    }
}

/// What the tests hold the reference to is what writes it.
fn docs() -> anyhow::Result<()> {
    setup::ensure(&[Purpose::Build])?;
    let test = ["test", "--package", "observer", "--test", "docs", "the_reference"];
    cmd::run(cmd::cargo(&test).env("OBSERVER_WRITE_DOCS", "1"))
}

/// All that is missing is installed at once.
fn ci() -> anyhow::Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Lint, Purpose::Test])?;
    lint::run()?;
    test::run(&[])
}
