//! The `casewire` command: parse, run, say how it ended.

use std::process::ExitCode;

use casewire::cli;
use casewire::failure::Exit;
use clap::Parser;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are answers; anything else is a wrong command line.
            let wrong = told.use_stderr();
            let _ = told.print();
            return if wrong { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
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
