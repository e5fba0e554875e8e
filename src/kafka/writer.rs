//! The transactional writer of one stream: the only thing that writes to its topics.
//!
//! Why nothing is lost or written twice:
//! 1. `init_transactions` ends the predecessor's open transaction and fences it, so nobody older can commit.
//! 2. The checkpoint is read up to the end that the partition has *after* the fence, so it is the newest committed one.
//!    That end is where a record of our own was acknowledged, not what a broker says: one that is cut off from the others
//!    does not know that it leads no longer, and shows readers a past in which the newest checkpoints are missing.
//! 3. If another instance takes over after that, what was read is stale but cannot be acted on: our next transaction
//!    fails.
//! 4. The checkpoint is part of the transaction of the records it speaks for: both become visible or neither.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::kafka::batch_size;
use crate::kafka::checkpoint::{Checkpoint, StoredCheckpoint, Writer};
use crate::kafka::checkpoint_topic;
use crate::kafka::connection::{Connection, WrittenTo};
use crate::kafka::error::KafkaError;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::stream::{RunIdentity, StreamIdentity};
use crate::kafka::topic_findings::Severity;
use crate::kafka::topics::{TopicRole, ensure_topic};
use crate::kafka::transaction::{Batches, Command, ProducerThread, Transaction, checkpoint_too_large};

/// How much longer than its own deadline the producer's thread may take before it counts as stalled. After the deadline it
/// looks for the cause: a topic that is gone, replicas, settings, each for two or three seconds, and then aborts.
const WATCHDOG_GRACE: Duration = Duration::from_secs(15);

/// One record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// The Kafka topic.
    pub topic: Arc<str>,
    /// The key; equal keys keep their order.
    pub key: Bytes,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(&'static str, Bytes)>,
}

impl OutputRecord {
    /// Key, value and headers in bytes with what a record batch adds at most.
    pub fn size(&self) -> usize {
        // Offset, timestamp, lengths and attributes of a record, and the head of the batch around it.
        const OVERHEAD: usize = 36 + 61;
        const HEADER_OVERHEAD: usize = 10;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD).sum();
        OVERHEAD + self.key.len() + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Proof that a transaction is committed. Only this room can make one.
#[derive(Debug, Clone)]
pub struct Committed {
    seq: u64,
    records: usize,
    duration: Duration,
    checkpoint: Checkpoint,
}

impl Committed {
    /// The number of the checkpoint.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many records the transaction held beside the checkpoint.
    pub fn records(&self) -> usize {
        self.records
    }

    /// From begin to committed.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The checkpoint as it was written.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// The writer of one stream. Dropping it leaves an open transaction to the next writer's fence.
#[derive(Debug)]
pub struct TransactionalWriter {
    thread: ProducerThread,
    settings: Arc<KafkaSettings>,
    writer: Writer,
    /// The checkpoint topic's name and the checkpoint's key.
    checkpoint_topic: Arc<str>,
    checkpoint_key: Bytes,
    seq: u64,
    usable: bool,
    /// What the stream keeps beside its checkpoint, as it was found.
    kept: BTreeMap<String, Bytes>,
}

impl TransactionalWriter {
    /// Fences every older writer of the stream, then reads where it stood. `None`: there is no checkpoint.
    ///
    /// Takes at most five times [`KafkaSettings::call_timeout`]: the fence, the checkpoint topic's check or
    /// creation, its end and the read each have it, and a transaction that the predecessor left ends within it. Before that
    /// the topics are asked for two seconds at most how large batches may be.
    pub async fn open(
        settings: &KafkaSettings,
        identity: &StreamIdentity,
        run: &RunIdentity,
    ) -> Result<(Self, Option<StoredCheckpoint>), KafkaError> {
        Self::open_after(settings, identity, run, Arc::default()).await
    }

    /// The same for a process that has had writers of this stream, and knows where they have written to.
    pub async fn open_after(
        settings: &KafkaSettings,
        identity: &StreamIdentity,
        run: &RunIdentity,
        written_to: Arc<WrittenTo>,
    ) -> Result<(Self, Option<StoredCheckpoint>), KafkaError> {
        identity.check()?;
        let batches = if batch_size::is_set(settings) { Batches::Set } else { Batches::Fitted };
        let settings = Arc::new(batch_size::fitted(settings).await);
        let thread = ProducerThread::spawn(&settings, identity.transactional_id(), batches, written_to)?;
        let fenced = Instant::now();
        call(&thread, settings.call_timeout, |reply| Command::Fence { reply }).await?;
        tracing::info!(transactional_id = %identity.transactional_id(), took = ?fenced.elapsed(), "fenced older producers");

        let topic = identity.checkpoint_topic();
        let report = ensure_topic(&settings, &topic, TopicRole::Checkpoints).await?;
        for finding in report.findings {
            match finding.severity {
                Severity::Refusal => {
                    return Err(KafkaError::Topic { topic, what: finding.what, remedy: finding.remedy });
                }
                Severity::Warning => tracing::warn!(topic = %topic, finding = %finding.what, "checkpoint topic"),
            }
        }
        // Not the checkpoint's key, for those who read what is not committed.
        let probe = OutputRecord {
            topic: topic.as_str().into(),
            key: Bytes::from_static(b"end"),
            value: Some(Bytes::new()),
            headers: Vec::new(),
        };
        let end = call(&thread, settings.call_timeout, |reply| Command::FindEnd { probe, reply }).await?;
        let read = checkpoint_topic::read_up_to(&settings, identity, end).await?;
        let writer = Self {
            thread,
            settings,
            writer: Writer::from(run),
            checkpoint_topic: topic.into(),
            checkpoint_key: identity.checkpoint_key().into(),
            seq: read.highest_seq,
            usable: true,
            kept: read.kept,
        };
        Ok((writer, read.latest))
    }

    /// Writes the records, then the checkpoint, and commits both.
    ///
    /// Sets the checkpoint's number, writer and time. No transaction is begun before every record's size is
    /// known to fit, so [`KafkaError::TooLarge`] usually leaves the writer usable; after any other error it is
    /// not. Returns within [`KafkaSettings::call_timeout`] and fifteen seconds.
    pub async fn commit(
        &mut self,
        records: Vec<OutputRecord>,
        mut checkpoint: Checkpoint,
    ) -> Result<Committed, KafkaError> {
        checkpoint.seq = self.seq.saturating_add(1);
        checkpoint.writer = self.writer.clone();
        checkpoint.committed_at = chrono::Utc::now();
        let value = Bytes::from(checkpoint.to_json()?);
        let count = records.len();
        let duration = self.write(records, Some(value)).await?;
        self.seq = checkpoint.seq;
        Ok(Committed { seq: checkpoint.seq, records: count, duration, checkpoint })
    }

    /// Writes the records and takes the checkpoint away, in one transaction. The next start is a first run.
    pub async fn erase(&mut self, records: Vec<OutputRecord>) -> Result<(), KafkaError> {
        self.write(records, None).await.map(|_| ())
    }

    async fn write(
        &mut self,
        mut records: Vec<OutputRecord>,
        checkpoint: Option<Bytes>,
    ) -> Result<Duration, KafkaError> {
        if !self.usable {
            let reason = "an earlier call failed or was given up; its outcome is in the checkpoint topic".to_owned();
            return Err(KafkaError::Rebuild { call: "committing", reason });
        }
        records.push(OutputRecord {
            topic: Arc::clone(&self.checkpoint_topic),
            key: self.checkpoint_key.clone(),
            value: checkpoint,
            headers: Vec::new(),
        });
        self.check_sizes(&records)?;
        // Not usable until the outcome is known: this future may be dropped while the thread commits.
        self.usable = false;
        let duration = call(&self.thread, self.settings.call_timeout, |reply| Command::Commit {
            transaction: Transaction { records },
            reply,
        })
        .await?;
        self.usable = true;
        Ok(duration)
    }

    /// Refuses what is known not to fit, before a transaction is begun for it.
    fn check_sizes(&self, records: &[OutputRecord]) -> Result<(), KafkaError> {
        // A topic's own limit counts compressed bytes, which only its brokers know: they are asked by sending.
        let limit = self.settings.record_limit();
        for (index, record) in records.iter().enumerate() {
            let size = record.size();
            if size > limit && index + 1 == records.len() {
                return Err(checkpoint_too_large(record));
            }
            if size > limit {
                return Err(KafkaError::TooLarge { index, topic: record.topic.to_string(), size, limit });
            }
        }
        Ok(())
    }

    /// What the stream keeps in its checkpoint topic beside the checkpoint, as it was when this writer was opened, by key;
    /// read to the same proven end. Given once.
    pub fn take_kept(&mut self) -> BTreeMap<String, Bytes> {
        std::mem::take(&mut self.kept)
    }

    /// The same of what is kept under keys that begin with `prefix`; the rest is left to [`take_kept`](Self::take_kept).
    pub fn take_kept_under(&mut self, prefix: &str) -> BTreeMap<String, Bytes> {
        let all = std::mem::take(&mut self.kept);
        let (wanted, rest) = all.into_iter().partition(|(key, _)| key.starts_with(prefix));
        self.kept = rest;
        wanted
    }

    /// Whether [`commit`](Self::commit) can succeed. Once false, it stays so: open a new writer.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// The number of the last checkpoint that was read or committed; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What the producer knows about its connection.
    pub fn connection(&self) -> Arc<Connection> {
        self.thread.connection()
    }

    /// Ends the producer and waits for its thread, for at most [`KafkaSettings::call_timeout`] and fifteen seconds.
    pub async fn close(self) -> Result<(), KafkaError> {
        call(&self.thread, self.settings.call_timeout, |reply| Command::Close { reply }).await
    }
}

/// Hands a command to the producer's thread and waits for the answer, longer than the thread may take but not for ever.
pub(super) async fn call<T>(
    thread: &ProducerThread,
    timeout: Duration,
    command: impl FnOnce(oneshot::Sender<Result<T, KafkaError>>) -> Command,
) -> Result<T, KafkaError> {
    let started = Instant::now();
    let (reply, answer) = oneshot::channel();
    thread.send(command(reply))?;
    match tokio::time::timeout(timeout.saturating_add(WATCHDOG_GRACE), answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(thread.gone()),
        Err(_) => Err(KafkaError::Stalled { call: thread.current_call(), after: started.elapsed() }),
    }
}
