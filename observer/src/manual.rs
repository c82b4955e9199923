//! What shells and `man` know of the command line: made from the definitions that read it, so that neither can differ from it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::{Generator as _, Shell as Common};
use clap_complete_nushell::Nushell;
use clap_mangen::Man;

use crate::{
    cli::{Cli, Shell},
    exit::Code,
};

/// The name of the program, which shells complete.
const PROGRAM: &str = "observer";

/// Prints what makes a shell complete the command line.
///
/// # Errors
/// If it cannot be written for another reason than that nobody reads.
pub fn completions(shell: Shell) -> anyhow::Result<Code> {
    let mut command = Cli::command();
    command.set_bin_name(PROGRAM);
    command.build();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => Common::Bash.try_generate(&command, &mut script),
        Shell::Zsh => Common::Zsh.try_generate(&command, &mut script),
        Shell::Fish => Common::Fish.try_generate(&command, &mut script),
        Shell::Nushell => Nushell.try_generate(&command, &mut script),
    }?;
    let mut out = io::stdout().lock();
    match out.write_all(&script).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Code::Success),
    }
}

/// Writes a manual page for the program and one for each command, `observer.1` and `observer-run.1` and so on, into a
/// directory, which is made if it is missing.
///
/// # Errors
/// If one cannot be written.
pub fn pages(directory: &Path) -> anyhow::Result<Code> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    for command in shown.collect::<Vec<_>>().into_iter().chain([command]) {
        let man = Man::new(command).source(concat!("observer ", env!("CARGO_PKG_VERSION")));
        let path = directory.join(man.get_filename());
        let written = File::create(&path).and_then(|file| {
            let mut out = BufWriter::new(file);
            man.render(&mut out)?;
            out.flush()
        });
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Code::Success)
}
