//! One file a command.
//!
//! | file | command |
//! |---|---|
//! | `run` | `casewire run`: the main job |
//! | `demo` | `casewire demo`: the whole thing on this machine |
//! | `demo_broker`, `demo_view` | its broker and what it prints |
//! | `simulate` | `casewire simulate`: only the simulated org |
//! | `snapshot`, `snapshot_progress` | `casewire snapshot`: whole objects read into Kafka, and how far that is |
//! | `tail` | `casewire tail`: decoded events on stdout, without Kafka |
//! | `checkpoint` | `casewire checkpoint set`, `reset` |
//! | `checkpoint_show` | `casewire checkpoint show`, and a position in words |
//! | `configuration` | `casewire config check`, `print`, `schema` |
//! | `doctor` | `casewire doctor`: everything that has to be in order |
//! | `keygen` | `casewire keygen`, `keygen show`: the key pair to sign in with |
//! | `health` | `casewire health`: asks a running casewire whether it lives |
//! | `manual` | `casewire completions` and `man`, made from the commands themselves |
//! | `version` | what `--version` says |
//! | `gaps` | `casewire gaps`: the gap ledger |
//! | `reconcile` | `casewire reconcile`: what Kafka holds compared with what the org has |
//! | `reconcile_report` | what it prints |
//! | `reconcile_entries` | the same of messages, which the service compares |
//! | `dead_letters` | `casewire dead-letters list`, `show` |
//! | `redrive` | `casewire dead-letters redrive` |
//! | `stored_records`, `table` | what those three read, and how they print it |
//! | `service`, `service_error` | the running service, as commands ask it, and what that fails with |
//! | `error` | what any of them fails with on its own account, and what mends it |
//! | `logging` | the log of all of them |
//! | `service_manager` | what systemd is told of a running casewire |
//! | `signals` | SIGTERM and SIGINT: first an orderly end, then an immediate one |

mod checkpoint;
mod checkpoint_show;
mod configuration;
mod dead_letters;
mod demo;
mod demo_broker;
mod demo_view;
mod doctor;
pub(crate) mod error;
mod gaps;
mod health;
mod keygen;
mod logging;
mod manual;
mod reconcile;
mod reconcile_entries;
mod reconcile_report;
mod redrive;
mod run;
mod service;
pub(crate) mod service_error;
mod service_manager;
mod signals;
mod simulate;
mod snapshot;
mod snapshot_progress;
mod stored_records;
mod table;
mod tail;
mod version;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::cli::error::CommandError;
use crate::config::{Config, LogConfig, LogFormat};
use crate::failure::Failure;

/// Salesforce case and messaging change events into Kafka, exactly once.
#[derive(Debug, Parser)]
#[command(name = "casewire", version, long_version = version::long(), propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Examples:\n  casewire demo                               see it work, nothing to configure\n  \
                        casewire doctor --config casewire.toml      what is in order and what is not\n  \
                        casewire run --config casewire.toml\n\nExit codes: 1 findings, 64 usage, 69 unavailable, 70 software, 75 temporary, 76 fenced, 77 no permission, 78 configuration"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry change events into Kafka until told to stop.
    #[command(after_help = "Example:\n  casewire run --config /etc/casewire/casewire.toml")]
    Run(ConfigFile),
    /// Show the whole thing on this machine: simulated org, broker, live output. Nothing to configure.
    Demo(demo::DemoArguments),
    /// Read whole objects into Kafka, while the events go on.
    Snapshot(snapshot::SnapshotArguments),
    /// Run only the simulated org, on fixed ports, for anybody's client.
    Simulate(simulate::SimulateArgs),
    /// Print decoded events as JSON lines, without Kafka and without a checkpoint.
    Tail(tail::TailArguments),
    /// Show or move the position of a stream.
    Checkpoint(checkpoint::CheckpointArguments),
    /// List the gap ledger: every place at which the copy in Kafka may lack something.
    Gaps(gaps::GapsArguments),
    /// Compare the records in Kafka with those of the org, and let a running service mend what differs.
    Reconcile(reconcile::ReconcileArguments),
    /// List, show or redrive the events that could not be decoded.
    DeadLetters(dead_letters::DeadLettersArguments),
    /// Check or print the configuration, or print its JSON Schema.
    Config(configuration::ConfigurationArguments),
    /// Make the key pair that casewire signs in with, or show a certificate.
    Keygen(keygen::KeygenArguments),
    /// Look at everything that has to be in order, and say what mends what is not.
    Doctor(doctor::DoctorArguments),
    /// Ask a running casewire whether it lives: the check of a container that has no curl.
    Health(health::HealthArguments),
    /// Print the completions of a shell.
    Completions(manual::CompletionsArguments),
    /// Write a manual page for each command.
    Man(manual::ManArguments),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file; `config/casewire.toml` is a commented example.
    #[arg(long, value_name = "FILE", env = "CASEWIRE_CONFIG")]
    pub config: PathBuf,
}

impl ConfigFile {
    /// Reads it, with the `CASEWIRE__…` overrides of the environment.
    fn load(&self) -> Result<Config, Failure> {
        load(&self.config)
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path, &Config::environment()).map_err(Failure::from)
}

/// Prints a line. Whoever closed the pipe does not want to read it, and `println!` would panic.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a command to its end.
///
/// # Errors
/// What ended it, with the exit code to leave with.
pub fn execute(arguments: Arguments) -> Result<(), Failure> {
    // reqwest and tonic would each take their own default; one provider for both is chosen here, once.
    // An error means that it has been chosen already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let outcome = runtime.block_on(dispatch(arguments.command));
    // A Kafka call that hangs sits on a blocking thread; waiting for it would hang the exit too.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    let stderr = LogConfig { filter: "warn".to_owned(), format: LogFormat::Auto };
    match command {
        Command::Run(file) => {
            let config = file.load()?;
            logging::start(&config.log)?;
            run::run(config, signals::stop()).await
        }
        Command::Snapshot(arguments) => {
            let config = arguments.load()?;
            // On a terminal the log would run through the progress bar.
            let terminal = std::io::stderr().is_terminal();
            let filter = if terminal { stderr.filter } else { config.log.filter.clone() };
            logging::start(&LogConfig { filter, format: config.log.format })?;
            snapshot::execute(arguments, config, signals::stop()).await
        }
        Command::Demo(arguments) => {
            // A broker that has just been started makes librdkafka complain a little; what lasts, the status shows.
            let filter = "warn,librdkafka=off,rdkafka=off".to_owned();
            logging::start(&LogConfig { filter, ..stderr })?;
            demo::run(arguments, signals::stop()).await
        }
        Command::Simulate(arguments) => {
            logging::start(&LogConfig { filter: "info".to_owned(), ..stderr })?;
            simulate::run(arguments, signals::stop()).await
        }
        Command::Tail(arguments) => {
            logging::start(&stderr)?;
            tail::run(arguments, signals::stop()).await
        }
        Command::Checkpoint(arguments) => {
            logging::start(&stderr)?;
            checkpoint::run(arguments).await
        }
        Command::Gaps(arguments) => {
            logging::start(&stderr)?;
            gaps::run(arguments).await
        }
        Command::Reconcile(arguments) => {
            logging::start(&stderr)?;
            reconcile::run(arguments, signals::stop).await
        }
        Command::DeadLetters(arguments) => {
            logging::start(&stderr)?;
            dead_letters::run(arguments).await
        }
        Command::Config(arguments) => configuration::run(&arguments),
        Command::Keygen(arguments) => keygen::run(arguments),
        Command::Doctor(arguments) => {
            // What the clients complain about is what the findings say.
            logging::start(&LogConfig { filter: "off".to_owned(), ..stderr })?;
            doctor::run(arguments).await
        }
        Command::Health(arguments) => health::run(arguments).await,
        Command::Completions(arguments) => {
            manual::completions(&arguments);
            Ok(())
        }
        Command::Man(arguments) => manual::man(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The commands whose help has no example, by their whole names.
    fn without_example(command: &clap::Command, name: &str) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let example = help.split_once("Example").is_some_and(|(_, examples)| examples.contains(name));
        let mut found: Vec<String> = (!example).then(|| name.to_owned()).into_iter().collect();
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            found.extend(without_example(inner, &format!("{name} {}", inner.get_name())));
        }
        found
    }

    #[test]
    fn the_help_of_every_command_has_an_example_of_that_command() {
        assert_eq!(without_example(&Arguments::command(), "casewire"), Vec::<String>::new());
        let silent = clap::Command::new("casewire").subcommand(clap::Command::new("new").after_help("Example:\n  ls"));
        assert_eq!(without_example(&silent, "casewire"), ["casewire", "casewire new"]);
    }
}
