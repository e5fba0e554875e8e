//! The `casewire` command: parse, run, say how it ended.

use std::io::Write;
use std::process::ExitCode;

use casewire::cli;
use casewire::failure::Exit;
use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// An event is some dozen allocations, freed on other threads than those that made them, librdkafka's among them; glibc's
/// allocator spends a third of a catch-up on that. `docs/performance.md` has the figures.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are answers, not errors; clap's own code for the rest is not that of sysexits.
            let _ = told.print();
            return if told.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli::execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "casewire: {}", failure.what);
            if !failure.remedy.is_empty() {
                let _ = writeln!(stderr, "casewire: what to do: {}", failure.remedy);
            }
            failure.exit.into()
        }
    }
}
