//! The command line of observer.

use std::process::ExitCode;

use observer::{check, cli, detach, exit, look, manual, output, run};

fn main() -> ExitCode {
    let (cli, variables) = cli::read();
    let outcome = match cli.command {
        cli::Command::Run(args) => run::run(args),
        cli::Command::Detach(args) => detach::detach(&args),
        cli::Command::Check(args) => check::check(args, &variables),
        cli::Command::Tail(args) => look::tail(&args),
        cli::Command::Top(args) => look::top(&args),
        cli::Command::Ps(args) => look::ps(&args),
        cli::Command::Doctor(args) => look::doctor(&args),
        cli::Command::Completions(args) => manual::completions(args.shell),
        cli::Command::Man(args) => manual::pages(&args.directory),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(error) => {
            output::say(variables.explain(format!("{error:#}")));
            exit::Code::of(&error).into()
        }
    }
}
