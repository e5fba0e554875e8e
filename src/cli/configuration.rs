//! `casewire config check`, `print` and `schema`.

use clap::{Args, Subcommand};

use crate::cli::error::CommandError;
use crate::cli::{ConfigFile, logging, say};
use crate::config::Config;
use crate::failure::Failure;
use crate::pipeline::settings;
use crate::telemetry::Collector;

/// Check or print the configuration, or print its JSON Schema for editors.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  casewire config check --config casewire.toml\n  casewire config schema > casewire.schema.json"
)]
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
    /// Print the JSON Schema of the configuration: editors complete keys with it and show what is wrong.
    #[command(after_help = "Example:\n  casewire config schema > casewire.schema.json")]
    Schema,
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
            usable(&config)?;
            let noun = if streams == 1 { "stream" } else { "streams" };
            say(format_args!("{}: the configuration is valid, with {streams} {noun}", file.config.display()));
        }
        ConfigurationCommand::Print(file) => say(file.load()?.printed().trim_end()),
        ConfigurationCommand::Schema => say(format_args!("{:#}", Config::schema())),
    }
    Ok(())
}

/// Whether each part can make something of its values: what parses may still be no key, no property, no filter.
fn usable(config: &Config) -> Result<(), Failure> {
    let mut faults: Vec<Failure> =
        [logging::filter(&config.log).err(), settings::salesforce(config).err(), settings::kafka(&config.kafka).err()]
            .into_iter()
            .flatten()
            .chain(config.telemetry.as_ref().and_then(|telemetry| Collector::new(telemetry).err()))
            .collect();
    if faults.len() < 2 {
        return faults.pop().map_or(Ok(()), Err);
    }
    let lines: String = faults.iter().map(|fault| format!("\n  - {fault}")).collect();
    Err(CommandError::Faults { count: faults.len(), lines }.into())
}
