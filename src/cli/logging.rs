//! The log: readable on a terminal, JSON elsewhere, on stderr so that stdout stays for data.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};
use crate::failure::{Exit, Failure};

/// The filter in effect: `RUST_LOG` overrides that of the configuration.
///
/// # Errors
/// When it is not one.
pub fn filter(config: &LogConfig) -> Result<EnvFilter, Failure> {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| config.filter.clone());
    EnvFilter::try_new(&wanted).map_err(|error| {
        let what = format!("The log filter \"{wanted}\" is not valid: {error}");
        Failure::new(Exit::Configuration, what, "set log.filter to something like \"info\" or \"casewire=debug\"")
    })
}

/// Starts logging.
///
/// # Errors
/// When the filter is not one.
pub fn start(config: &LogConfig) -> Result<(), Failure> {
    let filter = filter(config)?;
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A log that nobody reads any more is no reason to end: complaining about it on a closed stderr would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // An error means that somebody (a test) has started a log already.
    let _ = if json { log.json().flatten_event(true).try_init() } else { log.with_target(false).try_init() };
    Ok(())
}
