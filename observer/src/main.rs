//! The command line of observer.

use clap::Parser as _;
use observer::{check, cli, detach, exit, run, tail};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = match cli.command {
        cli::Command::Run(args) => run::run(args),
        cli::Command::Detach(args) => detach::detach(&args),
        cli::Command::Check(args) => check::check(args),
        cli::Command::Tail(args) => tail::client::tail(&args),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("observer: {error:#}");
            exit::Code::of(&error).into()
        }
    }
}
