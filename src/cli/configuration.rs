//! `casewire config check` and `print`.

use clap::{Args, Subcommand};

use crate::cli::ConfigFile;
use crate::failure::Failure;
use crate::pipeline::process::Process;

/// Check or print the configuration.
#[derive(Debug, Args)]
pub struct ConfigurationArguments {
    #[command(subcommand)]
    command: ConfigurationCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigurationCommand {
    /// Read everything that `run` would read, without a connection: every fault is reported at once.
    #[command(after_help = "Example:\n  casewire config check --config casewire.toml && systemctl restart casewire")]
    Check(ConfigFile),
    /// Print the configuration in effect, with the defaults and the environment's overrides; secrets left out.
    #[command(
        after_help = "Example:\n  CASEWIRE__KAFKA__BROKERS=broker:9092 casewire config print --config casewire.toml"
    )]
    Print(ConfigFile),
}

/// Runs it.
///
/// # Errors
/// The faults of the configuration.
pub fn run(arguments: &ConfigurationArguments) -> Result<(), Failure> {
    match &arguments.command {
        ConfigurationCommand::Check(file) => {
            let config = file.load()?;
            let streams = config.streams.len();
            Process::new(config)?;
            let noun = if streams == 1 { "stream" } else { "streams" };
            println!("{}: the configuration is valid, with {streams} {noun}", file.config.display());
        }
        ConfigurationCommand::Print(file) => print!("{}", file.load()?.printed()),
    }
    Ok(())
}
