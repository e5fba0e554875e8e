//! Reads the file and lays the environment over it.
//!
//! `CASEWIRE__SECTION__KEY` overrides `key` of `[section]`; numbers address the tables of an
//! array (`CASEWIRE__STREAM__0__TOPIC`). Under `kafka.properties` an underscore stands for a
//! dot, because librdkafka's names have dots and variable names cannot; under `telemetry.headers` for a hyphen.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::config::reader::{Fault, Findings, Section};
use crate::config::settings::Config;
use crate::failure::{Exit, Failure};

/// The variables that may override the file, already read, so that tests need no process environment.
pub type Environment = BTreeMap<String, String>;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("The configuration file {path} cannot be read: {error}")]
    Unreadable {
        /// The path given.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("The configuration file {path} is not valid TOML: {error}")]
    Syntax {
        /// The path given.
        path: String,
        /// Line, column and reason.
        error: Box<toml::de::Error>,
    },
    /// Values are wrong; every one is listed.
    #[error("{}", list(.0))]
    Faults(Vec<Fault>),
}

fn list(faults: &[Fault]) -> String {
    let count = faults.len();
    let noun = if count == 1 { "fault" } else { "faults" };
    let lines: String = faults.iter().map(|fault| format!("\n  - {fault}")).collect();
    format!("The configuration has {count} {noun}:{lines}")
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let remedy = "see config/casewire.toml for every key, and `casewire config check --config FILE`";
        Self::new(Exit::Configuration, error.to_string(), remedy)
    }
}

impl Config {
    /// Reads the file at `path`, lays `environment` over it and validates the whole.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML; otherwise every fault there is, at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: shown.clone(), error })?;
        let table =
            text.parse::<Table>().map_err(|error| ConfigError::Syntax { path: shown, error: Box::new(error) })?;
        Self::from_table(table, environment)
    }

    /// The same from a table in memory.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn from_table(mut table: Table, environment: &Environment) -> Result<Self, ConfigError> {
        let mut findings = Findings::default();
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix("CASEWIRE__") {
                overlay(&mut table, name, path, value, &mut findings);
            }
        }
        let config = Self::read(Section::new("", table), &mut findings);
        match config {
            Some(config) if findings.faults.is_empty() => Ok(config),
            _ => Err(ConfigError::Faults(findings.faults)),
        }
    }

    /// The process's own variables that begin with `CASEWIRE__`.
    pub fn environment() -> Environment {
        std::env::vars().filter(|(name, _)| name.starts_with("CASEWIRE__")).collect()
    }
}

/// Sets one value by its variable. What cannot be placed is a fault: a misspelt override must not pass unseen.
fn overlay(root: &mut Table, variable: &str, path: &str, value: &str, findings: &mut Findings) {
    let mut parts: Vec<String> = path.split("__").map(str::to_lowercase).collect();
    if parts.len() == 3 && parts[0] == "kafka" && parts[1] == "properties" {
        parts[2] = parts[2].replace('_', ".").replace(".file", "_file");
    }
    if parts.len() == 3 && parts[0] == "telemetry" && parts[1] == "headers" {
        parts[2] = parts[2].replace('_', "-");
        if let Some(name) = parts[2].strip_suffix("-file") {
            parts[2] = format!("{name}_file");
        }
    }
    let Some(key) = parts.pop().filter(|key| !key.is_empty()) else {
        return findings.fault(variable, "names no key");
    };
    let mut at = root;
    let mut shown = String::new();
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        shown = if shown.is_empty() { part.clone() } else { format!("{shown}.{part}") };
        let index = parts.peek().and_then(|next| next.parse::<usize>().ok());
        let next = if let Some(index) = index {
            parts.next();
            shown = format!("{shown}[{index}]");
            element(at, &part, index)
        } else {
            at.entry(part).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
        };
        match next {
            Some(table) => at = table,
            None => return findings.fault(variable, format!("cannot be placed: {shown} is not a section")),
        }
    }
    let full = if shown.is_empty() { key.clone() } else { format!("{shown}.{key}") };
    findings.from_environment.insert(full);
    at.insert(key, Value::String(value.to_owned()));
}

/// The table at `index` of an array, made if it is the next one.
fn element<'a>(table: &'a mut Table, key: &str, index: usize) -> Option<&'a mut Table> {
    let array = table.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
    if index == array.len() {
        array.push(Value::Table(Table::new()));
    }
    array.get_mut(index)?.as_table_mut()
}
