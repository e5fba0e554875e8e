//! When records become visible for a `read_committed` reader.

use std::time::{Duration, Instant};

use clap::Args;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, consumer::BaseConsumer};
use serde_json::{Value, json};

use crate::{Failure, broker, clocks};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Ends so many seconds after the first record
    #[arg(long = "for", value_name = "SECONDS")]
    duration: Option<u64>,
    /// Ends when none has come for so many seconds after the first
    #[arg(long, value_name = "SECONDS")]
    until_quiet: Option<u64>,
    /// The topic is one of checkpoints: ends with the first that counts so many events
    #[arg(long)]
    events: Option<u64>,
    /// Seconds without a record after which it gives up
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// Gives when each record became visible and, where the record says so, of which event it is.
pub(crate) fn run(arguments: &Arguments) -> Result<Value, Failure> {
    let patience = Duration::from_secs(arguments.patience);
    let consumer = broker::reader(&arguments.bootstrap, &arguments.topic, patience)?;
    println!("{}", json!({"reads": arguments.topic}));
    let mut seen = Vec::new();
    let mut last = Instant::now();
    let mut first = None;
    loop {
        let Some(record) = next(&consumer)? else {
            let quiet = arguments.until_quiet.is_some_and(|seconds| last.elapsed() > Duration::from_secs(seconds));
            if quiet && !seen.is_empty() {
                return Ok(Value::Array(seen));
            }
            if last.elapsed() > patience {
                return Err(format!("no record of {} for {patience:?}, after {}", arguments.topic, seen.len()).into());
            }
            continue;
        };
        last = Instant::now();
        match arguments.events {
            None => seen.push(json!({"at": clocks::now(), "event_id": header(&record, "event_id")})),
            Some(wanted) => {
                let checkpoint: Value = serde_json::from_slice(record.payload().unwrap_or_default())?;
                let events = checkpoint.get("event_count").and_then(Value::as_u64).unwrap_or(0);
                seen.push(json!({"at": clocks::now(), "events": events}));
                if events >= wanted {
                    return Ok(Value::Array(seen));
                }
            }
        }
        let duration = arguments.duration.map(Duration::from_secs);
        if first.get_or_insert(last).elapsed() >= duration.unwrap_or(Duration::MAX) {
            return Ok(Value::Array(seen));
        }
    }
}

/// The next record, if one comes within a moment.
fn next(consumer: &BaseConsumer) -> Result<Option<BorrowedMessage<'_>>, Failure> {
    match consumer.poll(Duration::from_millis(200)) {
        None => Ok(None),
        Some(Err(error)) if broker::is_end(&error) => Ok(None),
        Some(record) => Ok(Some(record?)),
    }
}

fn header(record: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let value = record.headers()?.iter().find(|header| header.key == name)?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}
