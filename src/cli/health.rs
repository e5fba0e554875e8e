//! `casewire health`: asks a running casewire whether it lives, where there is no curl to do so.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::error::HealthError;
use crate::cli::say;
use crate::failure::Failure;

/// Probes give up after some seconds themselves, and kill whoever asks then.
const ANSWER: Duration = Duration::from_secs(4);

/// Ask a running casewire whether it lives: the check of a container that has no curl.
///
/// Ends with 0 if it does, with 1 and the reasons if it does not, and with 69 if nobody answers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire health\n  casewire health --address 127.0.0.1:9000 --ready")]
pub struct HealthArguments {
    /// Where its admin port is reached.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8686")]
    address: SocketAddr,
    /// Ask whether it is ready (/ready) instead of whether it lives (/live).
    #[arg(long)]
    ready: bool,
}

/// Asks.
///
/// # Errors
/// The reasons that were answered, or that nobody answers.
pub async fn run(arguments: HealthArguments) -> Result<(), Failure> {
    let path = if arguments.ready { "ready" } else { "live" };
    let url = format!("http://{}/{path}", arguments.address);
    let silent =
        |error: reqwest::Error| HealthError::Silent { url: url.clone(), reason: error.without_url().to_string() };
    // A proxy has no business between two processes of one machine.
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().map_err(silent)?;
    let answer = http.get(&url).send().await.map_err(silent)?;
    if answer.status().is_success() {
        say(path);
        return Ok(());
    }
    let status = answer.status().to_string();
    let reasons = reasons(&answer.json().await.unwrap_or_default());
    Err(HealthError::Not { address: arguments.address, wanted: path, status, reasons }.into())
}

/// The reasons of an answer in one line.
fn reasons(answer: &Value) -> String {
    let text = |reason: &Value, name: &str| reason.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let reasons = answer.get("reasons").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let told: Vec<String> =
        reasons.iter().map(|reason| format!("{}: {}", text(reason, "part"), text(reason, "reason"))).collect();
    if told.is_empty() { "no reasons were given".to_owned() } else { told.join("; ") }
}
