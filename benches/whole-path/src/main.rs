//! What casewire is measured beside. `scripts/bench` starts these programs and puts their figures together.
//!
//! Each prints its figures as one line of JSON. Times of day are microseconds of the epoch, so that those of
//! several processes on one machine can be compared.

mod broker;
mod clocks;
mod download;
mod pipe;
mod produce;
mod receive;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// casewire's allocator, so that what is compared is not the allocators.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Why a program could not give its figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(about, max_term_width = 120)]
enum Program {
    /// Subscribes with the generated stubs alone and counts: the floor.
    Receive(receive::Arguments),
    /// Writes once more, in the same transactions, what casewire wrote.
    Produce(produce::Arguments),
    /// Reads committed records as they become visible.
    Watch(watch::Arguments),
    /// Passes a TCP connection on, every byte later by the same time.
    Pipe(pipe::Arguments),
    /// Downloads a whole object over Bulk and drops it.
    Download(download::Arguments),
    /// Deletes every topic that begins with a prefix.
    Forget(broker::ForgetArguments),
}

fn main() -> ExitCode {
    let outcome = match Program::parse() {
        Program::Receive(arguments) => receive::run(arguments),
        Program::Produce(arguments) => produce::run(&arguments),
        Program::Watch(arguments) => watch::run(&arguments),
        Program::Pipe(arguments) => pipe::run(&arguments),
        Program::Download(arguments) => download::run(arguments),
        Program::Forget(arguments) => broker::forget(&arguments),
    };
    match outcome {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("whole-path: {failure}");
            ExitCode::FAILURE
        }
    }
}
