//! `casewire completions` and `casewire man`: what shells and `man` know of the commands, made from the commands themselves.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::error::CommandError;
use crate::cli::{Arguments, say};
use crate::failure::Failure;

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire completions bash > /usr/share/bash-completion/completions/casewire\n  \
                  casewire completions zsh > ~/.zfunc/_casewire\n  \
                  casewire completions fish > ~/.config/fish/completions/casewire.fish")]
pub struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

/// Write a manual page for each command.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  casewire man /usr/local/share/man/man1")]
pub struct ManArguments {
    /// Where to; it is made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the completions.
pub fn completions(arguments: &CompletionsArguments) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "casewire", &mut script);
    // Whoever closed the pipe does not want to read it.
    let _ = std::io::stdout().write_all(&script);
}

/// Writes the pages.
///
/// # Errors
/// When the directory cannot be written to.
pub fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let directory = arguments.directory.display();
    let pages = std::fs::create_dir_all(&arguments.directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), &arguments.directory));
    pages.map_err(|error| CommandError::Manual { directory: arguments.directory.clone(), error })?;
    say(format_args!("the manual pages are in {directory}; read them with: man {directory}/casewire.1"));
    Ok(())
}
