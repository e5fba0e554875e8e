//! `casewire tail`: decoded events as JSON lines. No Kafka, no checkpoint: to look, not to keep.

use std::io::Write;

use chrono::Utc;
use clap::{Args, ValueEnum};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::change::FieldPolicies;
use crate::cli::ConfigFile;
use crate::cli::error::TailError;
use crate::failure::Failure;
use crate::identity::{ReplayId, TopicName};
use crate::pipeline::policy_check;
use crate::pipeline::records::{EventSource, RecordWriter};
use crate::pipeline::schemas::{NoSchema, SchemaCache};
use crate::pipeline::settings;
use crate::position::{Anchor, Position};
use crate::salesforce::buffer::Buffer;
use crate::salesforce::intake::{Intake, ReceivedEvent};
use crate::salesforce::subscription::{self, Ended, SubscriptionSettings, SubscriptionState};
use crate::salesforce::verdict::CallError;

/// Print decoded events as JSON lines, without Kafka and without a checkpoint.
///
/// Each line is a record as `run` would write it, to stdout; an event that cannot be decoded is
/// reported on stderr. Events read here count against the org's daily delivery allocation.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  casewire tail --config casewire.toml --topic /data/CaseChangeEvent --start earliest | jq .changed"
)]
pub struct TailArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The Salesforce topic, whether or not the configuration has a stream of it.
    #[arg(long)]
    topic: TopicName,
    /// Where to begin.
    #[arg(long, value_enum, default_value_t = TailStart::Latest, conflicts_with = "after")]
    start: TailStart,
    /// Begin after this replay id, in hexadecimal.
    #[arg(long, value_name = "REPLAY-ID")]
    after: Option<ReplayId>,
    /// End after this many lines.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TailStart {
    Latest,
    Earliest,
}

/// Prints until `stop`, the limit, or a reader that closes the pipe.
///
/// # Errors
/// When Salesforce refuses what is asked for.
pub async fn run(arguments: TailArguments, stop: CancellationToken) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let pubsub = settings::salesforce(&config)?;
    let token = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        token = pubsub.session().token() => token.map_err(|error| error.failure())?,
    };
    let policies = settings::policies(&config.policies);
    policy_check::check(&policies, &pubsub).await.map_err(|error| error.failure())?;
    let since = Utc::now();
    let anchor = match (&arguments.after, arguments.start) {
        (Some(id), _) => Anchor::After(id.clone()),
        (None, TailStart::Earliest) => Anchor::Earliest { since },
        (None, TailStart::Latest) => Anchor::Latest { since },
    };
    let (sender, receiver) = mpsc::channel(64);
    let (state, _) = watch::channel(SubscriptionState::default());
    let cancel = stop.child_token();
    let _guard = cancel.clone().drop_guard();
    let subscription = tokio::spawn(subscription::run(
        pubsub.clone(),
        SubscriptionSettings {
            silence_limit: config.salesforce.pubsub.silence_limit,
            ..SubscriptionSettings::new(arguments.topic.clone(), 1)
        },
        Position::starting(anchor),
        Buffer::new(1_000, 16 << 20),
        sender,
        state,
        cancel.clone(),
    ));
    let prefix = config.kafka.topic_prefix.clone();
    let printer = Printer {
        schemas: SchemaCache::new(pubsub.clone()),
        writer: RecordWriter::new(token.org_id().clone(), arguments.topic.clone(), prefix, false)
            .limited_to(config.batch.max_event_bytes),
        policies,
        left: arguments.limit,
    };
    printer.print(receiver, &cancel).await?;
    cancel.cancel();
    match subscription.await {
        Ok(Ended::Cancelled | Ended::ReceiverGone) => Ok(()),
        Ok(Ended::Stopped(failure)) => Err(failure),
        Ok(Ended::Refused { replay_id, message }) => Err(TailError::Refused { replay_id, message }.into()),
        Err(error) => Err(TailError::Ended(error.to_string()).into()),
    }
}

struct Printer {
    schemas: SchemaCache,
    writer: RecordWriter,
    policies: FieldPolicies,
    left: Option<u64>,
}

impl Printer {
    async fn print(mut self, mut intake: mpsc::Receiver<Intake>, cancel: &CancellationToken) -> Result<(), Failure> {
        while let Some(intake) = intake.recv().await {
            let Intake::Batch(batch) = intake else { continue };
            for event in &batch.events {
                for line in self.lines(event, cancel).await? {
                    if self.left == Some(0) || !written(&line) {
                        return Ok(());
                    }
                    self.left = self.left.map(|left| left - 1);
                }
                if self.left == Some(0) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn lines(&mut self, event: &ReceivedEvent, cancel: &CancellationToken) -> Result<Vec<Vec<u8>>, Failure> {
        let waiting = |error: &CallError, _| eprintln!("casewire: waiting for a schema: {error}");
        let undecodable = |reason: String| {
            eprintln!("casewire: event {} cannot be decoded: {reason}", event.key);
            Ok(Vec::new())
        };
        let schema = match self.schemas.get(&event.schema_id, cancel, waiting).await {
            Ok(schema) => schema,
            Err(NoSchema::Undecodable(reason)) => return undecodable(reason),
            Err(NoSchema::Stop(failure)) => return Err(failure),
            Err(NoSchema::Cancelled) => return Ok(Vec::new()),
        };
        let change = match schema.decode(&event.payload, &self.policies) {
            Ok(change) => change,
            Err(error) => return undecodable(error.to_string()),
        };
        let source = EventSource {
            key: &event.key,
            event_id: &event.event_id,
            schema_id: &event.schema_id,
            schema_name: schema.name(),
        };
        match self.writer.write(source, &change) {
            Ok(written) => {
                if let Some(gap) = written.gap {
                    eprintln!("casewire: event {}: {}", event.key, gap.detail);
                }
                Ok(written.records.into_iter().filter_map(|record| record.value).map(Into::into).collect())
            }
            Err(error) => undecodable(error.to_string()),
        }
    }
}

/// Whether the line could be written; a closed pipe is an end, not an error.
fn written(line: &[u8]) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()).is_ok()
}
