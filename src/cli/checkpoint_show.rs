//! `casewire checkpoint show`, and a position in words.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde_json::json;

use crate::cli::{ConfigFile, say};
use crate::config::Config;
use crate::failure::Failure;
use crate::identity::TopicName;
use crate::kafka::{
    KafkaError, KafkaSettings, StoredCheckpoint, StreamIdentity, checkpoints_of_topic, ping, read_checkpoint,
};
use crate::pipeline::context::position_time;
use crate::pipeline::settings;
use crate::position::{Anchor, Position};
use crate::status::RETENTION;

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this topic; all streams of the configuration otherwise.
    #[arg(long)]
    topic: Option<TopicName>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Prints where each stream stands.
///
/// # Errors
/// When Kafka cannot be asked.
pub async fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let kafka = reachable_kafka(&config).await?;
    let topics = match &arguments.topic {
        Some(topic) => vec![topic.clone()],
        None => config.streams.iter().map(|stream| stream.topic.clone()).collect(),
    };
    let mut found = Vec::new();
    for topic in topics {
        let orgs = checkpoints_of_topic(&kafka, &kafka.topic_prefix, &topic).await.map_err(failed)?;
        if orgs.is_empty() && !arguments.json {
            say(format_args!("{topic}: no checkpoint"));
        }
        for org in orgs {
            let identity = StreamIdentity { prefix: kafka.topic_prefix.clone(), org, topic: topic.clone() };
            let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
            match stored {
                Some(stored) if arguments.json => found.push(as_json(&identity, &stored)),
                Some(stored) => say(as_text(&identity, &stored)),
                None if arguments.json => {}
                None => say(format_args!("{topic} of {}: no checkpoint", identity.org)),
            }
        }
    }
    if arguments.json {
        say(format_args!("{:#}", json!(found)));
    }
    Ok(())
}

/// Kafka's settings, once a broker has answered. A command that somebody waits for says soon that none does;
/// only a service has the patience of `kafka.call_timeout`.
///
/// # Errors
/// When the settings cannot be used, or no broker answers.
pub async fn reachable_kafka(config: &Config) -> Result<KafkaSettings, Failure> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let kafka = settings::kafka(&config.kafka)?;
    let soon = KafkaSettings { call_timeout: kafka.call_timeout.min(PATIENCE), ..kafka.clone() };
    ping(&soon).await.map_err(failed)?;
    Ok(kafka)
}

fn as_json(identity: &StreamIdentity, stored: &StoredCheckpoint) -> serde_json::Value {
    json!({
        "org": identity.org,
        "topic": identity.topic,
        "checkpoint_topic": identity.checkpoint_topic(),
        "transactional_id": identity.transactional_id(),
        "offset": stored.offset,
        "seconds_until_data_loss": until_loss(&stored.checkpoint.position).map(|left| left.as_secs()),
        "checkpoint": stored.checkpoint,
    })
}

/// By this machine's clock, since Salesforce is not asked.
fn until_loss(position: &Position) -> Option<Duration> {
    let age = Utc::now() - position_time(position)?;
    Some((RETENTION - age).to_std().unwrap_or(Duration::ZERO))
}

fn as_text(identity: &StreamIdentity, stored: &StoredCheckpoint) -> String {
    let checkpoint = &stored.checkpoint;
    let left = match until_loss(&checkpoint.position) {
        None => "unknown".to_owned(),
        Some(Duration::ZERO) => "none: Salesforce no longer has what follows".to_owned(),
        Some(left) => format!("{} h {} min", left.as_secs() / 3600, left.as_secs() % 3600 / 60),
    };
    format!(
        "{} of {}\n  position      {}\n  until loss    {left}\n  transactions  {}\n  events        {}\n  \
         committed     {} by {} (run {}, casewire {})\n  stored in     {} at offset {}",
        identity.topic,
        identity.org,
        position_text(&checkpoint.position),
        checkpoint.seq,
        checkpoint.event_count,
        time_text(checkpoint.committed_at),
        checkpoint.writer.host,
        checkpoint.writer.run_id,
        checkpoint.writer.version,
        identity.checkpoint_topic(),
        stored.offset,
    )
}

/// A position in words.
pub fn position_text(position: &Position) -> String {
    let anchor = match position.anchor() {
        Anchor::After(id) => format!("after replay id {id}"),
        Anchor::Earliest { since } => format!("from the oldest retained event, decided {}", time_text(*since)),
        Anchor::Latest { since } => format!("from the tip, decided {}", time_text(*since)),
    };
    let time = position.time().map(|time| format!(", as of {}", time_text(time))).unwrap_or_default();
    match position.already().len() {
        0 => format!("{anchor}{time}"),
        1 => format!("{anchor}, 1 event beyond it taken{time}"),
        taken => format!("{anchor}, {taken} events beyond it taken{time}"),
    }
}

/// In the form that `--at` takes.
pub fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The failure of a command that Kafka did not do.
pub fn failed(error: KafkaError) -> Failure {
    error.failure()
}
