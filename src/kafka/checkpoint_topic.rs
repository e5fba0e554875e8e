//! Reading a stream's checkpoint back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rdkafka::message::{BorrowedMessage, Message};

use crate::identity::{OrgId, TopicName};
use crate::kafka::checkpoint::{Checkpoint, StoredCheckpoint, Writer};
use crate::kafka::cluster::list_topics;
use crate::kafka::error::KafkaError;
use crate::kafka::scan::{Reader, blocking};
use crate::kafka::settings::KafkaSettings;
use crate::kafka::stream::{RunIdentity, StreamIdentity, org_of_checkpoint_topic};

/// How long a new instance may take from its fence to the checkpoint that carries its name.
const ANNOUNCEMENT: Duration = Duration::from_secs(15);

/// What a checkpoint topic holds.
#[derive(Debug, Default)]
pub(crate) struct CheckpointRead {
    /// The last checkpoint; `None` if there was none or it was taken away.
    pub latest: Option<StoredCheckpoint>,
    /// The highest number seen, so that numbers grow even after a checkpoint was taken away.
    pub highest_seq: u64,
    /// What the stream keeps beside the checkpoint: the newest value of each key.
    pub kept: BTreeMap<String, Bytes>,
}

/// The stream's last committed checkpoint, read without fencing its writer: for looking, and for standing by.
/// By the time it is looked at, a writer that lives may have committed another.
pub async fn read_checkpoint(
    settings: &KafkaSettings,
    identity: &StreamIdentity,
) -> Result<Option<StoredCheckpoint>, KafkaError> {
    identity.check()?;
    let (settings, identity) = (settings.clone(), identity.clone());
    blocking(move || {
        let reader = Reader::new(&settings)?;
        match reader.partitions(&identity.checkpoint_topic())? {
            None => Ok(None),
            Some(_) => read_partition(&reader, &identity, None).map(|read| read.latest),
        }
    })
    .await
}

/// Between one reader and the next.
const BETWEEN_READERS: Duration = Duration::from_millis(100);

/// How long one reader of [`read_up_to`] may find nothing new.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// The same for a topic that is known to exist, and up to an end that is known: called after the fence with the end that
/// the leader has acknowledged, this gives the last checkpoint that anybody before us could commit.
///
/// A reader that does not see that end asks a broker that is cut off from the others. Another one is made, which may hear
/// from another broker who leads, for as long as [`KafkaSettings::call_timeout`] lasts.
pub(crate) async fn read_up_to(
    settings: &KafkaSettings,
    identity: &StreamIdentity,
    end: i64,
) -> Result<CheckpointRead, KafkaError> {
    let deadline = Instant::now() + settings.call_timeout;
    let mut settings = settings.clone();
    settings.call_timeout = settings.call_timeout.min(READER_PATIENCE);
    let identity = identity.clone();
    blocking(move || {
        loop {
            match read_partition(&Reader::new(&settings)?, &identity, Some(end)) {
                Err(error @ KafkaError::Unavailable { .. }) if Instant::now() < deadline => {
                    tracing::warn!(error = %error, "checkpoint topic not read to its end yet, asking again");
                    thread::sleep(BETWEEN_READERS);
                }
                outcome => return outcome,
            }
        }
    })
    .await
}

/// Reads to `end`, or without one to the end that the partition's leader tells.
fn read_partition(reader: &Reader, identity: &StreamIdentity, end: Option<i64>) -> Result<CheckpointRead, KafkaError> {
    let (topic, key) = (identity.checkpoint_topic(), identity.checkpoint_key());
    let mut read = CheckpointRead::default();
    let told = reader.range(&topic, 0)?;
    let last = told.as_ref().map_or(0, |range| range.end);
    if let Some(end) = end.filter(|end| last < *end) {
        let reason = format!(
            "`{topic}` ends at offset {last} for the broker that answers, and at {end} for the one that takes writes: the \
             first is cut off from the others"
        );
        return Err(KafkaError::Unavailable { call: "reading the checkpoint", reason });
    }
    let Some(range) = told.map(|range| range.start..end.unwrap_or(range.end)) else { return Ok(read) };
    let mut records = 0_u64;
    let _: ControlFlow<()> = reader.read(&topic, 0, range.clone(), |message| {
        records += 1;
        if message.key() == Some(key.as_bytes()) {
            read.take(message)?;
        } else if let Some(kept) = message.key().filter(|key| StreamIdentity::keeps(key)) {
            read.keep(kept, message.payload());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // Many records mean that compaction does not run, and starts get slower for ever.
    tracing::info!(
        topic = %topic, low = range.start, high = range.end, records, seq = read.highest_seq, "checkpoint topic read"
    );
    Ok(read)
}

impl CheckpointRead {
    fn keep(&mut self, key: &[u8], value: Option<&[u8]>) {
        // A key of ours is text.
        let key = String::from_utf8_lossy(key).into_owned();
        match value {
            Some(value) => drop(self.kept.insert(key, Bytes::copy_from_slice(value))),
            None => drop(self.kept.remove(&key)),
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<(), KafkaError> {
        let Some(value) = message.payload() else {
            self.latest = None;
            return Ok(());
        };
        let at = || format!("offset {} of `{}`", message.offset(), message.topic());
        let checkpoint = Checkpoint::from_json(value).map_err(|error| match error {
            KafkaError::CheckpointInvalid { what } => {
                KafkaError::CheckpointInvalid { what: format!("{what}, at {}", at()) }
            }
            other => other,
        })?;
        if checkpoint.seq <= self.highest_seq {
            return Err(KafkaError::CheckpointInvalid {
                what: format!(
                    "Number {} follows number {} at {}: two writers without a fence between them, or a restored topic",
                    checkpoint.seq,
                    self.highest_seq,
                    at()
                ),
            });
        }
        self.highest_seq = checkpoint.seq;
        let timestamp = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
        self.latest = Some(StoredCheckpoint { checkpoint, offset: message.offset(), timestamp });
        Ok(())
    }
}

/// The other orgs that have a checkpoint topic for the same Salesforce topic under this prefix: a first run beside
/// one of those is more likely a wrong org than a new one.
pub async fn checkpoints_of_topic(
    settings: &KafkaSettings,
    prefix: &str,
    topic: &TopicName,
) -> Result<Vec<OrgId>, KafkaError> {
    let topics = list_topics(settings).await?;
    Ok(topics.iter().filter_map(|listed| org_of_checkpoint_topic(&listed.name, prefix, topic)).collect())
}

/// Why a writer was fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FencedBy {
    /// The brokers timed our own transaction out; nobody else has written. Open a new writer.
    OwnTimeout,
    /// Another instance has taken the stream over.
    Other {
        /// Which.
        writer: Writer,
        /// When it committed last.
        since: DateTime<Utc>,
    },
}

/// Finds out why a writer was fenced, by whose name the checkpoint carries.
///
/// A new instance commits a checkpoint under its own name right after its fence. A checkpoint that still carries our
/// name is therefore looked at again for a few seconds before it counts as proof that nobody came.
pub async fn who_fenced(
    settings: &KafkaSettings,
    identity: &StreamIdentity,
    run: &RunIdentity,
) -> Result<FencedBy, KafkaError> {
    const BETWEEN: Duration = Duration::from_millis(500);
    let until = tokio::time::Instant::now() + ANNOUNCEMENT;
    loop {
        if let Some(StoredCheckpoint { checkpoint, .. }) = read_checkpoint(settings, identity).await?
            && checkpoint.writer.run_id != run.run_id
        {
            return Ok(FencedBy::Other { writer: checkpoint.writer, since: checkpoint.committed_at });
        }
        if tokio::time::Instant::now() >= until {
            return Ok(FencedBy::OwnTimeout);
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
