//! The log: readable on a terminal, JSON elsewhere, on stderr so that stdout stays for data.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::error::CommandError;
use crate::config::{LogConfig, LogFormat};
use crate::failure::Failure;

/// The filter in effect: `RUST_LOG` overrides that of the configuration.
///
/// # Errors
/// When it is not one.
pub fn filter(config: &LogConfig) -> Result<EnvFilter, Failure> {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| config.filter.clone());
    let filter = EnvFilter::try_new(&wanted);
    filter.map_err(|error| CommandError::LogFilter { filter: wanted, reason: error.to_string() }.into())
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
