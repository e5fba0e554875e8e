//! Reading committed records back, each partition up to the end that it had when asked.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::cluster::hear;
use crate::kafka::connection::ConnectionContext;
use crate::kafka::error::{Class, KafkaError, class_of_client, explain};
use crate::kafka::settings::{Isolation, KafkaSettings, create};

/// How often a reader looks whether it is at the end; control records wake it up without giving a message.
const POLL: Duration = Duration::from_millis(100);
const CALL: &str = "reading a topic back";

/// Where to begin in each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanFrom {
    /// At the first record whose Kafka timestamp is this or later.
    Timestamp(DateTime<Utc>),
    /// This many offsets before the end. Markers and aborted records count too, so fewer records may come.
    Tail(u64),
    /// At the oldest record there is.
    Beginning,
}

/// A committed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When it was produced.
    pub timestamp: Option<DateTime<Utc>>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers in order.
    pub headers: Vec<(String, Bytes)>,
}

impl ScannedRecord {
    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }
}

impl From<&BorrowedMessage<'_>> for ScannedRecord {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default()))
        };
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: message.headers().map(|headers| headers.iter().map(header).collect()).unwrap_or_default(),
        }
    }
}

/// Gives the committed records of a topic to `visit`, partition by partition, until it breaks off or the end that
/// each partition had at the start is reached. A topic that does not exist has no records.
///
/// Runs on a blocking thread. Fails if nothing comes for [`KafkaSettings::call_timeout`] before the end, which is
/// also what happens while a transaction stays open before it.
pub async fn scan(
    settings: &KafkaSettings,
    topic: &str,
    from: ScanFrom,
    visit: impl FnMut(&ScannedRecord) -> ControlFlow<()> + Send + 'static,
) -> Result<(), KafkaError> {
    let (settings, topic) = (settings.clone(), topic.to_owned());
    blocking(move || scan_blocking(&settings, &topic, from, visit)).await
}

fn scan_blocking(
    settings: &KafkaSettings,
    topic: &str,
    from: ScanFrom,
    mut visit: impl FnMut(&ScannedRecord) -> ControlFlow<()>,
) -> Result<(), KafkaError> {
    let reader = Reader::new(settings)?;
    let Some(partitions) = reader.partitions(topic)? else { return Ok(()) };
    for partition in partitions {
        let Some(range) = reader.range(topic, partition)? else { continue };
        let first = match from {
            ScanFrom::Beginning => range.start,
            ScanFrom::Tail(count) => {
                range.end.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX)).max(range.start)
            }
            ScanFrom::Timestamp(at) => match reader.offset_at(topic, partition, at)? {
                Some(offset) => offset,
                None => continue,
            },
        };
        let flow = reader.read(topic, partition, first..range.end, |message| Ok(visit(&message.into())))?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

/// Runs blocking work off the runtime. It is bounded by its own deadlines.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(KafkaError::Rebuild { call: CALL, reason: error.to_string() }))
}

/// Two clients: one that is asked where a partition truly ends, and one that reads only what is committed.
pub(crate) struct Reader {
    context: ConnectionContext,
    /// A `read_committed` client's "high watermark" is the last stable offset, which an open transaction holds back:
    /// reading up to that would look like the end and miss what is committed behind it.
    true_end: BaseConsumer<ConnectionContext>,
    committed: BaseConsumer<ConnectionContext>,
    patience: Duration,
}

impl Reader {
    pub fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let context = ConnectionContext::default();
        Ok(Self {
            true_end: create(&settings.consumer(Isolation::ReadUncommitted), context.clone())?,
            committed: create(&settings.consumer(Isolation::ReadCommitted), context.clone())?,
            context,
            patience: settings.call_timeout,
        })
    }

    /// The partitions of a topic, `None` if it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>, KafkaError> {
        let Some(metadata) = self.metadata(topic)? else { return Ok(None) };
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect()))
    }

    /// What the cluster says of a topic, `None` if it does not exist.
    pub fn metadata(&self, topic: &str) -> Result<Option<Metadata>, KafkaError> {
        let metadata = self.ask("asking for a topic", |timeout| self.true_end.fetch_metadata(Some(topic), timeout))?;
        let fault = metadata.topics().iter().find(|found| found.name() == topic).and_then(|found| found.error());
        match fault.map(RDKafkaErrorCode::from) {
            // No leader for one of the partitions: the topic exists.
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(Some(metadata)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => Err(self.explain(&ClientError::MetadataFetch(code))),
        }
    }

    /// What the cluster says of all topics that the principal may see.
    pub fn all_topics(&self) -> Result<Metadata, KafkaError> {
        self.ask("asking for the cluster's topics", |timeout| self.true_end.fetch_metadata(None, timeout))
    }

    /// From the oldest offset to the true end; `None` if the partition holds nothing.
    pub fn range(&self, topic: &str, partition: i32) -> Result<Option<std::ops::Range<i64>>, KafkaError> {
        let (low, high) = self.ask("asking for the end of a partition", |timeout| {
            self.true_end.fetch_watermarks(topic, partition, timeout)
        })?;
        Ok((low < high).then_some(low..high))
    }

    fn offset_at(&self, topic: &str, partition: i32, at: DateTime<Utc>) -> Result<Option<i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        asked
            .add_partition_offset(topic, partition, Offset::Offset(at.timestamp_millis().max(0)))
            .map_err(|error| self.explain(&error))?;
        let found = self.ask("asking for the offset of a time", |timeout| {
            self.true_end.offsets_for_times(asked.clone(), timeout)
        })?;
        let element = found.find_partition(topic, partition);
        Ok(element.and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Reads the committed records of a range of offsets.
    ///
    /// The end is where the reader's *position* says so: the last offset of a partition is usually a marker that is
    /// never delivered, and a wait that ends without a message means nothing.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        range: std::ops::Range<i64>,
        mut visit: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>, KafkaError>,
    ) -> Result<ControlFlow<()>, KafkaError> {
        if range.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        self.assign(topic, partition, range.start)?;
        let mut position = range.start;
        let mut moved = Instant::now();
        while position < range.end {
            if moved.elapsed() > self.patience {
                return Err(self.stuck(topic, partition, position, range.end));
            }
            match self.committed.poll(POLL) {
                None | Some(Err(ClientError::PartitionEOF(_))) => {}
                Some(Ok(message)) => {
                    if message.offset() < range.end && visit(&message)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                // Only a group's members need that permission, and this is none.
                Some(Err(ClientError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed))) => {}
                Some(Err(error)) if class_of_client(&error) == Class::Again => {
                    tracing::debug!(error = %error, topic, "read goes on after an error");
                }
                Some(Err(error)) => return Err(self.explain(&error)),
            }
            let now = self.position(topic, partition)?.unwrap_or(position);
            if now > position {
                (position, moved) = (now, Instant::now());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn assign(&self, topic: &str, partition: i32, from: i64) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.committed.assign(&assignment))
            .map_err(|error| self.explain(&error))
    }

    fn position(&self, topic: &str, partition: i32) -> Result<Option<i64>, KafkaError> {
        let positions = self.committed.position().map_err(|error| self.explain(&error))?;
        Ok(positions.find_partition(topic, partition).and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Nothing came for too long. The last stable offset tells an open transaction from a silent broker.
    fn stuck(&self, topic: &str, partition: i32, position: i64, end: i64) -> KafkaError {
        let stable = self.committed.fetch_watermarks(topic, partition, POLL * 10).map(|(_, stable)| stable);
        let reason = match stable {
            Ok(stable) if stable < end => {
                format!("`{topic}` partition {partition} ends at offset {end}, and at {stable} a transaction is open")
            }
            _ => format!("`{topic}` partition {partition} was read to offset {position} of {end}, then nothing came"),
        };
        KafkaError::Unavailable { call: CALL, reason }
    }

    fn explain(&self, error: &ClientError) -> KafkaError {
        explain(CALL, error, &self.context.connection)
    }

    /// Asks until there is an answer or patience ends: right after a topic was made, or while a leader moves, brokers
    /// answer with errors that pass.
    fn ask<T>(
        &self,
        call: &'static str,
        mut question: impl FnMut(Duration) -> Result<T, ClientError>,
    ) -> Result<T, KafkaError> {
        let deadline = Instant::now() + self.patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match question(left.min(Duration::from_secs(2))) {
                Ok(answer) => {
                    self.context.connection.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let passing = matches!(class_of_client(&error), Class::Again | Class::MissingTopic);
            if !passing || self.context.connection.refused().is_some() || Instant::now() >= deadline {
                return Err(explain(call, &error, &self.context.connection));
            }
            hear(&self.true_end);
        }
    }
}
