//! Options in the documents.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use observer::cli::Cli;

use crate::documents::read;

#[test]
fn every_option_is_documented() {
    let pages = format!("{}\n{}", read("docs/running.md"), read("docs/tail.md"));
    let command = Cli::command();
    let run = command.find_subcommand("run").expect("there is a command run");
    let tail = command.find_subcommand("tail").expect("there is a command tail");
    let row = |option: &str| {
        let starts = [format!("| `--{option} "), format!("| `--{option}`")];
        pages.lines().find(|line| starts.iter().any(|start| line.starts_with(start)))
    };
    let documented = pages.lines().filter(|line| line.starts_with("| `--")).count();
    let mut options = 0;
    for argument in run.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let Some(option) = argument.get_long().filter(|option| *option != "help") else { continue };
        let row = row(option).unwrap_or_else(|| panic!("--{option} is not in docs/running.md"));
        let variable =
            argument.get_env().expect("each option is also a variable").to_string_lossy();
        assert!(row.contains(&format!("`{variable}`")), "{variable} is not in {row:?}");
        for default in argument.get_default_values().iter().filter(|value| !value.is_empty()) {
            let default = default.to_string_lossy();
            assert!(row.contains(&format!("`{default}`")), "{default} is not in {row:?}");
        }
        options += 1;
    }
    for argument in tail.get_arguments() {
        let Some(option) = argument.get_long().filter(|option| *option != "help") else { continue };
        assert!(row(option).is_some(), "--{option} is not in docs/tail.md");
        // What both have stands there once.
        options += usize::from(run.get_arguments().all(|of_run| of_run.get_long() != Some(option)));
    }
    assert_eq!(documented, options, "options in the documents against those of the program");
}

#[test]
fn every_option_of_the_commands_that_look_is_documented() {
    let (page, filters) = (read("docs/looking.md"), read("docs/tail.md"));
    let command = Cli::command();
    let mut options = BTreeSet::new();
    for name in ["top", "ps", "doctor"] {
        let command = command.find_subcommand(name).expect("there is such a command");
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            let starts = [format!("| `--{option} "), format!("| `--{option}`")];
            let of_page = |page: &str| {
                page.lines().any(|line| starts.iter().any(|start| line.starts_with(start)))
            };
            // The socket is everybody's, and stands in the text.
            if of_page(&page) {
                options.insert(option);
            } else {
                let is_known = ["help", "socket"].contains(&option) || of_page(&filters);
                assert!(is_known, "--{option} of {name} is in no page");
            }
        }
    }
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `--")?.split([' ', '`']).next())
        .collect();
    assert_eq!(documented, options, "options in the page against those of the program");
}
