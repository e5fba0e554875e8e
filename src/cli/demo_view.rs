//! What the demo shows: each record as a consumer reads it, in a line.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A value in a line is cut to this many characters.
const WIDTH: usize = 44;

/// A consumer that prints.
pub struct DemoView {
    stop: CancellationToken,
    task: JoinHandle<u64>,
}

/// Starts a consumer of every topic of the prefix. It cancels `seen_enough` when nobody reads any more what it prints.
pub fn start(bootstrap: String, prefix: String, seen_enough: CancellationToken) -> DemoView {
    // Of its own: what is committed while the demo ends is still shown.
    let stop = CancellationToken::new();
    let ends = stop.clone();
    let task = tokio::task::spawn_blocking(move || match follow(&bootstrap, &prefix, &ends, &seen_enough) {
        Ok(seen) => seen,
        Err(error) => {
            eprintln!("casewire: the demo's consumer failed: {error}");
            0
        }
    });
    DemoView { stop, task }
}

impl DemoView {
    /// Ends it; returns how many records it saw.
    pub async fn finish(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap_or_default()
    }
}

fn follow(
    bootstrap: &str,
    prefix: &str,
    stop: &CancellationToken,
    seen_enough: &CancellationToken,
) -> Result<u64, rdkafka::error::KafkaError> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "casewire-demo")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        // Entity topics appear while the demo runs.
        .set("topic.metadata.refresh.interval.ms", "1000")
        .create()?;
    let data = format!("^{}\\.([A-Za-z0-9_]+|dead-letters)$", prefix.replace('.', "\\."));
    consumer.subscribe(&[&data])?;
    let colour = std::io::stdout().is_terminal();
    let mut seen = 0;
    while !stop.is_cancelled() {
        // A topic that appears between two looks is an error of one poll, not of the demo.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            seen += 1;
            // Whoever closed the pipe.
            if writeln!(std::io::stdout(), "{}", line(&message, colour)).is_err() {
                seen_enough.cancel();
                break;
            }
        }
    }
    Ok(seen)
}

fn line(message: &BorrowedMessage<'_>, colour: bool) -> String {
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    let time = message.timestamp().to_millis().and_then(chrono::DateTime::from_timestamp_millis);
    let time = time.map(|time| time.format("%H:%M:%S%.3f").to_string()).unwrap_or_default();
    let op = header("op").unwrap_or_else(|| "entry".to_owned());
    let painted = match (colour, op.as_str()) {
        (false, _) => format!("{op:<8}"),
        (true, "create" | "undelete") => format!("\x1b[32m{op:<8}\x1b[0m"),
        (true, "delete") => format!("\x1b[31m{op:<8}\x1b[0m"),
        (true, "gap" | "entry") => format!("\x1b[33m{op:<8}\x1b[0m"),
        (true, _) => format!("\x1b[36m{op:<8}\x1b[0m"),
    };
    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
    let value: Option<Value> = message.payload().and_then(|payload| serde_json::from_slice(payload).ok());
    let told = value.as_ref().map(told).unwrap_or_default();
    format!("{time}  {:<28} {painted} {key:<18}  {told}", message.topic())
}

/// The few fields that tell what happened.
fn told(value: &Value) -> String {
    if let Some(cause) = value.get("cause").and_then(Value::as_str) {
        let detail = value.get("detail").and_then(Value::as_str).unwrap_or_default();
        return format!("{cause}: {detail}");
    }
    let Some(changed) = value.get("changed").and_then(Value::as_object) else { return String::new() };
    let wanted =
        ["CaseNumber", "Subject", "Status", "Priority", "Name", "OwnerId", "EndUserMessageCount", "AgentMessageCount"];
    let known = wanted.iter().filter_map(|name| changed.get_key_value(*name));
    let others =
        changed.iter().filter(|(name, _)| !wanted.contains(&name.as_str()) && !name.starts_with("LastModified"));
    let shown: Vec<String> = known
        .chain(others)
        .take(3)
        .map(|(name, value)| {
            let text = value.to_string();
            let cut: String = text.chars().take(WIDTH).collect();
            if cut.len() < text.len() { format!("{name}={cut}…") } else { format!("{name}={text}") }
        })
        .collect();
    shown.join("  ")
}
