//! Options that come from environment variables: a blank variable is none, and an error about a value says that it stands
//! in a variable.

use std::{env, ffi::OsString};

use clap::{
    Arg, ArgMatches, Command, CommandFactory as _, Error, FromArgMatches as _,
    builder::Resettable,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use super::Cli;

/// The options whose values are those of variables.
#[derive(Debug, Default)]
pub struct Variables(Vec<(String, String)>);

/// Reads the command line of this process. Ends the process if it is wrong, or asks for help.
#[must_use]
pub fn read() -> (Cli, Variables) {
    parse(&env::args_os().collect::<Vec<_>>()).unwrap_or_else(|error| error.exit())
}

fn parse(arguments: &[OsString]) -> Result<(Cli, Variables), Error> {
    let command = without_blanks(Cli::command());
    let matches = command
        .clone()
        .try_get_matches_from(arguments)
        .map_err(|error| explained(error, &command, arguments))?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok((cli, Variables::of(&command, &matches)))
}

/// Some tools can set a variable to nothing, and not unset it.
fn without_blanks(command: Command) -> Command {
    let blank = |arg: &Arg| {
        let value = arg.get_env().and_then(env::var_os);
        value.is_some_and(|value| value.to_string_lossy().trim().is_empty())
    };
    command.mut_subcommands(|command| {
        command.mut_args(|arg| if blank(&arg) { arg.env(Resettable::Reset) } else { arg })
    })
}

/// Adds the variable's name to an error about its value.
fn explained(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(wrong), Some(value)) =
        (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue))
    else {
        return error;
    };
    // As in `--listen <ADDR>`.
    let wrong = wrong.split_whitespace().next().unwrap_or_default();
    if arguments.iter().any(|argument| argument.to_string_lossy().starts_with(wrong)) {
        return error;
    }
    let variable = command
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .filter(|arg| arg.get_long().is_some_and(|long| wrong == format!("--{long}")))
        .filter_map(Arg::get_env)
        .find(|variable| env::var_os(variable).is_some_and(|is| is.to_string_lossy() == value));
    if let Some(variable) = variable {
        let tip = format!("the value is that of the variable {}", variable.to_string_lossy());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

impl Variables {
    fn of(command: &Command, matches: &ArgMatches) -> Self {
        let Some((name, matches)) = matches.subcommand() else { return Self::default() };
        let arguments = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
        let from_variable = |arg: &&Arg| {
            matches.value_source(arg.get_id().as_str()) == Some(ValueSource::EnvVariable)
        };
        let named = arguments.filter(from_variable).filter_map(|arg| {
            Some((format!("--{}", arg.get_long()?), arg.get_env()?.to_str()?.to_owned()))
        });
        Self(named.collect())
    }

    /// Adds to an error the variables that set the options which it names.
    #[must_use]
    pub fn explain(&self, mut error: String) -> String {
        let named = self.0.iter().filter(|(option, _)| names(&error, option)).cloned();
        for (option, variable) in named.collect::<Vec<_>>() {
            error = format!("{error} ({option} is set by the variable {variable})");
        }
        error
    }
}

/// Whether the text names the option, and not one that begins like it.
fn names(text: &str, option: &str) -> bool {
    text.match_indices(option).any(|(at, _)| {
        let next = text[at + option.len()..].chars().next();
        next.is_none_or(|next| !next.is_alphanumeric() && next != '-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_variables_of_its_options_only() {
        let set = |option: &str, variable: &str| (option.to_owned(), variable.to_owned());
        let variables = Variables(vec![
            set("--listen", "OBSERVER_LISTEN"),
            set("--tls", "OBSERVER_TLS"),
            set("--cells", "OBSERVER_CELLS"),
        ]);
        assert_eq!(
            variables.explain("choose another with --listen, or give --tls-key".to_owned()),
            "choose another with --listen, or give --tls-key (--listen is set by the variable OBSERVER_LISTEN)"
        );
        let error = "--self-listen is taken";
        assert_eq!(variables.explain(error.to_owned()), error);
    }
}
