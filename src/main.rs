//! The `casewire` command: parse, run, say how it ended.

use std::process::ExitCode;

use casewire::cli;
use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("casewire: {}", failure.what);
            if !failure.remedy.is_empty() {
                eprintln!("casewire: what to do: {}", failure.remedy);
            }
            failure.exit.into()
        }
    }
}
